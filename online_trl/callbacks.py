"""Hooks for every online trainer, driven by transformers' callback events."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .distributed import broadcast_from_main
from .rewards.schedule import RefreshSchedule
from .rewards.scorer import LiveReward
from .stopping import StopSignal
from .types import PolicyEvaluation


class RefreshCallback(TrainerCallback):
    """
    Refreshes the live reward model between two policy steps: every so many steps, or when its schedule says that it is
    due. Before the first step it learns from all feedback that the log holds and that was not used yet.

    Args:
        schedule ([`~online_trl.rewards.schedule.RefreshSchedule`]):
            What refreshes the model.
        steps (`int`, *optional*, defaults to `50`):
            Policy steps between two refreshes; `0` turns the trigger off.

    Raises:
        [`~online_trl.config.ConfigError`]: when training begins, if there is no version and too little feedback for a
            first one, or the first one is refused.
    """

    def __init__(self, schedule: RefreshSchedule, *, steps: int = 50) -> None:
        self.schedule = schedule
        self.steps = steps
        self.last_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self.last_step = 0  # another call of `train` counts its own steps
        self.schedule.begin(learn=state.global_step == 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        is_due = 0 < self.steps <= state.global_step - self.last_step
        if self.schedule.run_if_due(due=is_due):
            self.last_step = state.global_step
            # A run that is killed after a refresh must not learn from the same feedback again.
            control.should_save = True

    def state_dict(self) -> dict[str, Any]:
        """Returns where the refreshes are, for the checkpoint."""
        return {"last_step": self.last_step, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where a checkpoint was."""
        self.last_step = state["last_step"]
        self.schedule.load_state_dict(state["schedule"])


class FollowRewardCallback(TrainerCallback):
    """
    Takes over the reward version that somebody else, such as `recipes/reward_refresh.py`, puts into service: between
    two policy steps, the same one on every rank. See [`~online_trl.rewards.scorer.LiveReward.follow`].

    Args:
        live ([`~online_trl.rewards.scorer.LiveReward`]):
            The reward function that serves it.
    """

    def __init__(self, live: LiveReward) -> None:
        self.live = live

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.live.follow()


class EvaluateCallback(TrainerCallback):
    """
    Evaluates the policy in training every so many steps, and logs each figure as `eval_NAME`, which trackers show as
    `eval/NAME`. The main process evaluates a copy of the model; the others wait.

    Args:
        trainer (`Trainer`):
            The trainer, to be passed with its `add_callback`.
        evaluate (`Callable[[str, Path], PolicyEvaluation]`):
            Evaluates the policy in a folder under a name, such as `step-50`.
        steps (`int`):
            Steps between two evaluations.
    """

    def __init__(
        self,
        trainer: Trainer,
        evaluate: Callable[[str, Path], PolicyEvaluation],
        *,
        steps: int,
    ) -> None:
        self.trainer = trainer
        self.evaluate = evaluate
        self.steps = steps
        self.evaluations: list[PolicyEvaluation] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.steps:
            return
        evaluation = self._evaluate(f"step-{state.global_step}")
        self.evaluations.append(evaluation)
        should_log = control.should_log
        # The trainer's own `log` would close the means that it keeps for its next line, which is still to come.
        Trainer.log(self.trainer, {f"eval_{name}": value for name, value in evaluation.scalars.items()})
        control.should_log = should_log

    def _evaluate(self, name: str) -> PolicyEvaluation:
        # A saved model is whole, however the ranks share the one in training, and is what would be served.
        with tempfile.TemporaryDirectory(prefix="evaluate-") as temporary:
            folder = broadcast_from_main(lambda: temporary)
            self.trainer.save_model(folder, _internal_call=True)  # which does not push it to the hub
            return broadcast_from_main(lambda: self.evaluate(name, Path(folder)))


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

    With several ranks, the main process decides for all of them, so that they save at the same step.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._signal = StopSignal()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._signal.listen()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stopped = broadcast_from_main(lambda: self._signal.asked)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._signal.restore()
