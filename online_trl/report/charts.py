"""Where the marks of a chart go: from measured values to coordinates in a drawing of fixed size. No markup."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 36, 394, 26, 220
_MOST_LABELS = 8
_ASIDE, _LABEL_WIDTH, _LABEL_HEIGHT, _FLAG_WIDTH = 6.0, 36.0, 14.0, 46.0
_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """
    One value to draw.

    Args:
        label (`str`), note (`str`, *optional*):
            Text below it, in two lines.
        title (`str`):
            What is shown when pointing at it.
        value (`float`):
            The value; one that is not finite is not drawn.
        interval (`tuple[float, float]`, *optional*):
            Its interval.
        accepted (`bool`, *optional*, defaults to `True`):
            Whether it is filled and joined to the others by a line, or hollow.
    """

    label: str
    title: str
    value: float
    note: str = ""
    interval: tuple[float, float] | None = None
    accepted: bool = True


@dataclass(frozen=True, slots=True)
class Point:
    """A mark with its place, and what is written at it: nothing where labels would crowd."""

    mark: Mark
    x: float
    y: float | None
    whisker: tuple[float, float] | None
    label: str
    note: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with every coordinate worked out; y grows downwards."""

    points: tuple[Point, ...]
    ticks: tuple[tuple[float, str], ...]
    line: str
    reference: float | None
    band: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    def span(self, interval: tuple[float, float]) -> tuple[float, float]:
        return self.y(interval[1]), self.y(interval[0])


def chart(
    marks: Sequence[Mark],
    *,
    domain: tuple[float, float] | None = None,
    decimals: int = 2,
    reference: float | None = None,
    band: tuple[float, float] | None = None,
) -> Chart:
    """
    Places marks side by side in their order.

    Args:
        marks (`Sequence[Mark]`):
            What to draw.
        domain (`tuple[float, float]`, *optional*):
            Range of the axis. Defaults to one that begins at 0, or below it if a value does.
        decimals (`int`, *optional*, defaults to `2`):
            Decimals of the values.
        reference (`float`, *optional*):
            A value to draw a line at.
        band (`tuple[float, float]`, *optional*):
            A range of values to shade.
    """
    values = [mark.value for mark in marks if math.isfinite(mark.value)]
    ticks = _ticks(*(domain or (min([0.0, *values]), max([0.0, *values]))))
    scale = _Scale(ticks[0], ticks[-1])
    points = tuple(_point(mark, index, len(marks), scale, decimals) for index, mark in enumerate(marks))
    return Chart(
        points=points,
        ticks=tuple((scale.y(tick), f"{tick:g}".replace("-", "−")) for tick in ticks),
        line=" ".join(f"{point.x},{point.y}" for point in points if point.y is not None and point.mark.accepted),
        reference=None if reference is None else scale.y(reference),
        band=None if band is None else scale.span(band),
    )


def reliability_chart(bins: Sequence[tuple[float, float, float]]) -> Chart:
    """
    Places a reliability plot: what was predicted from left to right, what came true upwards, both from 0 to 1, beside
    the diagonal on which the two agree.

    Args:
        bins (`Sequence[tuple[float, float, float]]`):
            Predicted, observed and weight of each group of predictions.
    """
    scale = _Scale(0.0, 1.0)
    total = sum(weight for _, _, weight in bins) or 1.0
    points = tuple(
        Point(
            mark=Mark(
                label=f"{predicted:.2f}",
                title=f"predicted {predicted:.2f}, came true {observed:.2f}, {weight / total:.0%} of the weight",
                value=observed,
            ),
            x=_across(predicted),
            y=scale.y(observed),
            whisker=None,
            label="",
            note="",
            text="",
        )
        for predicted, observed, weight in bins
    )
    below = [
        Point(Mark(label=f"{x:g}", title="", value=math.nan), _across(x), None, None, f"{x:g}", "", "") for x in _GRID
    ]
    return Chart(
        points=(*points, *below),
        ticks=tuple((scale.y(tick), f"{tick:g}") for tick in _GRID),
        line=f"{LEFT},{BOTTOM} {RIGHT},{TOP}",
        reference=None,
        band=None,
    )


