"""The page that people look at: one file without scripts that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import lru_cache, partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..types import Estimate, RewardRefresh
from . import charts
from .charts import Chart, Flag, LogChart, Mark
from .record import Look, RunReport
from .result import interval, number

REFRESH_SECONDS = 30
"""How often a dashboard that is looked at renews itself."""

_EVALUATED, _NEWEST = 4, 8

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
    Path(path).write_text(_page(report, is_live=False), encoding="utf-8")


def dashboard_html(report: RunReport, *, before: str, after: str, lineage_of: str) -> str:
    """
    Returns the report as a page that renews itself and lets people choose what is compared.

    Args:
        report ([`RunReport`]):
            What there is to tell.
        before (`str`), after (`str`), lineage_of (`str`):
            The versions chosen: whose answers stand side by side, and whose lineage is told.
    """
    return _page(report, is_live=True, before=before, after=after, lineage_of=lineage_of)


def _page(report: RunReport, *, is_live: bool, **chosen: str) -> str:
    calibrated = _newest_calibrated(report)
    newest = [row.policy_version for row in report.versions[-_NEWEST:]]
    shown = {report.base.policy_version, report.live.policy_version, *newest}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            is_live=is_live,
            short=partial(_short, report),
            chosen=chosen,
            chosen_from=_choices(report),
            refresh_seconds=REFRESH_SECONDS,
            facts=_facts(report),
            shown=[row for row in report.versions if row.policy_version in shown],
            earlier=[row for row in report.versions if row.policy_version not in shown],
            frame=charts,
            is_judged=any(row.satisfaction.n for row in report.versions),
            satisfaction=_satisfaction_chart(report),
            win_rate=_win_rate_chart(report),
            over_log=_over_log_chart(report),
            compared=list(dict.fromkeys(other for _, other in report.win_rates)),
            kl=_plain_chart(report, [row.kl for row in report.versions], "nats"),
            length=_plain_chart(report, [row.length for row in report.versions], "words"),
            accuracy=_accuracy_chart(report),
            trend=_trend_chart(report),
            calibrated=calibrated,
            reliability=charts.reliability_chart(calibrated.reliability) if calibrated is not None else None,
            feedback=_feedback_bars(report),
            figures=list(dict.fromkeys(name for row in report.evaluations[-_EVALUATED:] for name in row.figures)),
            evaluations=report.evaluations[-_EVALUATED:],
            any_refused=any(not report.was_accepted(row.policy_version) for row in report.versions),
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # What users wrote is shown on the page, so everything is escaped, and the template marks nothing as safe.
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "sentence": _sentence,
        "duration": duration,
        "minute": _minute,
    }
    return environment


def _choices(report: RunReport) -> dict[str, list[str]]:
    policies = [row.policy_version for row in report.versions]
    return {
        "before": policies,
        "after": policies,
        "lineage": [*policies, *(row.version for row in report.reward_history)],
    }


def _facts(report: RunReport) -> str:
    read = f"{report.latest_seq:,} rows of the log, read {_minute(report.gathered_at)}"
    if report.trainer is None:
        return read
    assert report.seconds is not None
    return f"trainer {report.trainer}, seed {report.seed}, {duration(report.seconds)}; {read}"


def _over_log_chart(report: RunReport) -> LogChart:
    series = [
        [
            (
                look.at,
                Mark(
                    label=_short(report, name),
                    title=f"{name} at row {look.at:,}: {_described(look.estimate)}",
                    value=look.estimate.mean,
                    interval=(look.estimate.low, look.estimate.high),
                    accepted=report.was_accepted(name),
                ),
            )
            for look in _telling(looks)
        ]
        for name, looks in report.looks.items()
    ]
    signs = {"promoted": "↑", "back in service": "↩"}
    flags = [
        Flag(
            event.row,
            f"{signs[event.what]}{_short(report, event.version)}",
            f"{event.version} {event.what}: {event.reason}",
        )
        for event in report.events
        if event.what in signs and event.row
    ]
    return charts.log_chart(series, end=report.latest_seq, flags=flags)


def _trend_chart(report: RunReport) -> LogChart | None:
    """How the reward model that an evaluator looked at last does on each stretch of the feedback."""
    known = [row for row in report.evaluations if row.accuracy_over_feedback]
    if not known:
        return None
    marks = [
        (
            int(point.at.rpartition("-")[2]),
            Mark(
                label="",
                title=f"rows {point.at}: {_described(point.accuracy)}",
                value=point.accuracy.mean,
                interval=(point.accuracy.low, point.accuracy.high),
            ),
        )
        for point in known[-1].accuracy_over_feedback
    ]
    return charts.log_chart([marks], end=max(report.latest_seq, *(at for at, _ in marks)), reference=0.5)


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
            label=_short(report, row.policy_version),
            value=value,
            title=f"{row.policy_version}: {number(value, 1)} {unit}",
            accepted=report.was_accepted(row.policy_version),
        )
        for row, value in zip(report.versions, values, strict=True)
    ]
    return charts.chart(marks, decimals=1)


def _accuracy_chart(report: RunReport) -> LogChart:
    last = 0
    marks = []
    for row in report.reward_history:
        last = row.upto or last
        mark = Mark(
            label=_numeral(row.version),
            title=f"{row.version} at row {last:,}: {_described(row.accuracy)}",
            value=row.accuracy.mean,
            interval=(row.accuracy.low, row.accuracy.high),
            accepted=row.decision.accepted,
        )
        marks.append((last, mark))
    # Each is a series of its own, so that each has its label.
    flags = [
        Flag(row.upto or last, "drift", f"{row.version}: {row.drift}") for row in report.reward_history if row.drift
    ]
    return charts.log_chart([[mark] for mark in marks], end=max(report.latest_seq, last), flags=flags, reference=0.5)


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
        label=_short(report, name),
        note="" if estimate is _DRAW else f"n {estimate.n}",
        title=f"{name}: {_described(estimate)}",
        value=estimate.mean,
        interval=(estimate.low, estimate.high) if estimate.n else None,
        accepted=report.was_accepted(name),
    )


def _described(estimate: Estimate) -> str:
    return f"{number(estimate.mean)}, 95 % interval {interval(estimate)}, {estimate.n} judgements"


def _telling(looks: Sequence[Look]) -> list[Look]:
    """The looks at which something was known, and the last one."""
    return [*(look for look in looks[:-1] if look.estimate.high - look.estimate.low < 1.0), *looks[-1:]]


def _short(report: RunReport, name: str) -> str:
    """What a version is called where its name has no room."""
    return "base" if name == report.base.policy_version else _numeral(name)


def _numeral(name: str) -> str:
    """The number in a version's name."""
    return name.rpartition("-")[2]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def duration(seconds: float) -> str:
    """Returns a number of seconds as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _minute(time: datetime) -> str:
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
