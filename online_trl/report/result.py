"""What came out of a run, as a record, as JSON and as a table in the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluation_records import plain_evaluation
from ..types import Estimate, PolicyDecision, PolicyEvaluation, RewardRefresh, Sample, VersionEvaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """
    What came out of a run.

    Args:
        trainer (`str`):
            Name of the trainer, such as `grpo`.
        seed (`int`):
            Seed of the run.
        seconds (`float`):
            How long it took.
        versions (`tuple[VersionEvaluation, ...]`):
            Every policy version that was measured, the base first.
        decisions (`tuple[PolicyDecision, ...]`):
            What the promotion gate said of each candidate, in order.
        reward_history (`tuple[RewardRefresh, ...]`):
            Every refresh of the reward model, in order.
        feedback_by_kind (`Mapping[str, int]`):
            How many feedback rows of each kind the log holds.
        samples (`tuple[Sample, ...]`):
            Prompts with the answers of two versions.
        evaluations (`tuple[PolicyEvaluation, ...]`):
            What an evaluator measured of the candidates, in order.

    Raises:
        `ValueError`: if no version was measured.
    """

    trainer: str
    seed: int
    seconds: float
    versions: tuple[VersionEvaluation, ...]
    decisions: tuple[PolicyDecision, ...] = ()
    reward_history: tuple[RewardRefresh, ...] = ()
    feedback_by_kind: Mapping[str, int]
    samples: tuple[Sample, ...] = ()
    evaluations: tuple[PolicyEvaluation, ...] = ()

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("a report needs at least one measured version, the base")

    @property
    def base(self) -> VersionEvaluation:
        """The version that the run started from."""
        return self.versions[0]

    @property
    def live(self) -> VersionEvaluation:
        """The version in service at the end: the last one that was promoted, or the base."""
        promoted = {row.version for row in self.decisions if row.decision.accepted}
        return next((row for row in reversed(self.versions) if row.policy_version in promoted), self.base)

    def status(self, policy_version: str) -> str:
        """Returns what became of a version: `base`, `promoted` or `refused`, or `candidate` before a decision."""
        if policy_version == self.base.policy_version:
            return "base"
        verdicts = [row.decision.accepted for row in self.decisions if row.version == policy_version]
        if not verdicts:
            return "candidate"
        return "promoted" if verdicts[-1] else "refused"

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        before, after = self.base.satisfaction, self.live.satisfaction
        if before.n == 0 or after.n == 0:
            return f"{self.live.policy_version} is in service; too little was judged to say more."
        if self.live is self.base:
            return (
                f"{self.base.policy_version} stays in service, satisfaction {before.mean:.2f}; no other was promoted."
            )
        apart = after.low > before.high or after.high < before.low
        return (
            f"Satisfaction {'rose' if after.mean > before.mean else 'went'} from {before.mean:.2f} to {after.mean:.2f}"
            + (", and the 95 % intervals do not overlap." if apart else ", but the 95 % intervals overlap.")
        )


def write_json(report: RunReport, path: str | Path) -> None:
    """
    Writes the numbers of a run as JSON. What was not measured is `null`.

    Args:
        report ([`RunReport`]):
            The run.
        path (`str` or `Path`):
            The file, such as `result.json`.
    """
    Path(path).write_text(json.dumps(_json(report), indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def console_table(report: RunReport) -> Table:
    """
    Returns a table with one row per policy version.

    Args:
        report ([`RunReport`]):
            The run.
    """
    # Narrow enough for a terminal of 80 columns.
    table = Table(title="Policy versions", caption=report.headline, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Version", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    headings = ("Satisfaction,\n95 % interval", "n", "Win rate\nvs base", "KL,\nnats", "Reward\naccuracy")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.versions:
        cells = (
            row.policy_version,
            report.status(row.policy_version),
            f"{number(row.satisfaction.mean)} ({number(row.satisfaction.low)}–{number(row.satisfaction.high)})",
            str(row.satisfaction.n),
            number(_win_rate_vs_base(report, row)),
            number(row.kl, 1),
            number(row.reward_accuracy.mean if row.reward_accuracy else None),
        )
        table.add_row(*map(Text, cells))
    return table


def number(value: float | None, decimals: int = 2) -> str:
    """Returns a number as text, a dash if it was not measured."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}".replace("-", "−")


def interval(estimate: Estimate | None) -> str:
    """Returns the interval of an estimate as text."""
    return "–" if estimate is None else f"{number(estimate.low)} to {number(estimate.high)}"


def _win_rate_vs_base(report: RunReport, row: VersionEvaluation) -> float | None:
    if row is report.base:
        return 0.5
    return row.win_rate_vs_base.mean if row.win_rate_vs_base else None


def _json(report: RunReport) -> dict[str, Any]:
    content = {
        "trainer": report.trainer,
        "seed": report.seed,
        "seconds": report.seconds,
        "headline": report.headline,
        "versions": [_version(report, row) for row in report.versions],
        "decisions": [asdict(row) for row in report.decisions],
        "reward_history": [asdict(row) for row in report.reward_history],
        "feedback_by_kind": dict(report.feedback_by_kind),
        "samples": [asdict(row) for row in report.samples],
        "evaluations": [plain_evaluation(row) for row in report.evaluations],
    }
    measured: dict[str, Any] = _null_for_unmeasured(content)
    return measured


def _version(report: RunReport, row: VersionEvaluation) -> dict[str, Any]:
    return {
        "policy_version": row.policy_version,
        "status": report.status(row.policy_version),
        "satisfaction": asdict(row.satisfaction),
        "win_rate_vs_base": _win_rate_vs_base(report, row),
        "win_rate_vs_base_interval": asdict(row.win_rate_vs_base) if row.win_rate_vs_base else None,
        "win_rate_vs_live": asdict(row.win_rate_vs_live) if row.win_rate_vs_live else None,
        "kl": row.kl,
        "length": row.length,
        "reward_accuracy": row.reward_accuracy.mean if row.reward_accuracy else None,
        "reward_accuracy_interval": asdict(row.reward_accuracy) if row.reward_accuracy else None,
        "reward_versions": list(row.reward_versions),
    }


def _null_for_unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_unmeasured(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_null_for_unmeasured(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
