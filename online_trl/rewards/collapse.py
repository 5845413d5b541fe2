"""
Notices when refresh upon refresh has worn a reward model out, so that a restart from the initial model is due.

What is looked at is measured on every candidate alike: how right it is about the audit set, and how far its raw scores
of the anchors spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Audit:
    """
    What was measured on one candidate.

    Args:
        version (`str`):
            Its name.
        score (`float`):
            How right it is about the audit set, in [0, 1]; NaN if the set is empty.
        statements (`float`):
            How many statements the audit set held.
        spread (`float`):
            Standard deviation of its raw scores of the anchors.
    """

    version: str
    score: float
    statements: float
    spread: float


def find_collapse(
    history: Sequence[Audit], *, noise: float = 3.0, min_spread_ratio: float = 0.25, min_statements: int = 20
) -> str | None:
    """
    Says whether the newest candidate of a line has collapsed.

    Args:
        history (`Sequence[Audit]`):
            The candidates of one line, oldest first. A line begins anew with a restart, and where people changed what
            they want, since they then judge by something else.
        noise (`float`, *optional*, defaults to `3.0`):
            The score has fallen if it lies below the best of the line by more than so many standard errors of the
            difference.
        min_spread_ratio (`float`, *optional*, defaults to `0.25`):
            Smallest spread, as a multiple of that of the first of the line.
        min_statements (`int`, *optional*, defaults to `20`):
            A score of fewer statements says nothing.

    Returns:
        `str` or `None`: What has collapsed, in words; `None` if nothing has.
    """
    if len(history) < 2:
        return None
    newest, first = history[-1], history[0]
    if not newest.spread >= min_spread_ratio * first.spread:
        return (
            f"the scores of {newest.version} spread by {newest.spread:.2g} on the anchors, below {min_spread_ratio:g} "
            f"times the {first.spread:.2g} of {first.version}"
        )
    scored = [audit for audit in history if audit.statements >= min_statements and not math.isnan(audit.score)]
    if not scored or scored[-1] is not newest:
        return None
    best = max(scored, key=lambda audit: audit.score)
    slack = noise * math.hypot(_standard_error(best), _standard_error(newest))
    if best.score - newest.score <= slack:
        return None
    return (
        f"{newest.version} is right about {newest.score:.2f} of the audit set, {best.version} was about "
        f"{best.score:.2f}: a fall of more than the {slack:.2f} that noise explains"
    )


def _standard_error(audit: Audit) -> float:
    """Of a share, with one success and one failure more: nobody is right about everything for certain."""
    share = (audit.score * audit.statements + 1) / (audit.statements + 2)
    return math.sqrt(share * (1 - share) / audit.statements)
