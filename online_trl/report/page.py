"""The page that people look at: one file without scripts that loads nothing."""

from __future__ import annotations

import math
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..types import Estimate, RewardRefresh
from . import charts
from .charts import Chart, Mark
from .result import RunReport, interval, number

_KINDS = {
    "binary": "thumbs",
    "rating": "ratings",
    "comparison": "comparisons of two",
    "ranking": "rankings",
    "correction": "corrections",
    "implicit": "implicit signals",
}

_DRAW = Estimate(0.5, 0.5, 0.5, 0)
"""What the base would reach against itself."""
_UNKNOWN = Estimate(math.nan, 0.0, 1.0, 0)


def write_html(report: RunReport, path: str | Path) -> None:
    """
    Writes the report as one self-contained page.

    Args:
        report ([`RunReport`]):
            The run.
        path (`str` or `Path`):
            The file, such as `report.html`.
    """
    # What users wrote is shown on the page, so everything is escaped, and the template marks nothing as safe.
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "sentence": _sentence, "numeral": _numeral}
    calibrated = _newest_calibrated(report)
    page = environment.get_template("page.html.j2").render(
        report=report,
        duration=_duration(report.seconds),
        frame=charts,
        satisfaction=_satisfaction_chart(report),
        win_rate=_win_rate_chart(report),
        kl=_plain_chart(report, [row.kl for row in report.versions], "nats"),
        length=_plain_chart(report, [row.length for row in report.versions], "words"),
        accuracy=_accuracy_chart(report),
        calibrated=calibrated,
        reliability=charts.reliability_chart(calibrated.reliability) if calibrated is not None else None,
        feedback=_feedback_bars(report),
        figures=list(dict.fromkeys(name for row in report.evaluations for name in row.figures)),
        any_refused=any(not row.decision.accepted for row in report.decisions),
    )
    Path(path).write_text(page, encoding="utf-8")


def _satisfaction_chart(report: RunReport) -> Chart:
    marks = [_mark(report, index, row.satisfaction) for index, row in enumerate(report.versions)]
    base = report.base.satisfaction
    return charts.chart(marks, domain=(0.0, 1.0), band=(base.low, base.high) if base.n else None)


def _win_rate_chart(report: RunReport) -> Chart:
    marks = [
        _mark(report, index, _DRAW if row is report.base else row.win_rate_vs_base or _UNKNOWN)
        for index, row in enumerate(report.versions)
    ]
    return charts.chart(marks, domain=(0.0, 1.0), reference=0.5)


def _plain_chart(report: RunReport, values: list[float], unit: str) -> Chart:
    marks = [
        Mark(
            label=_label(report, index),
            value=value,
            title=f"{row.policy_version}: {number(value, 1)} {unit}",
            accepted=report.status(row.policy_version) != "refused",
        )
        for index, (row, value) in enumerate(zip(report.versions, values, strict=True))
    ]
    return charts.chart(marks, decimals=1)


def _accuracy_chart(report: RunReport) -> Chart:
    marks = [
        Mark(
            label=_numeral(row.version),
            note=f"n {row.accuracy.n}",
            title=f"{row.version}: {_described(row.accuracy)}",
            value=row.accuracy.mean,
            interval=(row.accuracy.low, row.accuracy.high),
            accepted=row.decision.accepted,
        )
        for row in report.reward_history
    ]
    return charts.chart(marks, domain=(0.0, 1.0), reference=0.5)


def _newest_calibrated(report: RunReport) -> RewardRefresh | None:
    """The newest reward version in service of which it is known how sure and how right it was."""
    known = [row for row in report.reward_history if row.decision.accepted and row.reliability]
    return known[-1] if known else None


def _feedback_bars(report: RunReport) -> list[tuple[str, int, float]]:
    """Name, number and length in percent of each kind of feedback, most frequent first."""
    most = max([1, *report.feedback_by_kind.values()])
    rows = sorted(report.feedback_by_kind.items(), key=lambda row: -row[1])
    return [(_KINDS.get(kind, kind), count, round(100 * count / most, 1)) for kind, count in rows]


def _mark(report: RunReport, index: int, estimate: Estimate) -> Mark:
    name = report.versions[index].policy_version
    return Mark(
        label=_label(report, index),
        note="" if estimate is _DRAW else f"n {estimate.n}",
        title=f"{name}: {_described(estimate)}",
        value=estimate.mean,
        interval=(estimate.low, estimate.high) if estimate.n else None,
        accepted=report.status(name) != "refused",
    )


def _described(estimate: Estimate) -> str:
    return f"{number(estimate.mean)}, 95 % interval {interval(estimate)}, {estimate.n} judgements"


def _label(report: RunReport, index: int) -> str:
    return _numeral(report.versions[index].policy_version) if index else "base"


def _numeral(name: str) -> str:
    """The number in a version's name, which is what fits below a mark."""
    return name.rpartition("-")[2]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
