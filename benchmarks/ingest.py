"""
How fast the feedback service takes feedback, beside what the same machine does at most.

`python benchmarks/ingest.py` starts real servers, sends them feedback from another process, and measures in turns, so
that a busy moment of the machine hits all alike:

- `rates`: acknowledged feedback per second, with an empty FastAPI handler under the same load, and with the bare
  database committing the same rows, in transactions of the same size, with the same durability;
- `growth`: the same in a short and in a long log;
- `reading`: how long it takes to read the newest preferences of the long log.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bare import bare_rows_per_second, fill
from ingest_server import commits, running_server
from load import Load, Replies, percentiles_ms, run_load
from online_trl.preferences import read_preferences
from online_trl.store import FeedbackStore
from postgresql import running_postgresql

PARTS = ("rates", "growth", "reading")
DATABASES = ("sqlite", "postgresql")
CLIENTS = (1, 8, 64)
BATCHES = (1, 100)
FRESH_PAIRS = 512
# About as long as a read.
_CALCULATION = 600_000

Line = dict[str, Any]

# Every load has users of its own, so that nobody says the same thing twice.
_first_users = iter(range(0, 10**15, 10**8))


@dataclass(frozen=True)
class Turn:
    """What a server made of one load."""

    replies: Replies
    rows_per_transaction: int = 0


@dataclass(frozen=True)
class Served:
    """A server, and the log behind it unless it has none."""

    port: int
    interaction_ids: list[str]
    store: FeedbackStore | None = None

    def take(self, *, batch: int, clients: int, seconds: float) -> Turn:
        """Sends it feedback for a while."""
        load = Load(self.port, clients, batch, seconds, self.interaction_ids, next(_first_users))
        if self.store is None:
            return Turn(run_load(load))
        rows, transactions = self.store.latest_seq(), commits(self.port)
        replies = run_load(load)
        rows, transactions = self.store.latest_seq() - rows, commits(self.port) - transactions
        return Turn(replies, rows_per_transaction=round(rows / transactions))


class Rig:
    """Makes databases, logs and servers; all it makes ends with the stack."""

    def __init__(self, stack: ExitStack, folder: Path | None) -> None:
        self._stack = stack
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        self._server: str | None = None

    def filled(self, database: str, name: str, rows: int) -> tuple[str, list[str]]:
        """Returns the URL of a log with so many rows, and the ids of its newest answers."""
        url = self._sqlite(name) if database == "sqlite" else self._postgresql(name)
        return url, fill(url, rows)

    def served(self, database: str, name: str, rows: int) -> Served:
        """Returns a server on a log with so many rows."""
        url, ids = self.filled(database, name, rows)
        port = self._stack.enter_context(running_server(url))
        return Served(port, ids, self._stack.enter_context(FeedbackStore(url)))

    def empty(self) -> Served:
        """Returns a server with an empty handler."""
        return Served(self._stack.enter_context(running_server()), ["0" * 36])

    def _sqlite(self, name: str) -> str:
        return f"sqlite:///{self._folder / name}.db"

    def _postgresql(self, name: str) -> str:
        import psycopg

        if self._server is None:
            self._server = self._stack.enter_context(running_postgresql())
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return self._server.removesuffix("postgres") + name


def measure_rates(rig: Rig, args: argparse.Namespace) -> list[Line]:
    """Measures every database, size of batch and number of clients, and what they are compared with."""
    empty = rig.empty()
    logs = {name: rig.served(name, "rates", args.short) for name in args.databases}
    bare = {name: rig.filled(name, "bare", args.short) for name in args.databases}
    lines = []
    for batch in BATCHES:
        for clients in args.clients:
            load = {"batch": batch, "clients": clients, "seconds": args.seconds}
            turns = [
                (empty.take(**load), {name: _beside_bare(log, bare[name], load) for name, log in logs.items()})
                for _ in range(args.turns)
            ]
            for name in args.databases:
                lines.append({"database": name, "batch": batch, "clients": clients} | _rates(turns, name))
    return lines


def _beside_bare(log: Served, bare: tuple[str, list[str]], load: dict[str, Any]) -> tuple[Turn, float]:
    turn = log.take(**load)
    return turn, bare_rows_per_second(*bare, turn.rows_per_transaction, load["seconds"] / 2)


def _rates(turns: list[tuple[Turn, dict[str, tuple[Turn, float]]]], name: str) -> Line:
    compared = [(turn.replies, logs[name]) for turn, logs in turns]
    return {
        "rows/s": round(_median(log.replies.rows_per_second for _, (log, _) in compared)),
        "p50 ms": round(_median(log.replies.p50_ms for _, (log, _) in compared), 1),
        "p99 ms": round(_median(log.replies.p99_ms for _, (log, _) in compared), 1),
        "rows/transaction": round(_median(log.rows_per_transaction for _, (log, _) in compared)),
        "of empty handler": round(
            _median(log.replies.rows_per_second / empty.rows_per_second for empty, (log, _) in compared), 2
        ),
        "of bare database": round(_median(log.replies.rows_per_second / bare for _, (log, bare) in compared), 2),
    }


def measure_growth(rig: Rig, args: argparse.Namespace) -> list[Line]:
    """Measures a short and a long log in turns."""
    lines = []
    for name in args.databases:
        short, long = rig.served(name, "short", args.short), rig.served(name, "long", args.rows)
        for batch in BATCHES:
            load = {"batch": batch, "clients": max(args.clients), "seconds": args.seconds}
            turns = [[log.take(**load).replies.rows_per_second for log in (short, long)] for _ in range(args.turns)]
            lines.append(
                {
                    "database": name,
                    "batch": batch,
                    "clients": load["clients"],
                    f"rows/s at {args.short}": round(_median(turn[0] for turn in turns)),
                    f"rows/s at {args.rows}": round(_median(turn[1] for turn in turns)),
                    "change": f"{_median(turn[1] / turn[0] for turn in turns) - 1:+.0%}",
                }
            )
    return lines


def measure_reading(rig: Rig, args: argparse.Namespace) -> list[Line]:
    """
    Reads the newest interval that holds a batch of preferences, again and again. In between stands a calculation that
    is always the same: what its slowest turns take longer than the usual ones is the machine's doing.
    """
    lines = []
    for name in args.databases:
        url, _ = rig.filled(name, "reading", args.rows)
        with FeedbackStore(url) as store:
            upto = store.latest_seq()
            # A pair is three rows: two answers and a comparison.
            after = max(0, upto - 3 * FRESH_PAIRS)
            reads, calculations = [], []
            for _ in range(args.reads):
                begin = time.perf_counter()
                pairs = len(read_preferences(store, after=after, upto=upto).pairs)
                end = time.perf_counter()
                sum(number * number for number in range(_CALCULATION))
                reads.append(end - begin)
                calculations.append(time.perf_counter() - end)
        (p50, p99), (calculation_p50, calculation_p99) = percentiles_ms(reads), percentiles_ms(calculations)
        lines.append(
            {
                "database": name,
                "rows in log": upto,
                "pairs": pairs,
                "p50 ms": round(p50, 1),
                "p99 ms": round(p99, 1),
                "calculation p50 ms": round(calculation_p50, 1),
                "calculation p99 ms": round(calculation_p99, 1),
            }
        )
    return lines


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _table(title: str, lines: list[Line]) -> Table:
    table = Table(*lines[0], title=title, title_justify="left")
    for line in lines:
        table.add_row(*map(str, line.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one turn (default: 3)")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--short", type=int, default=10_000, help="rows of a short log (default: 10000)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of a long log (default: 1000000)")
    parser.add_argument("--reads", type=int, default=200, help="how often preferences are read (default: 200)")
    parser.add_argument("--dir", type=Path, help="where the databases are made, for the disk to measure")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    console = Console()
    results = {}
    with ExitStack() as stack:
        rig = Rig(stack, args.dir)
        measures = {
            "rates": lambda: measure_rates(rig, args),
            "growth": lambda: measure_growth(rig, args),
            "reading": lambda: measure_reading(rig, args),
        }
        for part in args.parts:
            results[part] = measures[part]()
            console.print(_table(part, results[part]))
    if args.output is not None:
        args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