@dataclass(frozen=True, slots=True)
class Flag:
    """
    A row of the log at which something happened: a line from top to bottom, with a short label above it. One that
    would crowd a later one is left out.
    """

    at: int
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class LogChart:
    """A chart along the rows of the log, with every coordinate worked out."""

    points: tuple[Point, ...]
    lines: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[float, str], ...]
    flags: tuple[tuple[float, str, str], ...]
    reference: float | None


def log_chart(
    series: Sequence[Sequence[tuple[int, Mark]]],
    *,
    end: int,
    flags: Sequence[Flag] = (),
    reference: float | None = None,
) -> LogChart:
    """
    Places marks between 0 and 1 along the log.

    Args:
        series (`Sequence[Sequence[tuple[int, Mark]]]`):
            Marks with the row of the log that each belongs to; those of one series are joined by a line, and its label
            stands at the last one.
        end (`int`):
            Last row of the log.
        flags (`Sequence[Flag]`, *optional*):
            What happened meanwhile.
        reference (`float`, *optional*):
            A value to draw a line at.
    """
    scale, span = _Scale(0.0, 1.0), max(1, end)
    met: Counter[int] = Counter(at for marks in series for at, _ in marks)
    placed: Counter[int] = Counter()
    points, lines = [], []
    for marks in series:
        drawn = []
        for at, mark in marks:
            # Marks of several versions at one row stand beside each other.
            aside = _ASIDE * (placed[at] - (met[at] - 1) / 2)
            placed[at] += 1
            if math.isfinite(mark.value):
                x = round(min(max(_across(at / span) + aside, LEFT), RIGHT), 1)
                drawn.append(Point(mark, x, scale.y(mark.value), scale.span(mark.interval or (0.0, 1.0)), "", "", ""))
        lines.append(" ".join(f"{point.x},{point.y}" for point in drawn))
        points += [*drawn[:-1], *(replace(point, text=point.mark.label) for point in drawn[-1:])]
    return LogChart(
        points=_uncrowded(points),
        lines=tuple(line for line in lines if " " in line),
        ticks=tuple((scale.y(tick), f"{tick:g}") for tick in _GRID),
        rows=tuple((_across(tick / span), f"{tick:,.0f}") for tick in _ticks(0, span) if tick <= span),
        flags=_flags(flags, span),
        reference=None if reference is None else scale.y(reference),
    )


def _uncrowded(points: Sequence[Point]) -> tuple[Point, ...]:
    """Leaves out the labels that would lie over a later one: the newest are of most interest."""
    kept: list[Point] = []
    labelled: list[Point] = []
    for point in reversed(points):
        near = any(abs(point.x - other.x) < _LABEL_WIDTH and _is_level(point, other) for other in labelled)
        if point.text and not near:
            labelled.append(point)
        kept.append(replace(point, text="") if near else point)
    return tuple(reversed(kept))


def _is_level(one: Point, other: Point) -> bool:
    assert one.whisker is not None
    assert other.whisker is not None
    return abs(one.whisker[0] - other.whisker[0]) < _LABEL_HEIGHT


def _flags(flags: Sequence[Flag], span: int) -> tuple[tuple[float, str, str], ...]:
    placed: list[tuple[float, str, str]] = []
    last = math.inf
    for flag in sorted(flags, key=lambda flag: -flag.at):
        x = _across(flag.at / span)
        if last - x >= _FLAG_WIDTH:
            last = x
            placed.append((x, flag.label, flag.title))
    return tuple(placed)


def _across(share: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * share, 1)


def _point(mark: Mark, index: int, count: int, scale: _Scale, decimals: int) -> Point:
    every = math.ceil(count / _MOST_LABELS)
    is_drawn, is_roomy = math.isfinite(mark.value), every == 1
    return Point(
        mark=mark,
        x=round(LEFT + (RIGHT - LEFT) * (index + 0.5) / count, 1),
        y=scale.y(mark.value) if is_drawn else None,
        whisker=scale.span(mark.interval) if is_drawn and mark.interval else None,
        label=mark.label if index % every == 0 else "",
        note=mark.note if is_roomy else "",
        text=f"{mark.value:.{decimals}f}".replace("-", "−") if is_drawn and is_roomy else "",
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span a range in three to five steps or so."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power > span / 4 * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]
