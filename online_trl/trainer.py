"""What the online trainers share: the log and the live reward.

The mixin stands before a TRL trainer of the GRPO family in the list of bases. It wires parts together; it changes
nothing in how TRL generates, scores or optimises.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import AutoConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import GRPOConfig
from trl.data_utils import is_conversational
from trl.trainer.utils import get_config_model_id

from .callbacks import FollowRewardCallback, RefreshCallback
from .checkpoint import CheckpointMixin
from .config import DROP, FOLLOW, TRUNCATE, ConfigError, OnlineArguments, check_keys
from .data import OnlineDataCollator, PreferenceFeed
from .distributed import broadcast_from_main
from .prompts import PromptLimit
from .rewards.nesting import nested_trainer
from .rewards.outcome import RefreshOutcome
from .rewards.refresh import RewardRefresher, learned_upto
from .rewards.reward_trainer import OnlineRewardConfig
from .rewards.schedule import RefreshSchedule
from .rewards.scorer import VERSION_METRIC, LiveReward, version_number
from .rewards.sources import RewardSources
from .shared_base import has_lora, on_shared_base
from .store import LogReader
from .types import ModelRole


class OnlineTrainerMixin(CheckpointMixin):
    """
    Adds the feedback log and the live reward to a TRL trainer of the GRPO family.

    Args:
        model, reward_funcs, args, train_dataset, eval_dataset, **kwargs:
            As in TRL's trainer. A [`~online_trl.rewards.scorer.LiveReward`] in `reward_funcs` is refreshed while
            training runs; a [`~online_trl.rewards.sources.RewardSource`] gives a reward options.
        store ([`~online_trl.store.LogReader`], *optional*):
            The feedback log that fresh prompts and preferences come from: a [`~online_trl.store.FeedbackStore`], or a
            [`~online_trl.store.RemoteStore`] of another machine's. Without it, the trainer is TRL's own.

    Raises:
        [`~online_trl.config.ConfigError`]: if the prompts of a dataset are plain text although a `store` or a
            live reward is given, if the live reward has neither a version nor a log to learn from, or if the settings
            do not go with each other.
        `TypeError`: if `args` has not the fields of the online trainers.
    """

    config_type: ClassVar[type[Any]]
    data_collator: Any
    reward_func_names: list[str]
    _name: str

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any = None,
        *,
        store: LogReader | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = self.config_type(f"{name.split('/')[-1]}-{self._name}")
        sources = RewardSources(reward_funcs)
        live = sources.live
        _check_arguments(args, self.config_type, kwargs, reads_log=store is not None)
        if store is not None or live is not None:
            for name, dataset in named_datasets(train_dataset, eval_dataset):
                _check_conversational(name, dataset)
        if live is not None:
            _check_live_reward(live, args, store)
        self._check_before_loading(args, model, live, kwargs.get("peft_config"))
        super().__init__(  # type: ignore[call-arg]
            model=model,
            reward_funcs=sources.for_trl(),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.reward_sources = sources
        self.reward_func_names = sources.names(self.reward_func_names)
        self.reward_funcs = sources.guard_others(self.reward_funcs, self.reward_func_names)
        self.prompt_limit = self._make_prompt_limit()
        if self.prompt_limit is not None:
            self.train_dataset = self.prompt_limit.admitted(self.train_dataset)
        self.live_reward = live
        self.online_collator = self._make_collator(store) if store is not None else None
        self.refresh_callback: RefreshCallback | None = None
        self.refreshes: list[RefreshOutcome] = []
        if live is not None:
            self._attach_live_reward(live)
        if live is not None and self.args.refresh_mode == FOLLOW:
            self.add_callback(FollowRewardCallback(live))  # type: ignore[attr-defined]
        elif live is not None and store is not None:
            policy = model if isinstance(model, str) else model.config._name_or_path
            self._attach_refresh(live, store, self.args.reward_initial_model or policy)

    def _check_before_loading(self, args: Any, model: Any, live: LiveReward | None, peft_config: Any) -> None:
        """Finds what a trainer cannot be made with before a model is loaded."""

    def _make_collator(self, store: LogReader) -> OnlineDataCollator:
        return OnlineDataCollator(
            store,
            num_generations=self.args.num_generations,
            generation_batch_size=self.args.generation_batch_size,
            generate_every=self.args.steps_per_generation * self.args.num_iterations,
            fresh_fraction=self.args.fresh_prompt_fraction,
            process_index=self.args.process_index,
            broadcast=broadcast_from_main,
            max_user_share=self.args.max_user_share,
            admits=self.prompt_limit.admits if self.prompt_limit is not None else None,
            seed=self.args.seed,
        )

    def _make_prompt_limit(self) -> PromptLimit | None:
        if self.args.max_prompt_length is None:
            return None
        tokenize = super()._tokenize_prompts  # type: ignore[misc]
        return PromptLimit(
            self.args.max_prompt_length,
            self.args.long_prompts,
            count_tokens=lambda prompt: len(tokenize([prompt])[0][0]),
        )

    def _attach_live_reward(self, live: LiveReward) -> None:
        live.device = self.args.device
        live.pessimism = self.args.reward_pessimism
        # Under ZeRO-3 no rank has the whole base, which a rank alone scores with.
        if has_lora(self.model) and not is_deepspeed_zero3_enabled():  # type: ignore[attr-defined]
            live.base = on_shared_base(self.model)  # type: ignore[attr-defined]
        version = broadcast_from_main(lambda: live.registry.live(ModelRole.REWARD))
        if version is not None:
            live.load(version.name)

    def _attach_refresh(self, live: LiveReward, store: LogReader, base_model: str) -> None:
        feed = PreferenceFeed(store, broadcast=broadcast_from_main)
        feed.cursor = broadcast_from_main(lambda: learned_upto(live.registry))
        refresher = RewardRefresher(
            live,
            base_model=base_model,
            make_args=partial(reward_config, self.args),
            settings=self.args,
            peft_config=reward_lora(self.args),
            broadcast=broadcast_from_main,
            seed=self.args.seed,
        )
        schedule = RefreshSchedule(
            feed,
            refresher,
            rows=self.args.refresh_rows,
            on_drift=self.args.refresh_on_drift,
            min_statements=self.args.refresh_min_statements,
            on_refresh=self.refreshes.append,
        )
        self.refresh_callback = RefreshCallback(schedule, steps=self.args.refresh_steps)
        self.add_callback(self.refresh_callback)  # type: ignore[attr-defined]

    @property
    def feedback_cursor(self) -> int | None:
        """`seq` up to which the run has learned from feedback, if it refreshes the reward model."""
        return self.refresh_callback.schedule.feed.cursor if self.refresh_callback is not None else None

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.online_collator is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        # Only training mixes in the log: evaluation keeps to the prompts it was given.
        plain, self.data_collator = self.data_collator, self.online_collator
        try:
            return super().get_train_dataloader()  # type: ignore[misc]
        finally:
            self.data_collator = plain

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        prompt_ids, *others = super()._tokenize_prompts(prompts)  # type: ignore[misc]
        # Evaluation keeps to the prompts as they are given.
        if self.prompt_limit is not None and self.model.training:  # type: ignore[attr-defined]
            if self.prompt_limit.truncates:
                prompt_ids, share = self.prompt_limit.truncated(prompt_ids)
                self._log_metric("prompts/truncated", share)  # type: ignore[attr-defined]
            else:
                self._metrics["train"]["prompts/dropped"].append(self.prompt_limit.dropped)  # type: ignore[attr-defined]
        return prompt_ids, *others

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # TRL has gathered the rewards of all ranks here, so that each of them settles the same ones.
        rewards_per_func = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        self.reward_sources.check(rewards_per_func, step=self.state.global_step)
        learn = self.model.training  # type: ignore[attr-defined]
        settled, raw_means = self.reward_sources.settle(rewards_per_func, learn=learn)
        for index, mean in raw_means.items():
            name = f"rewards/{self.reward_func_names[index]}/raw_mean"
            self._metrics["train" if learn else "eval"][name].append(mean)  # type: ignore[attr-defined]
        if learn and self.live_reward is not None:
            self.live_reward.note_payment()
        return settled

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # Reward functions report when TRL generates, and TRL takes the mean of what they report between two lines of
        # the log. A version is no number to take means of, and a step on an earlier rollout was paid by that one's.
        if self.live_reward is not None and "loss" in logs:
            version = version_number(self.live_reward.versions_used[-1])
            self._metrics["train"][VERSION_METRIC] = [version]  # type: ignore[attr-defined]
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


def reward_config(args: Any) -> OnlineRewardConfig:
    """
    Makes the settings of a reward refresh from those of the policy's trainer.

    Args:
        args (`OnlineGRPOConfig` or `OnlinePPOConfig`):
            Settings of the policy's trainer. Its `reward_config` overrides what is set here.

    Raises:
        [`~online_trl.config.ConfigError`]: if `reward_config` names a field that `OnlineRewardConfig` does not have.
    """
    overrides = args.reward_config or {}
    check_keys(overrides, OnlineRewardConfig.__dataclass_fields__, where="`reward_config`")
    settings: dict[str, Any] = {
        "output_dir": str(Path(args.output_dir) / "reward"),
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "num_train_epochs": 1,
        "bf16": args.bf16,
        "fp16": args.fp16,
        "use_cpu": args.use_cpu,
        "gradient_checkpointing": args.gradient_checkpointing,
        "seed": args.seed,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    if args.reward_initial_model is None:
        # The first one is made of the policy's model, and has to be made of the same revision of it.
        given = _of_config(getattr(args, "model_init_kwargs", None))
        settings["trust_remote_code"] = given.pop("trust_remote_code", False)
        settings["model_init_kwargs"] = given or None
    return OnlineRewardConfig(**{**settings, **overrides})


def reward_lora(args: Any) -> Any:
    """
    Makes the adapter that a reward refresh trains, from the `reward_lora` of the policy's trainer.

    Returns:
        `LoraConfig`, *optional*: `None` to train all weights.

    Raises:
        [`~online_trl.config.ConfigError`]: if PEFT is not installed, or its `LoraConfig` has no such field.
    """
    if args.reward_lora is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConfigError("`reward_lora` needs PEFT: `pip install online-trl[peft]`") from error
    check_keys(args.reward_lora, LoraConfig.__dataclass_fields__, where="`reward_lora`")
    return LoraConfig(**args.reward_lora)


def check_model(setting: str, name: str | None, model_init_kwargs: dict[str, Any] | None = None) -> None:
    """
    Checks that a model can be found, by its configuration alone.

    Args:
        setting (`str`):
            Where it was named, for the message.
        name (`str`, *optional*):
            Hub id or folder.
        model_init_kwargs (`dict`, *optional*):
            How it is to be loaded: its `revision`, and whether to `trust_remote_code`.

    Raises:
        [`~online_trl.config.ConfigError`]: if it cannot.
    """
    if not name:
        raise ConfigError(f"`{setting}` is not set: give a hub id or the folder of a model")
    try:
        AutoConfig.from_pretrained(name, **_of_config(model_init_kwargs))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the model `{name}`, which is the `{setting}`: {error}") from error


def _of_config(model_init_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Returns what of these decides which model is loaded, and not how."""
    given = model_init_kwargs or {}
    return {name: given[name] for name in ("revision", "trust_remote_code") if name in given}


