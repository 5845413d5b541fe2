"""The closed loop: deploy, collect, train while the reward model is refreshed, evaluate, try out, promote, and again.

The loop knows the order of the stations and nothing of what they do; the demo and the service hand it theirs. What has
been completed is on disk, so a loop that is stopped at any moment goes on where it was: a completed step is never run
twice. One that was under way is run again, so a station finds out what it had done already.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from .backoff import Backoff
from .config import ConfigError
from .registry.layout import replace_durably
from .types import GateCheck, GateDecision, PolicyDecision, utcnow

BEGIN = "0/begin"
"""The step before the first round."""
STATIONS = ("collect", "train", "evaluate", "canary", "promote")
"""The steps of a round, in order."""
STATE_FILE, PROCESSES_FILE, LOCK_FILE = "loop.json", "processes.json", "lock"
"""In the folder of a loop: its state, how what it keeps up is, and what it holds while it runs."""
# What was decided in the last rounds is kept: a file that a service of many years rewrites must not grow with them.
_ROUNDS_KEPT = 1000
_KEEP_TIME_EVERY = 30.0
# What a step that is not at work says of itself.
_IDLE = {"retry_in_seconds", "paused"}
# Stations that wait for what users say, which may take weeks and costs nothing.
_WAITING = ("collect", "canary")


class Stations(Protocol):
    """What the loop goes through. Each call may follow on one that was interrupted."""

    def begin(self) -> None:
        """Brings a first policy into service, if there is none."""
        ...

    def collect(self, number: int, after: int) -> int:
        """
        Waits until there is something to train on that came after a `seq`, that of the round before; returns the `seq`
        that the log has grown to.
        """
        ...

    def train(self, number: int, upto: int) -> str:
        """Trains from the policy in service; returns the name of the candidate that was published."""
        ...

    def evaluate(self, number: int, candidate: str) -> PolicyDecision:
        """Decides whether a candidate may replace the version in service."""
        ...

    def canary(self, number: int, decision: PolicyDecision) -> PolicyDecision:
        """Tries out a candidate that was accepted on some of the users; returns what is decided after that."""
        ...

    def promote(self, number: int, decision: PolicyDecision) -> None:
        """Puts a candidate into service, or refuses it, as was decided."""
        ...


class StepFailedError(RuntimeError):
    """A step failed as often as it may; the message names it and what was wrong the last time."""


class PausedError(RuntimeError):
    """A step waits for something that takes longer than this run of the loop shall last; the next goes on with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Backoff):
    """
    What becomes of a step that fails.

    Args:
        seconds (`float`, *optional*, defaults to `10.0`):
            Pause before the second attempt; it doubles with each further one.
        longest (`float`, *optional*, defaults to `600.0`):
            Longest pause, in seconds.
        attempts (`int`, *optional*, defaults to `5`):
            How often it is tried.
    """

    seconds: float = 10.0
    longest: float = 600.0
    attempts: int = 5


class LoopState:
    """
    What a loop has completed and what it is at, on disk, replaced durably and at once.

    Args:
        path (`Path`):
            The file, such as `loop.json`.

    Raises:
        [`~online_trl.config.ConfigError`]: if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "round": 0,
            "completed": {},
            "decisions": {},
            "upto": 0,
            "at": {},
            "seconds": 0.0,
            "seconds_of": {},
        }
        if path.is_file():
            self.content = self._read()
        self._counted_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time the loop has run, over all its starts."""
        return float(self.content["seconds"]) + time.monotonic() - self._counted_at

    @property
    def round(self) -> int:
        """Number of the round that is under way; 0 before the first."""
        return int(self.content["round"])

    @property
    def decisions(self) -> list[PolicyDecision]:
        """What was decided in each completed round that is still known, oldest first."""
        return [decision_from(row) for row in self.content["decisions"].values()]

    @property
    def upto(self) -> int:
        """`seq` of the log up to which the last round collected."""
        return int(self.content["upto"])

    def seconds_of(self, station: str) -> float:
        """
        Returns how long a station was at work in all, attempts that failed or were killed included; pauses between
        attempts are not.
        """
        return float(self.content["seconds_of"].get(station, 0.0))

    def is_completed(self, step: str) -> bool:
        """Returns whether a step, such as `3/train`, has been completed."""
        number, station = _parts(step)
        return number < self.round or (number == self.round and station in self.content["completed"])

    def result(self, step: str) -> Any:
        """Returns what a completed step of the round under way led to."""
        return self.content["completed"][_parts(step)[1]]

    def enter(self, step: str, **details: Any) -> None:
        """Takes note of what is under way, for whoever asks how the loop is."""
        self._count_time()
        self.content["at"] = {"step": step, "since": utcnow().isoformat(), **details}
        self._write()

    def complete(self, step: str, result: Any = None) -> None:
        """Records a step as completed, with what it led to. The last step of a round begins the next one."""
        self._count_time()
        number, station = _parts(step)
        self.content["completed"][station] = result
        if station == "collect":
            self.content["upto"] = result
        if station == "canary":
            kept = [*self.content["decisions"].items(), (str(number), result)][-_ROUNDS_KEPT:]
            self.content["decisions"] = dict(kept)
        if step == BEGIN or station == STATIONS[-1]:
            self.content |= {"round": number + 1, "completed": {}}
        self._write()

    def keep_time(self) -> None:
        """
        Records now and then how long a station has been at work, for a kill loses what was not recorded. To be called
        all the time while a step takes long; nothing is written while it waits.

        Raises:
            `OSError`: if it cannot be written. The time is recorded with what is written next.
        """
        if self._at_work() in (None, *_WAITING) or time.monotonic() - self._counted_at <= _KEEP_TIME_EVERY:
            return
        self._count_time()
        self._write()

    def _count_time(self) -> None:
        passed, self._counted_at = time.monotonic() - self._counted_at, time.monotonic()
        self.content["seconds"] += passed
        if (station := self._at_work()) is not None:
            self.content["seconds_of"][station] = self.seconds_of(station) + passed

    def _at_work(self) -> str | None:
        """The station that is at work, if one is."""
        at = self.content["at"]
        return _parts(at["step"])[1] if "step" in at and not _IDLE & at.keys() else None

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or self.content.keys() - content.keys():
                raise ValueError("it holds no state of a loop")
        except ValueError as error:
            raise ConfigError(
                f"{self.path} is damaged: {error}. Restore it, or remove it to begin anew with the first round"
            ) from error
        return content

    def _write(self) -> None:
        replace_durably(self.path, json.dumps(self.content, indent=1))


