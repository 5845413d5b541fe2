"""Learning curves of the adaptation benchmark as an SVG drawing, and as a PNG where a browser can draw it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment, FileSystemLoader

from adaptation_scenarios import SCENARIOS

_FRAME = SimpleNamespace(left=34, right=300, top=26, bottom=190)
_PANEL_WIDTH, _PANEL_HEIGHT, _HEAD = 320, 240, 34
_COLUMNS = 3
_COLOURS = {"oracle": "#9a9a9a", "frozen": "#d98e04", "plain": "#3b7dd8", "random": "#3b7dd8", "ours": "#c2255c"}
_NAMES = {
    "oracle": "oracle",
    "frozen": "never refreshed",
    "plain": "TRL RewardTrainer, random pairs",
    "ours": "ours",
}


def write_plots(summary: dict[str, Any], output: Path) -> None:
    """
    Writes `adaptation.svg` and, where Playwright and a Chromium are installed, `adaptation.png`.

    Args:
        summary (`dict[str, Any]`):
            What [`adaptation_summary.summarise`] returns.
        output (`Path`):
            Folder to write to.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in summary["rows"]:
        groups[row["scenario"], row["trainer"]].append(row)
    panels = [_panel(*key, rows) for key, rows in groups.items()]
    draw(panels, [(name, _COLOURS[arm]) for arm, name in _NAMES.items()], output / "adaptation", columns=_COLUMNS)


def draw(panels: Sequence[SimpleNamespace], legend: Sequence[tuple[str, str]], path: Path, *, columns: int) -> None:
    """
    Draws panels as `path` with the suffix `.svg` and, where a browser can draw it, `.png`.

    Args:
        panels (`Sequence[SimpleNamespace]`):
            Each with `title`, `axis`, `lines`, `flip`, `x_ticks` and `y_ticks`.
        legend (`Sequence[tuple[str, str]]`):
            Names and colours.
        path (`Path`):
            Where to write, without a suffix.
        columns (`int`):
            Panels side by side.
    """
    for index, panel in enumerate(panels):
        panel.x, panel.y = index % columns * _PANEL_WIDTH, _HEAD + index // columns * _PANEL_HEIGHT
    width = _PANEL_WIDTH * columns
    height = _HEAD + _PANEL_HEIGHT * -(-len(panels) // columns)
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    ).get_template("adaptation.svg.j2")
    drawing = template.render(panels=panels, frame=_FRAME, width=width, height=height, legend=legend)
    path.with_suffix(".svg").write_text(drawing, encoding="utf-8")
    _write_png(drawing, path.with_suffix(".png"), width, height)


def _panel(scenario: str, trainer: str, rows: Sequence[dict[str, Any]]) -> SimpleNamespace:
    asks = SCENARIOS[scenario].asks
    axis = "statements" if asks else "step"
    drawn = [row for row in rows if not (asks and row["arm"] == "oracle")]
    most = max(row["curve"][-1][axis] for row in drawn)
    lines = [_line(row, axis, most) for row in sorted(drawn, key=lambda row: list(_COLOURS).index(row["arm"]))]
    return SimpleNamespace(
        title=f"{scenario.replace('_', ' ')} ({trainer.upper()})",
        axis="comparisons asked for" if asks else "policy steps",
        lines=lines,
        flip=x_at(most / 2, most) if SCENARIOS[scenario].flipped else None,
        x_ticks=[(x_at(most * part / 4, most), f"{most * part / 4:.0f}") for part in range(5)],
        y_ticks=[(y_at(part / 5), f"{part / 5:.1f}") for part in range(6)],
    )


def _line(row: dict[str, Any], axis: str, most: float) -> SimpleNamespace:
    points = [(point[axis], point["satisfaction"], point["spread"]) for point in row["curve"]]
    return line(points, most, _COLOURS[row["arm"]])


def line(points: Sequence[tuple[float, float, float]], most: float, colour: str) -> SimpleNamespace:
    """Returns a curve, of where it is, how high and how widely spread, with its band."""
    upper = [(x_at(x, most), y_at(min(1.0, y + spread))) for x, y, spread in points]
    lower = [(x_at(x, most), y_at(max(0.0, y - spread))) for x, y, spread in points]
    middle = [(x_at(x, most), y_at(y)) for x, y, _ in points]
    return SimpleNamespace(colour=colour, points=_path(middle), band=_path([*upper, *lower[::-1]]))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def x_at(value: float, most: float) -> float:
    return round(_FRAME.left + (_FRAME.right - _FRAME.left) * value / most, 1)


def y_at(value: float) -> float:
    return round(_FRAME.bottom - (_FRAME.bottom - _FRAME.top) * value, 1)


def _write_png(drawing: str, path: Path, width: int, height: int) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=2)
            page.set_content(f'<body style="margin: 0">{drawing}</body>')
            page.screenshot(path=path)
            browser.close()
    except Error as error:
        print(f"no PNG: {error.message.splitlines()[0]}")
