"""The trainer of PPO: TRL's `GRPOTrainer`, a critic, and the losses of [`~online_trl.ppo_math`]."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from .. import ppo_math
from ..config import ConfigError
from ..critic import (
    CRITIC_FOLDER,
    Critic,
    attach_critic,
    critic_kind,
    critic_part,
    is_critic_name,
    make_critic,
    saved_beside,
)
from ..distributed import broadcast_from_main
from ..rewards.scorer import LiveReward
from ..trainer import OnlineTrainerMixin, named_datasets
from ..types import ModelRole
from .config import IN_LOSS, IN_REWARD, LIVE, OnlinePPOConfig

_NO_IMAGES = "which PPO's critic cannot see: give it prompts of text alone, or train by `online_trl.grpo`"

_CITATION = """\
@article{ziegler2019finetuning,
    title  = {{Fine-Tuning Language Models from Human Preferences}},
    author = {Daniel M. Ziegler and Nisan Stiennon and Jeffrey Wu and Tom B. Brown and Alec Radford and Dario Amodei
              and Paul Christiano and Geoffrey Irving},
    year   = 2019,
    eprint = {arXiv:1909.08593},
}"""


class OnlinePPOTrainer(OnlineTrainerMixin, GRPOTrainer):
    """
    PPO on live feedback, on the engine of TRL's `GRPOTrainer`.

    Args:
        model, reward_funcs, args, train_dataset, eval_dataset, **kwargs:
            As in `GRPOTrainer`, with an [`OnlinePPOConfig`]. A [`~online_trl.rewards.scorer.LiveReward`] in
            `reward_funcs` is refreshed while training runs.
        store ([`~online_trl.store.LogReader`], *optional*):
            The feedback log that fresh prompts and preferences come from.

    Raises:
        [`~online_trl.config.ConfigError`]: if the prompts hold images or have a column of them, which the critic could
            not see, if `optimizers` brings an optimiser, if DeepSpeed would save no critic, or as
            [`~online_trl.trainer.OnlineTrainerMixin`].

    Example:

    ```python
    from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer

    trainer = OnlinePPOTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=brevity,
        args=OnlinePPOConfig(output_dir="policy"),
        train_dataset=prompts,
    )
    trainer.train()
    ```
    """

    config_type = OnlinePPOConfig
    _tag_names: ClassVar[list[str]] = ["trl", "ppo", "online-trl"]
    _name = "PPO"
    # Otherwise the card of the model would cite GRPO's.
    _paper: ClassVar[dict[str, str]] = {
        "title": "Fine-Tuning Language Models from Human Preferences",
        "id": "1909.08593",
        "citation": _CITATION,
    }

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: OnlinePPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        for name, dataset in named_datasets(train_dataset, eval_dataset):
            _check_text_alone(name, dataset)
        if (kwargs.get("optimizers") or (None, None))[0] is not None:
            raise ConfigError(
                "an optimiser that is made before the trainer does not know the critic, which would never learn: pass "
                "`optimizer_cls_and_kwargs`, or set `optim`"
            )
        super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, **kwargs)
        self._scores = torch.empty(0)
        self._scorable = torch.empty(0)
        critic = self._make_critic()
        attach_critic(self.model, critic)
        if self.args.gradient_checkpointing:
            for each in critic.models:
                each.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        if self.use_vllm:
            _send_policy_alone(self.vllm_generation)

    def _check_before_loading(self, args: Any, model: Any, live: LiveReward | None, peft_config: Any) -> None:
        super()._check_before_loading(args, model, live, peft_config)
        _check_gathers()
        critic_kind(args.critic, args.critic_model, _adapter(model) or peft_config)
        if args.critic_model != LIVE:
            return
        if live is None:
            raise ConfigError("`critic_model` is `live`, but there is no live reward among `reward_funcs`")
        if broadcast_from_main(lambda: live.registry.live(ModelRole.REWARD)) is None:
            raise ConfigError("`critic_model` is `live`, but the live reward has no version in its registry yet")

    def _make_critic(self) -> Critic:
        start = self.args.critic_model
        if start == LIVE:
            live: Any = self.live_reward
            start = str(live.registry.path(live.version))
        kind = critic_kind(self.args.critic, start, _adapter(self.model))
        start = start or saved_beside(self.model.config._name_or_path, kind)
        return make_critic(kind, start, self.model, self.args.model_init_kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards_per_func: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        # TRL turns these into group advantages and drops them; PPO needs the rewards themselves.
        self._scores = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        self._scorable = ~rewards_per_func.isnan().all(dim=1)
        return rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if "num_images" in output:
            raise ConfigError(f"a prompt or a tool gave images, {_NO_IMAGES}")
        with torch.no_grad(), self._activations_kept():
            if "old_per_token_logps" not in output:
                output["old_per_token_logps"] = self._policy_logps(output)
            values = self._values(output, batch_size=self.args.per_device_train_batch_size)
        mask = self._learnable(output)
        values = values * mask
        kl = self._kl(output)
        scores = self._local_scores(output)
        in_reward = self.args.kl_penalty == IN_REWARD
        rewards = ppo_math.token_rewards(scores, kl, mask, kl_coef=self.beta if in_reward else 0.0)
        if self.args.whiten_rewards:
            rewards = ppo_math.whiten(rewards, mask, shift_mean=False, add_up=self._add_up)
        advantages, returns = ppo_math.generalized_advantages(
            rewards, values, mask, gamma=self.args.gamma, lam=self.args.lam
        )
        output["advantages"] = ppo_math.whiten(advantages, mask, add_up=self._add_up)
        output["old_values"], output["returns"], output["value_mask"] = values, returns, mask
        output["num_values"] = self._add_up(mask.sum())
        self._show_advantages(output["advantages"], mask)
        self._log_rollout(scores, kl, values, returns, mask)
        return output

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        # A KL penalty that is in the rewards already must not go into the loss a second time.
        beta = self.beta
        self.beta = beta if self.args.kl_penalty == IN_LOSS else 0.0
        try:
            with self.model.critic.beside_policy():
                policy_loss: torch.Tensor = super()._compute_loss(model, inputs)
                values = self._values(inputs)
        finally:
            self.beta = beta
        value_loss = ppo_math.clipped_value_loss(
            values,
            inputs["old_values"],
            inputs["returns"],
            inputs["value_mask"],
            cliprange=self.args.cliprange_value,
            count=self._values_per_batch(inputs),
        )
        self._log_mean("value_loss", value_loss)
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        return policy_loss + self.args.vf_coef * value_loss / accumulation

    def _values_per_batch(self, inputs: dict[str, Any]) -> torch.Tensor:
        """How many values a batch of one rank has on average: each then counts the same, however batches are cut."""
        batches = self.accelerator.num_processes * (self.args.steps_per_generation if self.model.training else 1)
        count: torch.Tensor = inputs["num_values"].clamp(min=1) / batches
        return count

    @contextlib.contextmanager
    def _activations_kept(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for model in (self.model, *self.model.critic.models):
                stack.enter_context(disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs))
            yield

    def _policy_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        input_ids, attention_mask = _sequences(batch)
        kept = batch["completion_ids"].shape[1]
        logps: torch.Tensor = self._get_per_token_logps_and_entropies(
            self.model, input_ids, attention_mask, kept, batch_size=self.args.per_device_train_batch_size
        )[0]
        return logps

    def _values(self, batch: dict[str, Any], batch_size: int | None = None) -> torch.Tensor:
        """The critic's value of the state in which each completion token was chosen, shape `(B, T)`."""
        input_ids, attention_mask = _sequences(batch)
        critic = self.model.critic
        size = batch_size or len(input_ids)
        with self.accelerator.autocast():
            chunks = [
                critic(input_ids[start : start + size], attention_mask[start : start + size])
                for start in range(0, len(input_ids), size)
            ]
        kept = batch["completion_ids"].shape[1]
        return torch.cat(chunks)[:, -kept - 1 : -1].float()

    def _learnable(self, batch: dict[str, Any]) -> torch.Tensor:
        """Marks the tokens that the policy chose, in completions that a reward was given for; shape `(B, T)`."""
        mask: torch.Tensor = batch["completion_mask"] * batch.get("tool_mask", 1)
        return mask * self._local(self._scorable, len(mask))[:, None]

    def _local_scores(self, batch: dict[str, Any]) -> torch.Tensor:
        scores = self._local(self._scores, len(batch["completion_ids"]))
        if self.args.missing_eos_penalty is None:
            return scores
        ended = ppo_math.ended(batch["completion_ids"], batch["completion_mask"], self._eos_token_ids())
        return scores - self.args.missing_eos_penalty * ~ended

    def _eos_token_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id
        ids = ids if isinstance(ids, list) else [ids]
        return [each for each in {self._tokenizer.eos_token_id, *ids} if each is not None]

    def _kl(self, batch: dict[str, Any]) -> torch.Tensor:
        logps = batch["old_per_token_logps"]
        if not self.beta:
            return torch.zeros_like(logps, dtype=torch.float32)
        estimator = self.args.kl_estimator or ("k1" if self.args.kl_penalty == IN_REWARD else "k3")
        return ppo_math.kl_estimate(logps.float(), batch["ref_per_token_logps"].float(), estimator=estimator)

    def _local(self, of_all_ranks: torch.Tensor, count: int) -> torch.Tensor:
        rank = self.accelerator.process_index
        return of_all_ranks[rank * count : (rank + 1) * count]

    def _add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return total

    def _show_advantages(self, advantages: torch.Tensor, mask: torch.Tensor) -> None:
        """Shows the mean advantage over the tokens of each completion, where TRL shows those within groups."""
        means = (advantages * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        of_all_ranks = self.accelerator.gather(means).tolist()
        table = self._logs["advantages"]
        for _ in range(min(len(table), len(of_all_ranks))):  # it is as long as a rollout, which an evaluation may pass
            table.pop()
        table.extend(of_all_ranks)

    def _log_rollout(
        self, scores: torch.Tensor, kl: torch.Tensor, values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor
    ) -> None:
        # It is about groups, which PPO does not compare.
        self._metrics["train" if self.model.training else "eval"].pop("frac_reward_zero_std", None)
        if self.args.kl_penalty == IN_REWARD:  # otherwise TRL logs it, with the loss
            self._log_mean("kl", (kl * mask).sum() / mask.sum().clamp(min=1))
        for name, of_completions in (("objective/kl", (kl * mask).sum(dim=1)), ("objective/scores", scores)):
            self._log_mean(name, self._mean_of_scorable(of_completions))
        self._log_mean("val/mean", (values * mask).sum() / mask.sum().clamp(min=1))
        self._log_mean("val/explained_variance", ppo_math.explained_variance(values, returns, mask))

    def _mean_of_scorable(self, of_completions: torch.Tensor) -> torch.Tensor:
        """The mean over the completions of all ranks that a reward was given for."""
        scorable = self._local(self._scorable, len(of_completions))
        return self._add_up((of_completions * scorable).sum()) / self._add_up(scorable.sum()).clamp(min=1)

    def _log_mean(self, name: str, value: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            critic = self.model.critic
            own = critic.state_dict() if state_dict is None else critic_part(state_dict)
            critic.save(Path(output_dir or self.args.output_dir) / CRITIC_FOLDER, own)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target: Any = self.model if model is None else model
        critic = target.critic
        # transformers would miss the critic among the policy's weights, and warn of it.
        del target.critic
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        finally:
            target.critic = critic
        critic.load(Path(resume_from_checkpoint) / CRITIC_FOLDER)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        checkpoint = Path(self.state.best_model_checkpoint)
        # DeepSpeed's own checkpoint holds the critic with the policy. Where there is no checkpoint, transformers has
        # warned and left the policy as it is, to which its critic belongs.
        if not self.is_deepspeed_enabled and checkpoint.is_dir():
            self.model.critic.load(checkpoint / CRITIC_FOLDER)


def _adapter(model: Any) -> Any:
    return model.active_peft_config if isinstance(model, nn.Module) and is_peft_model(model) else None


def _check_gathers() -> None:
    """Refuses a ZeRO-3 that saves shards alone: there would be no critic in what is saved."""
    zero = (deepspeed_config() or {}).get("zero_optimization", {})
    if is_deepspeed_zero3_enabled() and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigError(
            "the DeepSpeed config does not gather the shards of ZeRO-3, so that neither policy nor critic could be "
            "saved: set `stage3_gather_16bit_weights_on_model_save` to true in its `zero_optimization`, or "
            "`zero3_save_16bit_model` in the accelerate config"
        )


def _check_text_alone(name: str, dataset: Any) -> None:
    row: dict[str, Any] = next(iter(dataset), {})
    contents = [message.get("content") for message in row.get("prompt", ()) if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    column = next((column for column in ("image", "images") if column in row), None)
    if column is not None:
        raise ConfigError(f"`{name}` has a column `{column}`, {_NO_IMAGES}; remove the column if it holds none")
    if any(part["type"] != "text" for part in parts):
        raise ConfigError(f"the prompts of `{name}` hold images, {_NO_IMAGES}")


def _send_policy_alone(vllm_generation: Any) -> None:
    """Keeps the critic from vLLM, which would not know its weights."""
    every = vllm_generation._iter_named_params
    vllm_generation._iter_named_params = lambda: (pair for pair in every() if not is_critic_name(pair[0]))


def _sequences(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return input_ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
