"""The settings of TRL's own `PPOTrainer` on live feedback."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from trl.experimental.ppo import PPOConfig

from ..config import OnlineArguments


@dataclass
class OnlineTRLPPOConfig(OnlineArguments, PPOConfig):
    """
    Configuration of [`OnlineTRLPPOTrainer`]: every field of TRL's `PPOConfig`, those of
    [`~online_trl.config.OnlineArguments`], and the ones below.

    Args:
        stop_token (`str`, *optional*, defaults to `"eos"`):
            Where an answer ends. TRL's own default, `None`, lets each one run on to `response_length`.
        reward_weights (`list[float]`, *optional*):
            Weight of each reward function. Defaults to 1 for each.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*PPOConfig._VALID_DICT_FIELDS, "reward_config", "reward_lora"]

    # What the trainers of the GRPO family have fields for: one answer to each prompt, and a rollout each step.
    num_generations: ClassVar[int] = 1
    steps_per_generation: ClassVar[int] = 1
    num_iterations: ClassVar[int] = 1

    stop_token: Literal["eos"] | None = field(default="eos", metadata={"help": "Where an answer ends."})
    reward_weights: list[float] | None = field(default=None, metadata={"help": "Weight of each reward function."})

    def __post_init__(self) -> None:
        self.check_online_arguments()
        super().__post_init__()

    @property
    def generation_batch_size(self) -> int:
        """Completions of one rollout over all ranks, which TRL counts when it makes the trainer."""
        return self.batch_size
