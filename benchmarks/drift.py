"""
How often drift is seen where there is none, and how soon where there is.

A version is right about each arriving statement with a given probability, which falls slowly (from 0.78 to 0.70 over
3000 statements, as pairs grow harder while the policy improves) or at once, after 600 statements (from 0.75).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from online_trl.rewards.drift import DriftAlarm, DriftDetector

INTERVAL = 100
BEFORE_THE_FLIP = 600

Line = dict[str, Any]


def watch(rates: np.ndarray, rng: np.random.Generator) -> list[DriftAlarm]:
    """Plays one stream in refresh intervals, and returns every alarm."""
    detector = DriftDetector()
    correct = (rng.random(rates.size) < rates).astype(float)
    alarms = [
        detector.update(correct[start : start + INTERVAL], range(start, start + INTERVAL))
        for start in range(0, rates.size, INTERVAL)
    ]
    return [alarm for alarm in alarms if alarm is not None]


def false_alarms(rates: np.ndarray, name: str, *, runs: int) -> Line:
    """Counts alarms where nothing happens."""
    rng = np.random.default_rng(0)
    alarms = sum(len(watch(rates, rng)) for _ in range(runs))
    intervals = runs * rates.size // INTERVAL
    return {
        "stream": name,
        "intervals of 100": intervals,
        "false alarms": alarms,
        "one in": round(intervals / alarms) if alarms else None,
    }


def delays(after: float, *, runs: int, rows: int = 1400) -> Line:
    """Measures how long a flip goes unnoticed, and how well the alarm says when it was."""
    rng = np.random.default_rng(0)
    rates = np.concatenate([np.full(BEFORE_THE_FLIP, 0.75), np.full(rows, after)])
    played = [[alarm for alarm in watch(rates, rng) if alarm.seen_seq >= BEFORE_THE_FLIP] for _ in range(runs)]
    seen = [alarms[0] for alarms in played if alarms]
    # A flip that goes unnoticed took longer than the stream.
    waits = [alarm.seen_seq - BEFORE_THE_FLIP + 1 for alarm in seen] + [rows] * (runs - len(seen))
    off = [abs(alarm.change_seq - BEFORE_THE_FLIP) for alarm in seen]
    return {
        "flip": f"0.75 to {after:.2f}",
        "runs": runs,
        "missed": runs - len(seen),
        "median delay, rows": round(float(np.median(waits))),
        "p90": round(float(np.quantile(waits, 0.9))),
        "change point off by, median": round(float(np.median(off))) if off else None,
    }


def _table(lines: list[Line]) -> Table:
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*map(str, line.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="streams of each kind (default: 50)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    results = {
        "false_alarms": [
            false_alarms(np.linspace(0.78, 0.70, 3000), "0.78, slowly falling to 0.70", runs=args.runs),
            false_alarms(np.full(3000, 0.75), "0.75 throughout", runs=args.runs),
        ],
        "delays": [delays(after, runs=args.runs) for after in (0.45, 0.60)],
    }
    console = Console()
    for lines in results.values():
        console.print(_table(lines))
    if args.output is not None:
        args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
