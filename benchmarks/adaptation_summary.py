"""What the runs of the adaptation benchmark add up to: the gain of each arm, the labels needed, and the goals."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from adaptation_scenarios import SCENARIOS

GAIN_OF_LABELS = 0.7
"""Gain up to which labels are counted where users are asked."""

Result = dict[str, Any]


def summarise(results: Sequence[Result], bases: Sequence[Result]) -> dict[str, Any]:
    """
    Returns the gains and the goals.

    Args:
        results (`Sequence[dict[str, Any]]`):
            What each training run left, oracles included.
        bases (`Sequence[dict[str, Any]]`):
            What each base policy left.
    """
    base = {row["seed"]: row for row in bases}
    oracles = {(row["scenario"], row["trainer"], row["seed"]): row for row in results if row["arm"] == "oracle"}
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for row in results:
        is_measurable = (SCENARIOS[row["scenario"]].oracle, row["trainer"], row["seed"]) in oracles
        if row["arm"] != "oracle" and is_measurable:
            groups[row["scenario"], row["trainer"], row["arm"]].append(row)
    for (_, trainer, seed), row in oracles.items():
        for name in {name for name, of, _ in groups if of == trainer}:
            if row is oracles.get((SCENARIOS[name].oracle, trainer, seed)):
                groups[name, trainer, "oracle"].append(row)
    rows = []
    for (name, trainer, arm), runs in groups.items():
        scales = [
            _Scale(base[run["seed"]]["satisfaction"][name], oracles[SCENARIOS[name].oracle, trainer, run["seed"]])
            for run in runs
        ]
        rows.append(_row(name, trainer, arm, runs, scales))
    order = list(SCENARIOS)
    rows.sort(key=lambda row: (row["trainer"], order.index(row["scenario"])))
    _compare_labels(rows)
    return {
        "seeds": [{key: row[key] for key in ("seed", "taste_seed")} for row in bases],
        "base": {name: mean(row["satisfaction"][name] for row in bases) for name in SCENARIOS},
        "rows": [_judged(row) for row in rows],
    }


class _Scale:
    """From the base policy's satisfaction, which is gain 0, to the oracle's, which is 1."""

    def __init__(self, base: float, oracle: Result) -> None:
        self.base = base
        self.top = oracle["satisfaction"]

    def gain(self, satisfaction: float) -> float:
        return (satisfaction - self.base) / (self.top - self.base)


def _row(name: str, trainer: str, arm: str, runs: Sequence[Result], scales: Sequence[_Scale]) -> dict[str, Any]:
    gains = [scale.gain(run["satisfaction"]) for run, scale in zip(runs, scales, strict=True)]
    accuracies = [run["accuracy"] for run in runs if run["accuracy"] is not None]
    return {
        "scenario": name,
        "trainer": trainer,
        "arm": arm,
        "seeds": [run["seed"] for run in runs],
        "gains": gains,
        "mean": mean(gains),
        "spread": stdev(gains) if len(gains) > 1 else 0.0,
        "satisfaction": mean(run["satisfaction"] for run in runs),
        "accuracy": mean(accuracies) if accuracies else None,
        "statements": mean(run["curve"][-1]["statements"] for run in runs),
        "seconds": mean(run["seconds"] for run in runs),
        "labels": [labels_needed(run["curve"], scale.gain) for run, scale in zip(runs, scales, strict=True)],
        "curve": mean_curve([run["curve"] for run in runs]),
    }


def labels_needed(curve: Sequence[dict[str, Any]], gain: Any) -> float | None:
    """Returns after how many statements [`GAIN_OF_LABELS`] is reached, between two versions in proportion."""
    points = [(point["statements"], gain(point["satisfaction"])) for point in curve]
    for (before, low), (after, high) in itertools.pairwise(points):
        if high >= GAIN_OF_LABELS:
            share = (GAIN_OF_LABELS - low) / (high - low) if high > low else 1.0
            return before + (after - before) * min(1.0, max(0.0, share))
    return None


def mean_curve(curves: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the mean and the spread of several runs' satisfaction, point by point."""
    points = []
    for together in zip(*curves, strict=True):
        values = [point["satisfaction"] for point in together]
        points.append(
            {
                "step": together[0]["step"],
                "statements": mean(point["statements"] for point in together),
                "satisfaction": mean(values),
                "spread": stdev(values) if len(values) > 1 else 0.0,
            }
        )
    return points


def _compare_labels(rows: list[dict[str, Any]]) -> None:
    """Adds to ours, where users are asked, the ratio of the labels needed to those of asking at random, by seed."""
    for row in rows:
        if not SCENARIOS[row["scenario"]].asks or row["arm"] != "ours":
            continue
        for other in (other for other in rows if _is_control(other, row)):
            control = dict(zip(other["seeds"], other["labels"], strict=True))
            row["ratios"] = [
                label_ratio(labels, control[seed], other["statements"])
                for seed, labels in zip(row["seeds"], row["labels"], strict=True)
                if seed in control
            ]
            row["ratio"] = median(row["ratios"]) if row["ratios"] else math.inf


def _is_control(row: dict[str, Any], of: dict[str, Any]) -> bool:
    return (row["scenario"], row["trainer"], row["arm"]) == (of["scenario"], of["trainer"], "random")


def label_ratio(ours: float | None, other: float | None, most: float) -> float:
    """Returns the ratio of labels needed; who never got there needed all there were, or for ours infinitely many."""
    if ours is None:
        return math.inf
    return ours / (other if other is not None else most)


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """Adds whether the goal is met, to the rows that have one."""
    scenario = SCENARIOS[row["scenario"]]
    if row["arm"] == "ours" and scenario.asks:
        return {**row, "goal": f"≤ {scenario.goal:.2f} × labels", "met": row.get("ratio", math.inf) <= scenario.goal}
    if row["arm"] == "ours":
        return {**row, "goal": f"≥ {scenario.goal:.2f}", "met": row["mean"] >= scenario.goal}
    if row["arm"] == "frozen" and scenario.flipped:
        return {**row, "goal": "< 0", "met": row["mean"] < 0}
    return row


def console_table(summary: dict[str, Any]) -> str:
    """Returns the table that is printed."""
    table = Table(title=f"gain = (satisfaction − base) / (oracle − base), over {len(summary['seeds'])} seeds")
    for column in ("scenario", "trainer", "arm", "gain", "spread", "satisfaction", "right", "labels", "goal", ""):
        table.add_column(column, justify="left" if column in ("scenario", "trainer", "arm") else "right")
    for row in summary["rows"]:
        ratio = f"  {row['ratio']:.2f} × labels" if "ratio" in row else ""
        table.add_row(
            row["scenario"],
            row["trainer"],
            row["arm"],
            f"{row['mean']:.2f}{ratio}",
            f"{row['spread']:.2f}",
            f"{row['satisfaction']:.2f}",
            "" if row["accuracy"] is None else f"{row['accuracy']:.0%}",
            f"{row['statements']:.0f}",
            row.get("goal", ""),
            {True: "met", False: "missed", None: ""}[row.get("met")],
        )
    console = Console(width=130)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
