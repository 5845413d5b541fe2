"""The reward sources of a trainer: each with its name, how its rewards are normalised and what its failure means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig

from ..config import ConfigError, check_choice
from .functions import DROPPED, OnFailure, RewardFunctionError, guard_reward_function, name_of
from .normalisation import Moments
from .scorer import LiveReward

Normalisation = Literal["none", "batch", "running"]

_ARCHITECTURE = "ForSequenceClassification"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSource:
    """
    A reward with options, to stand in `reward_funcs` where the reward itself could.

    Args:
        reward (`Callable`, `str` or `PreTrainedModel`):
            A reward function in TRL's signature, such as a [`~online_trl.rewards.judge.Judge`], or a reward model or
            its folder or hub id, which TRL loads.
        name (`str`, *optional*):
            What it is called in the logs. Defaults to its own name.
        normalise (`str`, *optional*, defaults to `"none"`):
            `"batch"` brings the rewards of each generation batch to mean 0 and standard deviation 1 over all ranks,
            `"running"` all rewards since training began. Where a source does not apply, it then counts as its mean.
        on_failure (`str`, *optional*, defaults to `"stop"`):
            `"stop"` ends the run when the function fails, `"drop"` leaves the function out of that batch, on all
            ranks, and warns.

    Raises:
        [`~online_trl.config.ConfigError`]: if an option is none of these, or a model is to be dropped.

    Example:

    ```python
    >>> from online_trl.rewards.judge import Judge
    >>> from online_trl.rewards.sources import RewardSource

    >>> judge = Judge(url="http://127.0.0.1:8001/v1", model="Qwen/Qwen2.5-7B-Instruct")
    >>> RewardSource(reward=judge, name="helpfulness", normalise="running", on_failure="drop").name
    'helpfulness'

    ```
    """

    reward: Any
    name: str | None = None
    normalise: Normalisation = "none"
    on_failure: OnFailure = "stop"

    def __post_init__(self) -> None:
        check_choice("normalise", self.normalise, ("none", "batch", "running"))
        check_choice("on_failure", self.on_failure, ("stop", "drop"))
        if self.on_failure == "drop" and not self.is_function:
            raise ConfigError(
                "`on_failure` is `drop`, but a reward model runs on all ranks at once, where none can leave it out"
            )

    @property
    def label(self) -> str:
        """The name, or that of the reward."""
        if self.name is not None or isinstance(self.reward, str):
            return self.name or self.reward
        return name_of(self.reward)

    @property
    def is_function(self) -> bool:
        """Whether it is neither a model, nor the id of one, nor the live reward."""
        return callable(self.reward) and not isinstance(self.reward, (torch.nn.Module, LiveReward))


class RewardSources:
    """
    All reward sources of a trainer, in its order.

    Args:
        rewards (`Any`):
            `reward_funcs` as TRL takes them, one or a list, where each may also be a [`RewardSource`].
    """

    def __init__(self, rewards: Any) -> None:
        listed = rewards if isinstance(rewards, list) else [rewards]
        self._sources = [
            reward if isinstance(reward, RewardSource) else RewardSource(reward=reward)
            for reward in listed
            if reward is not None
        ]
        self._moments = [Moments() for _ in self._sources]

    @property
    def live(self) -> LiveReward | None:
        """The live reward, if it is one of them."""
        return next((source.reward for source in self._sources if isinstance(source.reward, LiveReward)), None)

    def for_trl(self) -> list[Any]:
        """Returns what TRL's trainer gets: functions are guarded, while models and the live reward are left to it."""
        return [
            guard_reward_function(source.reward, name=source.name, on_failure=source.on_failure)
            if source.is_function
            else source.reward
            for source in self._sources
        ]

    def guard_others(self, rewards: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Returns what TRL pays by, where the functions that it added itself, those of environments, are guarded."""
        own = len(self._sources)
        others = zip(rewards[own:], names[own:], strict=True)
        return [*rewards[:own], *(guard_reward_function(function, name=name) for function, name in others)]

    def names(self, given: Sequence[str]) -> list[str]:
        """Returns what the sources are called in the logs, where `given` is what TRL would call them and its own."""
        own = [source.name or name for source, name in zip(self._sources, given, strict=False)]
        return [*own, *given[len(own) :]]

    def check(self, rewards: torch.Tensor, *, step: int) -> None:
        """
        Checks the rewards of models and of the live reward, each of which applies to every completion; those of
        functions are checked where they are guarded.

        Args:
            rewards (`torch.Tensor` of shape `(N, sources)`):
                Rewards of all ranks.
            step (`int`):
                Step that they are for.

        Raises:
            [`~online_trl.rewards.functions.RewardFunctionError`]: if one is not a finite number.
        """
        for source, column in zip(self._sources, rewards.T, strict=False):
            wrong = (~column.isfinite()).nonzero()[:, 0].tolist()
            if wrong and not source.is_function:
                raise RewardFunctionError(
                    f"the reward model `{source.label}` gave {column[wrong[0]].item()} for completion {wrong[0]} of a "
                    f"batch of {len(column)} completions at step {step}, and {len(wrong)} such rewards in all; a "
                    "reward is a finite number: look at its weights and at what they are computed in"
                )

    def settle(self, rewards: torch.Tensor, *, learn: bool) -> tuple[torch.Tensor, dict[int, float]]:
        """
        Leaves out the sources that have failed on some rank, and normalises the others.

        Args:
            rewards (`torch.Tensor` of shape `(N, sources)`):
                Rewards of all ranks, NaN where a source does not apply. Columns after the last source are kept.
            learn (`bool`):
                Whether the running moments take these rewards in.

        Returns:
            `tuple[torch.Tensor, dict[int, float]]`: The rewards, of the same shape, and the mean that each normalised
            source had before, by its place.
        """
        settled, means = rewards.clone(), {}
        for index, source in enumerate(self._sources):
            column = settled[:, index]
            # A group of completions may lie on several ranks: its members must be paid for by the same sources.
            if source.on_failure == "drop" and (column == DROPPED).any():
                column.fill_(torch.nan)
            batch = Moments.of(column)
            if source.normalise != "none" and batch.count:
                means[index] = batch.mean
                column.copy_(self._scale(index, batch, learn).standardise(column))
        return settled, means

    def state_dict(self) -> list[dict[str, Any]]:
        """Returns the running moments, to go into a checkpoint."""
        pairs = zip(self._sources, self._moments, strict=True)
        return [{"source": source.label, **asdict(moments)} for source, moments in pairs]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Goes on from the running moments of a checkpoint; a source that was not in its place starts afresh."""
        for index, (source, saved) in enumerate(zip(self._sources, state, strict=False)):
            if saved["source"] == source.label:
                self._moments[index] = Moments(saved["count"], saved["mean"], saved["squares"])

    def _scale(self, index: int, batch: Moments, learn: bool) -> Moments:
        """What rewards are standardised by: the moments of their batch, or those of all so far."""
        if self._sources[index].normalise == "batch":
            return batch
        if learn:
            self._moments[index] = self._moments[index].merged(batch)
        return self._moments[index]


def check_reward_model(path: str) -> None:
    """
    Checks, by its configuration alone, that a model can give rewards.

    Args:
        path (`str`):
            Folder or hub id.

    Raises:
        [`~online_trl.config.ConfigError`]: if it cannot be read, or is not a sequence classifier with one label.
    """
    if "/" not in path and not Path(path).is_dir():
        raise ConfigError(f"`{path}` is neither a folder nor the hub id of a reward model, such as `owner/name`")
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the reward model `{path}`: {error}") from error
    architectures = config.architectures or []
    if not any(name.endswith(_ARCHITECTURE) for name in architectures):
        raise ConfigError(f"`{path}` is not a reward model, that is a sequence classifier, but {architectures}")
    if config.num_labels != 1:
        raise ConfigError(f"`{path}` gives {config.num_labels} numbers for an answer; a reward model gives one")
