"""What every gate ends with."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import GateCheck, GateDecision


def decide(checks: Sequence[tuple[GateCheck, str]], summary: str) -> GateDecision:
    """Accepts with the summary if every check passed, else refuses with what each failed one says."""
    failures = [failure for check, failure in checks if not check.passed]
    reason = f"refused: {'; '.join(failures)}" if failures else f"accepted: {summary}"
    return GateDecision(not failures, reason, tuple(check for check, _ in checks))