def check_reward_config(args: Any) -> None:
    """
    Finds a mistake in `reward_initial_model`, `reward_config` or `reward_lora` now, and not at the first refresh.

    Raises:
        [`~online_trl.config.ConfigError`]: as [`check_model`], [`reward_config`] and [`reward_lora`].
        `ValueError`: if TRL refuses a value.
    """
    if args.reward_initial_model is not None:
        check_model("reward_initial_model", args.reward_initial_model)
    reward_lora(args)
    with nested_trainer():
        reward_config(args)


def _check_live_reward(live: LiveReward, args: Any, store: LogReader | None) -> None:
    check_reward_config(args)
    if broadcast_from_main(lambda: live.registry.live(ModelRole.REWARD)) is not None:
        return
    if args.refresh_mode == FOLLOW:
        raise ConfigError(
            "the live reward has no version in its registry to begin with: start `recipes/reward_refresh.py` first, "
            "or set `refresh_mode` to `inline`"
        )
    if store is None:
        raise ConfigError("the live reward has no version in its registry, and no `store` to learn a first one from")


def _check_arguments(args: Any, config_type: type[Any], given: dict[str, Any], *, reads_log: bool) -> None:
    if not issubclass(type(args), OnlineArguments):
        raise TypeError(f"`args` is a `{type(args).__name__}`; it must be an `{config_type.__name__}`")
    if reads_log and args.dataloader_num_workers:
        raise ConfigError(
            f"`dataloader_num_workers` is {args.dataloader_num_workers}, but fresh prompts are read from the log in "
            "the training process itself; set it to 0"
        )
    if reads_log and args.fresh_prompt_fraction and isinstance(given.get("environment_factory"), dict):
        raise ConfigError(
            "with several environments each prompt has to name its own, which those from the log do not: set "
            "`fresh_prompt_fraction` to 0"
        )
    if args.max_prompt_length is None:
        return
    if args.long_prompts == TRUNCATE and given.get("rollout_func") is not None:
        raise ConfigError(
            "`long_prompts` is `truncate`, but a `rollout_func` tokenises its prompts itself; set `drop`"
        )
    if args.long_prompts == DROP and given.get("environment_factory") is not None:
        raise ConfigError(
            "`long_prompts` is `drop`, but how long a prompt is, is known only once its environment has added to it; "
            "set `truncate`"
        )


def named_datasets(train_dataset: Any, eval_dataset: Any) -> list[tuple[str, Any]]:
    """Returns the datasets that a trainer was given, each with what to call it in a message."""
    several = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    named = [("train_dataset", train_dataset)]
    named += [(f"eval_dataset[{name!r}]" if name else "eval_dataset", dataset) for name, dataset in several.items()]
    return [(name, dataset) for name, dataset in named if dataset is not None]


def _check_conversational(name: str, dataset: Dataset | IterableDataset) -> None:
    row = next(iter(dataset), None)
    if row is None:
        raise ConfigError(f"`{name}` is empty")
    if "prompt" not in row:
        raise ConfigError(f"`{name}` has no column `prompt`; it has {', '.join(row)}")
    if not is_conversational(row):
        raise ConfigError(
            f"the prompts of `{name}` are plain text, but the feedback log and the live reward are about "
            'conversations: turn each into [{"role": "user", "content": prompt}]'
        )
