"""TRL's `PPOTrainer` with prompts and reward functions as the other trainers take them, and on live feedback."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.data_utils import is_conversational
from trl.experimental.ppo import PPOTrainer

from ..config import ConfigError
from ..prompts import PromptLimit
from ..rewards.functions import RewardFunctionError, name_of
from ..trainer import OnlineTrainerMixin
from .config import OnlineTRLPPOConfig
from .prompts import PromptCollator, Row
from .sequence_reward import SequenceReward

# As TRL's other trainers load what they train: steps of usual size would be rounded away in half precision.
_DTYPE = torch.float32


class _StoppedError(Exception):
    """Training ends after the checkpoint that was just written."""


class FunctionPPOTrainer(PPOTrainer):
    """TRL's `PPOTrainer` with prompts and reward functions as TRL's `GRPOTrainer` takes them."""

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: list[Any],
        args: OnlineTRLPPOConfig,
        train_dataset: Dataset,
        *,
        processing_class: PreTrainedTokenizerBase | None = None,
        ref_model: PreTrainedModel | None = None,
        value_model: str | PreTrainedModel | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        _check_rewards(reward_funcs, args.reward_weights)
        path = model if isinstance(model, str) else model.config._name_or_path
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(path)
        _check_padding(processing_class)
        if isinstance(model, str):
            model = AutoModelForCausalLM.from_pretrained(path, dtype=_DTYPE)
        if ref_model is None and peft_config is None and is_deepspeed_zero3_enabled():
            # TRL copies the policy for its reference, which cannot be done once the policy is in shards.
            ref_model = AutoModelForCausalLM.from_pretrained(path, dtype=_DTYPE)
        if value_model is None or isinstance(value_model, str):
            value_model = AutoModelForSequenceClassification.from_pretrained(
                value_model or path, num_labels=1, dtype=_DTYPE
            )
        self.args, self.processing_class = args, processing_class
        # TRL deals out the dataset as soon as it has it, so that what is too long is left out here.
        limit = self._make_prompt_limit()
        if limit is not None:
            train_dataset = limit.admitted(train_dataset)
        self.reward_funcs = reward_funcs
        self.reward_func_names = [name_of(function) for function in reward_funcs]
        self.reward_weights = torch.tensor(args.reward_weights or [1.0] * len(reward_funcs))
        self.online_collator: Any = None
        self._prompts = PromptCollator(
            processing_class,
            self._draw,
            lambda prompts: self._tokenize_prompts(prompts)[0],
            args.local_rollout_forward_batch_size,
        )
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        super().__init__(
            args=args,
            processing_class=processing_class,
            model=model,
            ref_model=ref_model,
            reward_model=SequenceReward(self._score, model.config),
            train_dataset=train_dataset,
            value_model=value_model,
            data_collator=self._prompts,
            peft_config=peft_config,
            **kwargs,
        )

    @property
    def _step(self) -> int:
        """Batches that were trained on, under the name that the trainers of the GRPO family have for it."""
        step: int = self.state.global_step
        return step

    def train(self, resume_from_checkpoint: str | bool | None = None) -> None:
        """
        Trains, as TRL's trainer does.

        Raises:
            [`~online_trl.config.ConfigError`]: if it shall resume, which TRL's `PPOTrainer` cannot.
        """
        if resume_from_checkpoint:
            raise ConfigError("TRL's `PPOTrainer` cannot resume; `online_trl.ppo.OnlinePPOTrainer` can")
        try:
            super().train()
        except _StoppedError:
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def generate_completions(self, sampling: bool = False) -> None:
        # Neither the log nor the running moments of the rewards shall take part in an evaluation.
        self.model.eval()
        super().generate_completions(sampling)
        self.model.train()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        means = {name: sum(values) / len(values) for name, values in self._metrics["train"].items()}
        self._metrics["train"].clear()
        super().log({**logs, **means}, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        state = self.accelerator.get_state_dict(self.model) or {}
        policy = {key.removeprefix("policy."): value for key, value in state.items() if key.startswith("policy.")}
        with self._policy_as_model():
            if self.args.should_save:
                self._save(output_dir, state_dict=policy)
            if self.args.push_to_hub and not _internal_call:
                self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        with self._policy_as_model():
            super().create_model_card(*args, **kwargs)

    @contextlib.contextmanager
    def _policy_as_model(self) -> Iterator[None]:
        """TRL looks for the policy in `model`, but does not find it behind DDP or the engine of ZeRO-3."""
        wrapper, self.model = self.model, self.accelerator.unwrap_model(self.model).policy
        try:
            yield
        finally:
            self.model = wrapper

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # TRL's loop does not look at this.
        if self.control.should_training_stop and self.state.global_step < self.state.max_steps:
            raise _StoppedError

    def _make_prompt_limit(self) -> PromptLimit | None:
        return None

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]]]:
        if not is_conversational({"prompt": prompts[0]}):
            return (self.processing_class(prompts)["input_ids"],)
        options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True}
        return (self.processing_class.apply_chat_template(prompts, **options)["input_ids"],)

    def _draw(self, features: list[Row]) -> list[Row]:
        if self.online_collator is None or not self.model.training:
            return features
        return self.online_collator(features)

    def _score(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        rows, width = self._prompts.rows_of(input_ids)
        pairs = zip(input_ids[:, width:], attention_mask[:, width:], strict=True)
        completion_ids = [ids[mask.bool()].tolist() for ids, mask in pairs]
        completions: list[Any] = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        if is_conversational(rows[0]):
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        prompts = [row["prompt"] for row in rows]
        rewards_per_func = self._calculate_rewards(rows, prompts, completions, completion_ids)
        if rewards_per_func.isnan().all(dim=1).any():
            raise RewardFunctionError(
                f"none of the reward functions ({', '.join(self.reward_func_names)}) rates one of the completions, "
                "and TRL's `PPOTrainer` cannot leave it out: return a number, or use `online_trl.ppo`"
            )
        for name, rewards in zip(self.reward_func_names, rewards_per_func.unbind(dim=1), strict=True):
            self._log_metric(f"rewards/{name}/mean", rewards.nanmean().item())
        rewards = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        start = self.accelerator.process_index * len(rows)
        return rewards[start : start + len(rows)]

    def _calculate_rewards(
        self, inputs: list[Row], prompts: list[Any], completions: list[Any], completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """Returns the rewards of all ranks, NaN where a function does not apply; shape `(N, functions)`."""
        batch: Row = {key: [row[key] for row in inputs] for key in inputs[0]}
        batch |= {"prompts": prompts, "completions": completions, "completion_ids": completion_ids_list}
        batch |= {"trainer_state": self.state, "log_metric": self._log_metric, "log_extra": _log_nothing}
        del batch["prompt"]
        columns = [_call(function, batch) for function in self.reward_funcs]
        rewards = torch.tensor(columns, dtype=torch.float32, device=self.accelerator.device).T.contiguous()
        gathered: torch.Tensor = self.accelerator.gather(rewards)
        return gathered

    def _log_metric(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)


class OnlineTRLPPOTrainer(OnlineTrainerMixin, FunctionPPOTrainer):
    """
    TRL's `PPOTrainer` on live feedback. It needs TRL 1.12, can neither resume nor be given a reward model, and is
    several times slower than [`~online_trl.ppo.OnlinePPOTrainer`]: it is for those who go on with a run or a recipe of
    that trainer.

    Args:
        model (`str` or `PreTrainedModel`):
            The policy, or its folder or hub id.
        reward_funcs (`Callable` or `list`):
            Reward functions in the signature of TRL's `GRPOTrainer`, weighted by `args.reward_weights`, and
            [`~online_trl.rewards.sources.RewardSource`]s of such. A [`~online_trl.rewards.scorer.LiveReward`] among
            them is refreshed while training runs.
        args ([`OnlineTRLPPOConfig`]):
            Settings.
        train_dataset (`Dataset`):
            Prompts, conversational or plain, in a column `prompt`. Reward functions are passed its other columns.
        store ([`~online_trl.store.LogReader`], *optional*):
            The feedback log that fresh prompts and preferences come from.
        processing_class (`PreTrainedTokenizerBase`, *optional*):
            Defaults to the tokenizer of the policy.
        ref_model (`PreTrainedModel`, *optional*):
            Defaults to the policy as it is at first; under ZeRO-3 it is loaded once more.
        value_model (`str` or `PreTrainedModel`, *optional*):
            Model, or folder or hub id, that the critic starts from. Defaults to the policy's.
        **kwargs:
            As in `PPOTrainer`: `eval_dataset`, `optimizers`, `callbacks`, `peft_config`.

    Example:

    ```python
    from online_trl.trl_ppo import OnlineTRLPPOConfig, OnlineTRLPPOTrainer

    trainer = OnlineTRLPPOTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=brevity,
        args=OnlineTRLPPOConfig(output_dir="policy"),
        train_dataset=prompts,
    )
    trainer.train()
    ```
    """

    config_type = OnlineTRLPPOConfig
    _tag_names: ClassVar[list[str]] = [*PPOTrainer._tag_names, "online-trl"]


def _call(function: Callable[..., Any], batch: Row) -> list[float]:
    rewards = function(**batch)
    if inspect.isawaitable(rewards):
        rewards = asyncio.run(_result(rewards))
    return [torch.nan if reward is None else reward for reward in rewards]


async def _result(rewards: Any) -> Any:
    return await rewards


def _log_nothing(column: str, values: list[Any]) -> None:
    """TRL's `PPOTrainer` has no table of completions that a reward function could add to."""


def _check_rewards(functions: list[Any], weights: list[float] | None) -> None:
    for function in functions:
        if isinstance(function, str | nn.Module):
            raise ConfigError(
                "`reward_funcs` of TRL's `PPOTrainer` are functions or the live reward; a reward model can be called "
                "in one, or be given to `online_trl.ppo.OnlinePPOTrainer`"
            )
    if weights is not None and len(weights) != len(functions):
        raise ConfigError(f"there are {len(weights)} `reward_weights` for {len(functions)} `reward_funcs`")


def _check_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ConfigError(
            "TRL's `PPOTrainer` tells by the padding where an answer ends: give the tokenizer a `pad_token` other "
            "than its `eos_token`"
        )
