"""Hooks for every online trainer, driven by transformers' callback events."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .config import ConfigError
from .data import OnlineDataCollator
from .distributed import broadcast_from_main
from .preferences import PreferenceBatch


class Refresher(Protocol):
    """What [`RefreshCallback`] drives: something that learns from preferences, such as `RewardRefresher`."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a live version already."""
        ...

    def trainable(self, batch: PreferenceBatch) -> int:
        """Returns how many pairs of a batch it would train on."""
        ...

    def remember(self, batch: PreferenceBatch) -> None:
        """Takes note of what was learned from before."""
        ...

    def refresh(self, batch: PreferenceBatch) -> Any:
        """Learns from a batch, on every rank at the same step."""
        ...


class RefreshCallback(TrainerCallback):
    """
    Refreshes the live reward model between two policy steps: every so many steps, or once the log has so many new
    rows. Before the first step it learns from all feedback that the log holds and that was not used yet.

    Args:
        collator ([`~online_trl.data.OnlineDataCollator`]):
            Where fresh preference batches come from, and what keeps the feedback cursor.
        refresher ([`Refresher`]):
            What learns from them.
        steps (`int`, *optional*, defaults to `50`):
            Policy steps between two refreshes; `0` turns the trigger off.
        rows (`int`, *optional*, defaults to `0`):
            New rows of the log that trigger a refresh; `0` turns the trigger off.
        min_pairs (`int`, *optional*, defaults to `16`):
            A refresh that is due waits for so many new pairs to train on. They are not lost: the next one gets them.
        on_refresh (`Callable[[Any], None]`, *optional*):
            Called with the outcome of each refresh.

    Raises:
        [`~online_trl.config.ConfigError`]: when training begins, if there is no version and too little feedback for a
            first one, or the first one is refused.
    """

    def __init__(
        self,
        collator: OnlineDataCollator,
        refresher: Refresher,
        *,
        steps: int = 50,
        rows: int = 0,
        min_pairs: int = 16,
        on_refresh: Callable[[Any], None] | None = None,
    ) -> None:
        self.collator = collator
        self.refresher = refresher
        self.steps = steps
        self.rows = rows
        self.min_pairs = max(1, min_pairs)
        self.on_refresh = on_refresh
        self.last_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.refresher.is_ready:
            self.refresher.remember(self.collator.take_preferences(after=0, upto=self.collator.cursor.feedback))
        if state.global_step > 0:
            return  # a resumed run goes on with the reward model of its checkpoint
        batch = self.collator.take_preferences(upto=self.collator.latest())
        if self.refresher.trainable(batch) >= self.min_pairs:
            self._refresh(batch)
        elif not self.refresher.is_ready:
            raise ConfigError(
                f"the log {self.collator.store.url} holds {self.refresher.trainable(batch)} preference pairs to train "
                f"a first reward model on, {self.min_pairs} are needed: collect more feedback, seed the log with "
                "`online-trl import`, or lower `refresh_min_pairs`"
            )
        if not self.refresher.is_ready:
            raise ConfigError(
                f"the first reward model, trained on {self.refresher.trainable(batch)} pairs, was refused: it is "
                "worse than chance on held-out feedback. Collect more, or train it otherwise (`reward_config`)"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._is_due(state.global_step):
            return
        batch = self.collator.take_preferences(upto=self.collator.latest())
        if self.refresher.trainable(batch) < self.min_pairs:
            return
        self._refresh(batch)
        self.last_step = state.global_step
        # A run that is killed after a refresh must not learn from the same feedback again.
        control.should_save = True

    def _refresh(self, batch: PreferenceBatch) -> None:
        outcome = self.refresher.refresh(batch)
        self.collator.commit(batch)
        if self.on_refresh is not None:
            self.on_refresh(outcome)

    def _is_due(self, step: int) -> bool:
        if self.steps > 0 and step - self.last_step >= self.steps:
            return True
        return self.rows > 0 and self.collator.latest() - self.collator.cursor.feedback >= self.rows


class StepProgress(TrainerCallback):
    """
    Reports every step of a run.

    Args:
        report (`Callable[[int, int], None]`):
            Called with the number of steps done and of all steps.
    """

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.report(state.global_step, state.max_steps)


class StopCallback(TrainerCallback):
    """
    Turns Ctrl-C (and `SIGTERM`) into a clean end: the step under way is finished, a checkpoint is saved, training
    stops. A second Ctrl-C stops at once.

    With several ranks, the main process decides for all of them, so that they save at the same step. Outside the main
    thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._previous: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stopped = broadcast_from_main(lambda: self._asked)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
