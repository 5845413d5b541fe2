"""Learning curves of two PPO trainers on one task, per episode and per second."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adaptation_plot import draw, line, x_at, y_at

_COLOURS = {False: "#3b7dd8", True: "#c2255c"}
_NAMES = {False: "TRL 1.12's PPOTrainer", True: "OnlinePPOTrainer"}
_POINTS = 20


def write_curves(runs: Sequence[dict[str, Any]], output: Path) -> None:
    """
    Writes `trainers.svg` and, where a browser can draw it, `trainers.png`.

    Args:
        runs (`Sequence[dict[str, Any]]`):
            Results of [`trainers_arms.run_arm`] on a task that records a curve, some of each trainer.
        output (`Path`):
            Folder to write to.
    """
    panels = [
        _panel(runs, "reward per episode", "episodes", "batch"),
        _panel(runs, "reward per second of the processor", "seconds", "processor_seconds"),
    ]
    draw(panels, [(name, _COLOURS[ours]) for ours, name in _NAMES.items()], output / "trainers", columns=2)


def smoothed(curve: Sequence[float], points: int = _POINTS) -> list[tuple[float, float]]:
    """Returns the mean of each of so many stretches of a curve, with the middle of the stretch in rollouts."""
    length = max(1, len(curve) // points)
    stretches = [curve[start : start + length] for start in range(0, len(curve) - length + 1, length)]
    return [(index * length + length / 2, statistics.mean(stretch)) for index, stretch in enumerate(stretches)]


def _panel(runs: Sequence[dict[str, Any]], title: str, axis: str, unit: str) -> SimpleNamespace:
    most = max(len(run["curve"]) * run[unit] for run in runs)
    lines = []
    for ours, colour in _COLOURS.items():
        of_trainer = [run for run in runs if run["ours"] == ours]
        scale = statistics.mean(run[unit] for run in of_trainer)
        points = []
        for at_once in zip(*(smoothed(run["curve"]) for run in of_trainer), strict=True):
            rewards = [reward for _, reward in at_once]
            points.append((at_once[0][0] * scale, statistics.mean(rewards), statistics.pstdev(rewards)))
        lines.append(line(points, most, colour))
    return SimpleNamespace(
        title=title,
        axis=axis,
        lines=lines,
        flip=None,
        x_ticks=[(x_at(most * part / 4, most), f"{most * part / 4:.0f}") for part in range(5)],
        y_ticks=[(y_at(part / 5), f"{part / 5:.1f}") for part in range(6)],
    )