class OnlineLoop:
    """
    Drives the stations round after round.

    Args:
        stations ([`Stations`]):
            What it goes through.
        state ([`LoopState`]):
            What has been completed.
        go_on (`Callable[[LoopState], bool]`, *optional*):
            Asked before each round. Defaults to without end.
        retry ([`Retry`], *optional*):
            What becomes of a step that fails. By default the failure is the loop's own.
        on_step (`Callable[[str], None]`, *optional*):
            Called when a step begins, with its name, such as `3/train`.
        wait (`Callable[[float], None]`, *optional*):
            Waits so many seconds before the next attempt. Defaults to `time.sleep`.
    """

    def __init__(
        self,
        stations: Stations,
        state: LoopState,
        *,
        go_on: Callable[[LoopState], bool] = lambda state: True,
        retry: Retry | None = None,
        on_step: Callable[[str], None] | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.stations = stations
        self.state = state
        self.go_on = go_on
        self.retry = retry
        self.on_step = on_step or (lambda step: None)
        self.wait = wait

    def run(self) -> None:
        """
        Begins, and goes round as long as it may.

        Raises:
            `KeyboardInterrupt`: if it was interrupted; what was completed is kept.
            [`StepFailedError`]: if a step failed as often as `retry` allows.
            [`PausedError`]: if a step waits for the next run.
        """
        self.begin()
        while self.state.content["completed"] or self.go_on(self.state):
            self._go_round(self.state.round)

    def begin(self) -> None:
        """Takes the step before the first round, unless it is completed."""
        if not self.state.is_completed(BEGIN):
            self._step(BEGIN, self.stations.begin)

    def _go_round(self, number: int) -> None:
        stations = self.stations
        upto = self._step(f"{number}/collect", partial(stations.collect, number, self.state.upto))
        candidate = self._step(f"{number}/train", partial(stations.train, number, upto))
        decision = self._decide(f"{number}/evaluate", partial(stations.evaluate, number, candidate))
        decision = self._decide(f"{number}/canary", partial(stations.canary, number, decision))
        self._step(f"{number}/promote", partial(stations.promote, number, decision))

    def _decide(self, step: str, run: Callable[[], PolicyDecision]) -> PolicyDecision:
        return decision_from(self._step(step, lambda: asdict(run())))

    def _step(self, step: str, run: Callable[[], Any]) -> Any:
        if self.state.is_completed(step):
            return self.state.result(step)
        self.state.enter(step)
        self.on_step(step)
        result = self._try(step, run) if self.retry is not None else run()
        self.state.complete(step, result)
        return result

    def _try(self, step: str, run: Callable[[], Any]) -> Any:
        assert self.retry is not None
        for attempt in range(1, self.retry.attempts + 1):
            try:
                return run()
            except PausedError:
                raise
            # Whatever went wrong in one step is told and tried again: serving must not end with it.
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if attempt == self.retry.attempts:
                    raise StepFailedError(f"{step} failed {attempt} times, the last time with {reason}") from error
                pause = self.retry.pause(attempt)
                self.state.enter(step, failed=attempt, reason=reason, retry_in_seconds=pause)
                self.wait(pause)
                self.state.enter(step, failed=attempt, reason=reason)
        raise AssertionError("a step is tried once at least")


def decision_from(content: dict[str, Any]) -> PolicyDecision:
    """Returns the decision that was kept as a mapping."""
    checks = tuple(GateCheck(**check) for check in content["decision"]["checks"])
    decision = GateDecision(content["decision"]["accepted"], content["decision"]["reason"], checks)
    return PolicyDecision(version=content["version"], incumbent=content["incumbent"], decision=decision)


def _parts(step: str) -> tuple[int, str]:
    number, _, station = step.partition("/")
    return int(number), station
