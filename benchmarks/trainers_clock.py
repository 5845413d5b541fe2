"""How long the steps of a trainer take, by the clock and by the processor, and where the time goes."""

from __future__ import annotations

import functools
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback


def now() -> tuple[float, float]:
    """Returns the seconds of the clock and those of the processor, once the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class Turns:
    """
    Lets two processes run a rollout each in turn, so that what slows the machine for a while slows both.

    Args:
        given (`str`):
            As [`trainers_launch.launch_pair`] gives it: a pipe to read from and one to write to, and `first` or
            `second`; empty for a process that runs alone.
        steps (`int`, *optional*, defaults to `1`):
            Steps of a rollout, which is one turn.

    Attributes:
        waited (`float`):
            Seconds that were the other's.
    """

    def __init__(self, given: str, steps: int = 1) -> None:
        self.steps = steps
        self.waited = 0.0
        self._calls = 0
        self._has_turn = True
        if given:
            mine, theirs, place = given.split(",")
            self._mine, self._theirs = int(mine), int(theirs)
            self._has_turn = place == "first"
        self._alone = not given

    def pass_on(self) -> None:
        """To be called after each step: after the last one of a turn, waits until the other has had its own."""
        self._calls += 1
        if self._alone or self._calls % self.steps:
            return
        if self._has_turn:
            try:
                os.write(self._theirs, b"t")
            except BrokenPipeError:  # the other is done
                self._alone = True
                return
        self._has_turn = True
        started, _ = now()
        self._alone = not os.read(self._mine, 1)
        self.waited += now()[0] - started


class StepClock(TrainerCallback):
    """
    Times the steps of a run. Added last, it counts what the trainer's other callbacks do after a step.

    Args:
        between (`Callable[[], Any]`):
            Called between two steps, on nobody's time: what users do meanwhile.
        turns ([`Turns`]):
            With another process, or alone.
    """

    def __init__(self, between: Callable[[], Any], turns: Turns) -> None:
        self.between = between
        self.turns = turns
        self.steps: list[tuple[float, float]] = []
        self._started: tuple[float, float] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ended = now()
        if self._started is not None:
            self.steps.append((ended[0] - self._started[0], ended[1] - self._started[1]))
        self.between()
        self.turns.pass_on()
        self._started = now()

    @property
    def rollouts(self) -> list[tuple[float, float]]:
        """The seconds of each rollout, but for the first, in which everything warms up."""
        steps = self.turns.steps
        # The first step is not timed, for want of a beginning.
        timed = self.steps[steps - 1 :]
        whole = [timed[start : start + steps] for start in range(0, len(timed) - steps + 1, steps)]
        return [(sum(clock for clock, _ in group), sum(busy for _, busy in group)) for group in whole]


class Parts:
    """Seconds that parts of a run took, while it is `watching`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Counts the calls of a method, or of a function of a module, as a part."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._counted(part):
                return method(*args, **kwargs)

        setattr(owner, name, timed)

    @contextmanager
    def _counted(self, part: str) -> Iterator[None]:
        started, _ = now()
        try:
            yield
        finally:
            self.seconds[part] += now()[0] - started


def peak_memory() -> float:
    """Returns the GiB that the process held at most, of the GPU's memory or, where there is none, of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
