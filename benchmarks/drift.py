"""
How often drift is seen where there is none, how soon where there is, and when it is taken for certain.

A version is right about each arriving statement with a given probability, which falls slowly (from 0.78 to 0.70 over
3000 statements, as pairs grow harder while the policy improves) or at once, after 600 statements (from 0.75).

Where people only give thumbs, and nearly all of them up, statements are not independent: they are judged against the
few of the other kind.

A change becomes certain when a version is wrong more often than right within three intervals from an alarm. Where some
begin to vote the opposite of what they like, it should not while they are fewer than half.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from online_trl.rewards.drift import DriftAlarm, DriftDetector, is_reversed
from online_trl.rewards.judging import correctness, evidence_weights
from online_trl.types import Message, UnpairedLabel

INTERVAL = 100
HELD_OUT = 300
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
    return _counted(name, runs * rates.size // INTERVAL, alarms)


def false_alarms_of_thumbs(ups: float, *, runs: int, intervals: int = 30) -> Line:
    """Counts alarms where nothing happens and all that people give is a thumb, so often up."""
    rng = np.random.default_rng(0)
    alarms = sum(_alarms_of_thumbs(ups, intervals, rng) for _ in range(runs))
    return _counted(f"thumbs, {ups:.0%} up", runs * intervals, alarms)


def _counted(stream: str, intervals: int, alarms: int) -> Line:
    return {
        "stream": stream,
        "intervals of 100": intervals,
        "false alarms": alarms,
        "one in": round(intervals / alarms) if alarms else None,
    }


def _alarms_of_thumbs(ups: float, intervals: int, rng: np.random.Generator) -> int:
    detector, heldout, alarms = DriftDetector(), list[tuple[UnpairedLabel, float]](), 0
    for start in range(0, intervals * INTERVAL, INTERVAL):
        verdicts = (rng.random(INTERVAL) < ups).tolist()
        # Answers with a thumb up score higher by one standard deviation.
        new = [(_thumb(verdict), rng.normal() + verdict) for verdict in verdicts]
        statements, scores = zip(*heldout, *new, strict=True)
        correct = correctness(statements, [[score] for score in scores])[len(heldout) :]
        weights = evidence_weights(statements)[len(heldout) :]
        alarms += detector.update(correct, range(start, start + INTERVAL), weights) is not None
        heldout = [*heldout, *new[: INTERVAL // 5]][-HELD_OUT:]
    return alarms


def _thumb(up: bool) -> UnpairedLabel:
    message = Message(role="assistant", content="…")
    return UnpairedLabel(prompt=[message], completion=[message], label=up, score=float(up), seq=0, feedback_ids=())


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


def certainties(opposed: float, *, runs: int) -> Line:
    """Counts how often a change is taken for certain where so many begin to vote the opposite of what they like."""
    rng = np.random.default_rng(0)
    after = 0.75 * (1 - opposed) + 0.25 * opposed
    rates = np.concatenate([np.full(BEFORE_THE_FLIP, 0.75), np.full(4 * INTERVAL, after)])
    played = [_certainty((rng.random(rates.size) < rates).astype(float)) for _ in range(runs)]
    return {
        "opposed": f"{opposed:.0%}",
        "right after": f"{after:.2f}",
        "runs": runs,
        "alarms": sum(is_alarmed for is_alarmed, _ in played),
        "certain": sum(is_certain for _, is_certain in played),
    }


def _certainty(correct: np.ndarray) -> tuple[bool, bool]:
    detector, since, left = DriftDetector(), None, 0
    for start in range(0, correct.size, INTERVAL):
        end = start + INTERVAL
        alarm = detector.update(correct[start:end], range(start, end))
        if alarm is not None:
            since, left = alarm.change_seq, 3
        if left and since is not None:
            left -= 1
            if is_reversed(correct[since:end], [1.0] * (end - since)):
                return True, True
    return since is not None, False


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
            *(false_alarms_of_thumbs(ups, runs=args.runs) for ups in (0.5, 0.8, 0.95, 0.98)),
        ],
        "delays": [delays(after, runs=args.runs) for after in (0.45, 0.60)],
        "certainties": [certainties(opposed, runs=args.runs) for opposed in (0.3, 0.4, 0.45, 0.5, 0.7, 1.0)],
    }
    console = Console()
    for lines in results.values():
        console.print(_table(lines))
    if args.output is not None:
        args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
