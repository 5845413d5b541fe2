"""GRPO on live feedback: TRL's `GRPOTrainer` with the log, the live reward and their state in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trl import GRPOConfig, GRPOTrainer

from .config import OnlineArguments
from .trainer import OnlineTrainerMixin


@dataclass
class OnlineGRPOConfig(OnlineArguments, GRPOConfig):
    """
    Configuration of [`OnlineGRPOTrainer`]: every field of TRL's `GRPOConfig`, and those of
    [`~online_trl.config.OnlineArguments`].
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*GRPOConfig._VALID_DICT_FIELDS, "reward_config", "reward_lora"]

    def __post_init__(self) -> None:
        self.check_online_arguments()
        super().__post_init__()


class OnlineGRPOTrainer(OnlineTrainerMixin, GRPOTrainer):
    """
    TRL's `GRPOTrainer` on live feedback.

    Args:
        model, reward_funcs, args, train_dataset, **kwargs:
            As in `GRPOTrainer`. A [`~online_trl.rewards.scorer.LiveReward`] in `reward_funcs` is refreshed while
            training runs; custom functions stand beside it, weighted by `args.reward_weights`.
        store ([`~online_trl.store.LogReader`], *optional*):
            The feedback log that fresh prompts and preferences come from. Without it, the trainer is TRL's own.

    Example:

    ```python
    from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
    from online_trl.registry import ModelRegistry
    from online_trl.rewards.scorer import LiveReward
    from online_trl.store import FeedbackStore

    trainer = OnlineGRPOTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=LiveReward(ModelRegistry("registry")),
        args=OnlineGRPOConfig(output_dir="policy", refresh_steps=50),
        train_dataset=prompts,
        store=FeedbackStore("sqlite:///feedback.db"),
    )
    trainer.train()
    ```
    """

    config_type = OnlineGRPOConfig
    _tag_names: ClassVar[list[str]] = [*GRPOTrainer._tag_names, "online-trl"]
