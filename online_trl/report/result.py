"""The outcome of a run as JSON and as a table in the terminal."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluation_records import plain_evaluation, plain_values
from ..types import Estimate, VersionEvaluation
from .record import RunReport


def write_json(report: RunReport, path: str | Path) -> None:
    """
    Writes the numbers of a run as JSON. What was not measured is `null`.

    Args:
        report ([`RunReport`]):
            The run.
        path (`str` or `Path`):
            The file, such as `result.json`.
    """
    Path(path).write_text(
        json.dumps(plain_report(report), indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8"
    )


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


def plain_report(report: RunReport) -> dict[str, Any]:
    """
    Returns the numbers of a report as plain values. What was not measured is `None`.

    Args:
        report ([`RunReport`]):
            The report.
    """
    content = {
        "trainer": report.trainer,
        "seed": report.seed,
        "seconds": report.seconds,
        "headline": report.headline,
        "in_service": report.live.policy_version,
        "versions": [_version(report, row) for row in report.versions],
        "decisions": [asdict(row) for row in report.decisions],
        "events": [asdict(row) for row in report.events],
        "canary": asdict(report.canary) if report.canary else None,
        "satisfaction_over_log": {name: [asdict(look) for look in looks] for name, looks in report.looks.items()},
        "win_rates": [
            {"version": name, "against": other, **asdict(estimate)}
            for (name, other), estimate in report.win_rates.items()
        ],
        "reward_history": [asdict(row) for row in report.reward_history],
        "feedback_by_kind": dict(report.feedback_by_kind),
        "feedback_origin": asdict(report.origin),
        "feedback_to_service_seconds": asdict(report.delay) if report.delay else None,
        "samples": [asdict(row) for row in report.samples],
        "evaluations": [plain_evaluation(row) for row in report.evaluations],
        "lineage": [asdict(row) for row in report.lineage],
        "loop": asdict(report.loop) if report.loop else None,
        "latest_seq": report.latest_seq,
        "gathered_at": report.gathered_at,
    }
    plain: dict[str, Any] = plain_values(content)
    return plain


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
        "chats": asdict(row.chats) if row.chats else None,
    }
