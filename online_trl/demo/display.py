"""What the demo shows while it runs."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..loop import BEGIN, STATIONS, LoopState
from ..rewards.outcome import RefreshOutcome

# What each step takes, roughly, in seconds on two cores: only the time to go is estimated from it.
_EXPECTED_SECONDS = {
    "policy": 30.0,
    "begin": 15.0,
    "collect": 15.0,
    "train": 60.0,
    "evaluate": 15.0,
    "canary": 0.0,
    "promote": 1.0,
}
_STATIONS = {
    "policy": "making a base policy",
    "begin": "users judge its answers",
    "collect": "users chat and react",
    "train": "the policy trains on fresh feedback",
    "evaluate": "users judge the answers",
    "canary": "all users have tried it",
    "promote": "a better version goes into service",
}


class Display:
    """Shows which step is under way, how far it is, and about how long there is to go."""

    def __init__(self, console: Console, rounds: int, state: LoopState) -> None:
        self.state = state
        self.steps = ["0/policy", BEGIN]
        self.steps += [f"{number}/{station}" for number in range(1, rounds + 1) for station in STATIONS]
        self.rounds = rounds
        self.step, self.description = "", ""
        self.share: dict[str, float] = {}
        self.started = time.monotonic()
        self.expected_at_start = self._expected_left()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
        )
        self.progress = Progress(*columns, console=console)
        self.task = self.progress.add_task("starting", total=1.0, left="")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def enter(self, step: str) -> None:
        """Takes note of a step that begins."""
        number, _, station = step.partition("/")
        where = "start" if number == "0" else f"round {number} of {self.rounds}"
        self.step, self.description = step, f"{where}: {_STATIONS[station]}"
        if not self.progress.console.is_terminal:
            self.progress.console.print(f"{self.description} ({self._left()})")
        self.update(0.0)

    def update(self, share: float) -> None:
        """Takes note of how far the step is."""
        self.share[self.step] = share
        self.progress.update(self.task, description=self.description, completed=share, left=self._left())

    def fraction(self, done: int, total: int) -> None:
        """Takes note of how many parts of the step are done."""
        self.update(done / total)

    def announce_refresh(self, outcome: RefreshOutcome) -> None:
        """Prints what a refresh of the reward model led to."""
        verdict = "in service" if outcome.decision.accepted else "refused"
        self.progress.console.print(
            f"  {outcome.version} {verdict}: {outcome.statements} statements, right about {outcome.accuracy:.0%} "
            f"of {outcome.heldout} held-out ones ({outcome.seconds:.1f} s)"
        )

    def _left(self) -> str:
        left = self._expected_left()
        done = self.expected_at_start - left
        # The machine's own pace, once there is enough of it to go by.
        pace = (time.monotonic() - self.started) / done if done > 20 else 1.0
        return f"about {left * pace / 60:.1f} min to go"

    def _expected_left(self) -> float:
        steps = [step for step in self.steps if not self.state.is_completed(step)]
        return sum(_EXPECTED_SECONDS[step.partition("/")[2]] * (1 - self.share.get(step, 0.0)) for step in steps)
