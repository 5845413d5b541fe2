"""Deployment, played in the training process: versions that users talk to while the next one is trained."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from adaptation_arms import TrueTaste, accuracy
from adaptation_asking import Asking
from adaptation_policy import Answered, examine, sample, satisfaction
from adaptation_scenarios import Run
from adaptation_users import Audience
from online_trl.rewards.scorer import LiveReward
from online_trl.simulation.taste import Taste

QUESTIONS, ANSWERS = 64, 2


class Deployment(TrainerCallback):
    """
    Plays deployment: every so many steps there is a new version, which is examined, and which users talk to.

    Args:
        run ([`Run`]):
            What is run.
        taste ([`~online_trl.simulation.taste.Taste`]):
            The taste at the start.
        reward:
            The reward function, whose accuracy is followed.
        audience ([`Audience`], *optional*):
            The users, if anybody learns from them.
        asking ([`Asking`], *optional*):
            Chooses what is compared, where users are asked.
    """

    def __init__(
        self, run: Run, taste: Taste, reward: Any, audience: Audience | None, asking: Asking | None = None
    ) -> None:
        self.run = run
        self.taste = taste
        self.reward = reward
        self.audience = audience
        self.asking = asking
        self.curve: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = -max(self.run.setting.lags)
        for round in range(first, 0):
            self._serve(round, 1, kwargs["model"], kwargs["processing_class"])
        self._deploy(0, kwargs["model"], kwargs["processing_class"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        version, rest = divmod(state.global_step, self.run.version_steps)
        if rest == 0 and version < self.run.setting.versions:
            self._deploy(version, kwargs["model"], kwargs["processing_class"])

    def _deploy(self, round: int, model: Any, tokenizer: Any) -> None:
        answered = examine(
            model,
            tokenizer,
            questions=self.run.scaled(QUESTIONS),
            answers=ANSWERS,
            seed=1000 * self.run.seed + round,
        )
        self.curve.append(self._mark(round, answered))
        if self.run.setting.flipped and round == self.run.setting.versions // 2:
            self._flip()
            self.curve.append(self._mark(round, answered))
        self._serve(round, round + 1, model, tokenizer)

    def _flip(self) -> None:
        self.taste = self.taste.flip(self.run.setting.flipped)
        if isinstance(self.reward, TrueTaste):
            self.reward.taste = self.taste
        if self.audience is not None:
            self.audience.taste = self.taste

    def _mark(self, round: int, answered: Answered) -> dict[str, Any]:
        return {
            "step": round * self.run.version_steps,
            "statements": self.audience.said.total() if self.audience is not None else 0,
            "satisfaction": satisfaction(self.taste, answered),
            "accuracy": accuracy(self.reward, self.taste, answered) if self.is_rewarding else None,
        }

    @property
    def is_rewarding(self) -> bool:
        """Whether the reward has learned anything yet."""
        return not isinstance(self.reward, LiveReward) or self.reward.version is not None

    def _serve(self, round: int, number: int, model: Any, tokenizer: Any) -> None:
        if self.audience is None:
            return
        seed = 1000 * self.run.seed + 500 + round
        self.audience.hold(
            round,
            f"policy-{number:04d}",
            lambda questions: sample(model, tokenizer, questions, seed=seed),
            self.asking.choose if self.asking is not None else None,
        )
