"""What an evaluation is told in its YAML file. Loads without torch: a mistake is found before all else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import ConfigError, check_config_file, check_range, from_mapping
from .evaluation.harness import HarnessOptions
from .evaluation.text import REFUSAL_PATTERN


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """
    A task: a dataset and a reward function.

    Args:
        dataset_name (`str`):
            Hub id, folder or file, with a column `prompt`.
        reward_func (`str`):
            `package.module:function`, a reward function in TRL's signature; it gets the other columns too.
        dataset_config (`str`, *optional*):
            Configuration of a hub dataset.
        dataset_split (`str`, *optional*, defaults to `"test"`):
            Split to take.
        num_prompts (`int`, *optional*):
            The first so many prompts. Defaults to all.
    """

    dataset_name: str
    reward_func: str
    dataset_config: str | None = None
    dataset_split: str = "test"
    num_prompts: int | None = None

    def __post_init__(self) -> None:
        if self.num_prompts is not None:
            check_range("num_prompts", self.num_prompts, 1, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """
    How policies are evaluated.

    Args:
        dataset_name (`str`, *optional*):
            Prompts: hub id, folder or file, with a column `prompt`. Defaults to the newest of the log, those of an
            evaluation first.
        dataset_config (`str`, *optional*), dataset_split (`str`, *optional*, defaults to `"test"`):
            Configuration and split of a hub dataset.
        num_prompts (`int`, *optional*, defaults to `200`):
            Prompts that each policy answers.
        judges (`list[str]`, *optional*, defaults to `["live"]`):
            Who judges: `live` for the reward model in service, a version of it such as `reward-0002`,
            `package.module:function`, the folder or hub id of a reward model, or a name in `reward_sources`.
        reward_sources (`dict[str, Any]`, *optional*):
            Options of judges by name, as in a recipe; beside its kinds, `pairwise_judge` compares two answers.
        proxy_judge (`str`, *optional*):
            The judge that policies are trained against. Defaults to `live` if it judges.
        heldout_judge (`str`, *optional*):
            A judge that they are not trained against, to see whether the proxy is over-optimised.
        main_judge (`str`, *optional*):
            Whose win rates stand for all. Defaults to the held-out judge, or one that compares, or the first.
        tasks (`dict[str, Any]`, *optional*):
            Options of tasks by name, see [`TaskOptions`].
        harness (`dict[str, Any]`, *optional*):
            Benchmarks of lm-evaluation-harness, see [`~online_trl.evaluation.harness.HarnessOptions`].
        max_completion_length (`int`, *optional*, defaults to `256`):
            Longest answer, in tokens.
        temperature (`float`, *optional*, defaults to `1.0`), top_p (`float`, *optional*, defaults to `1.0`):
            How answers are drawn. The KL divergence is measured only where both are 1.
        refusal_pattern (`str`, *optional*):
            Regular expression for how an answer begins that declines. Defaults to English phrases.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts that are answered, and answers that are judged, at once.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the answers.
        device (`str`, *optional*):
            Where models run. Defaults to the GPU if there is one.
        report_to (`list[str]`, *optional*):
            Trackers of accelerate that `online-trl evaluate` logs to, such as `wandb`.

    Raises:
        [`~online_trl.config.ConfigError`]: if a value is out of bounds, or names no judge.
    """

    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "test"
    num_prompts: int = 200
    judges: list[str] = field(default_factory=lambda: ["live"])
    reward_sources: dict[str, Any] = field(default_factory=dict)
    proxy_judge: str | None = None
    heldout_judge: str | None = None
    main_judge: str | None = None
    tasks: dict[str, Any] = field(default_factory=dict)
    harness: dict[str, Any] | None = None
    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    refusal_pattern: str = REFUSAL_PATTERN
    batch_size: int = 32
    seed: int = 0
    device: str | None = None
    report_to: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("num_prompts", "max_completion_length", "batch_size"):
            check_range(name, getattr(self, name), 1, None)
        check_range("temperature", self.temperature, 0, None)
        check_range("top_p", self.top_p, 0, 1)
        for name in ("proxy_judge", "heldout_judge", "main_judge"):
            judge = getattr(self, name)
            if judge is not None and judge not in self.judges:
                raise ConfigError(f"`{name}` is `{judge}`, which is not in `judges`: {', '.join(self.judges)}")
        if self.heldout_judge is not None and self.heldout_judge == self.proxy:
            raise ConfigError(f"`{self.proxy}` cannot be both the proxy and the held-out judge")
        try:
            re.compile(self.refusal_pattern)
        except re.error as error:
            raise ConfigError(f"`refusal_pattern` cannot be parsed: {error}") from error
        self.task_options, self.harness_options  # noqa: B018  their mistakes are found now

    @property
    def proxy(self) -> str | None:
        """The judge that policies are trained against."""
        return self.proxy_judge or ("live" if "live" in self.judges else None)

    @property
    def task_options(self) -> dict[str, TaskOptions]:
        """The tasks."""
        return {
            name: from_mapping(TaskOptions, _mapping(options, name), where=f"the task `{name}`")
            for name, options in self.tasks.items()
        }

    @property
    def harness_options(self) -> HarnessOptions | None:
        """The benchmarks."""
        return None if self.harness is None else from_mapping(HarnessOptions, self.harness, where="`harness`")


def read_evaluation_settings(path: str | Path | None) -> EvaluationSettings:
    """
    Reads the YAML file of an evaluation.

    Args:
        path (`str` or `Path`, *optional*):
            The file. Without it, everything is as by default.

    Raises:
        [`~online_trl.config.ConfigError`]: if it cannot be read, or something in it is wrong.
    """
    if path is None:
        return EvaluationSettings()
    return from_mapping(EvaluationSettings, check_config_file(path, [EvaluationSettings]), where=str(path))


def _mapping(options: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(options, Mapping):
        raise ConfigError(f"the task `{name}` must be a mapping with `dataset_name` and `reward_func`")
    return options
