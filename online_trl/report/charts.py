"""Where the marks of a chart go: from measured values to coordinates in a drawing of fixed size. No markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 36, 394, 26, 220
_MOST_LABELS = 8
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
