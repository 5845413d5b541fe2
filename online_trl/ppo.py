"""PPO on TRL's GRPO engine: its datasets, generation and reward functions; a critic, GAE and the clipped value loss.

The critic is a submodule of the policy, so that one optimiser, one DDP wrapper or one DeepSpeed engine holds both. It
is saved beside the policy, never inside it: a checkpoint's policy loads in plain transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import disable_dropout_in_model

from . import ppo_math
from .config import OnlineArguments, check_range
from .trainer import OnlineTrainerMixin

CRITIC_FOLDER = "critic"
_CRITIC_PREFIX = "critic."


@dataclass
class OnlinePPOConfig(OnlineArguments, GRPOConfig):
    """
    Configuration of [`OnlinePPOTrainer`]: every field of TRL's `GRPOConfig`, those of
    [`~online_trl.config.OnlineArguments`], and the ones below.

    TRL's fields keep their meaning: `num_iterations` is the number of PPO epochs over one rollout, `epsilon` the clip
    range of the policy, `beta` the coefficient of the KL penalty, which PPO puts into the reward of each token.

    Args:
        num_generations (`int`, *optional*, defaults to `1`):
            Completions per prompt. The critic is the baseline, so one is enough.
        num_iterations (`int`, *optional*, defaults to `4`):
            PPO epochs over one rollout.
        beta (`float`, *optional*, defaults to `0.05`):
            Coefficient of the KL penalty.
        critic_model (`str`, *optional*):
            Folder or hub id of the model that the critic starts from. Defaults to the policy's.
        gamma (`float`, *optional*, defaults to `1.0`):
            Discount factor.
        lam (`float`, *optional*, defaults to `0.95`):
            Lambda of generalised advantage estimation.
        vf_coef (`float`, *optional*, defaults to `0.1`):
            Coefficient of the value loss.
        cliprange_value (`float`, *optional*, defaults to `0.2`):
            How far a value may move from the one at rollout time.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*GRPOConfig._VALID_DICT_FIELDS, "reward_config", "reward_lora"]

    num_generations: int = field(default=1, metadata={"help": "Completions per prompt."})
    num_iterations: int = field(default=4, metadata={"help": "PPO epochs over one rollout."})
    beta: float = field(default=0.05, metadata={"help": "Coefficient of the KL penalty in the reward of each token."})
    critic_model: str | None = field(
        default=None, metadata={"help": "Folder or hub id that the critic starts from; defaults to the policy's."}
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount factor."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    vf_coef: float = field(default=0.1, metadata={"help": "Coefficient of the value loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "How far a value may move from the rollout's."})

    def __post_init__(self) -> None:
        self.check_online_arguments()
        check_range("num_generations", self.num_generations, 1, None)
        for name in ("gamma", "lam"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        for name in ("vf_coef", "cliprange_value"):
            check_range(name, getattr(self, name), 0.0, None)
        if self.ddp_find_unused_parameters is None:
            # The critic runs outside the forward pass that DDP watches, and would be taken for unused.
            self.ddp_find_unused_parameters = False
        # GRPOConfig refuses a group of one, because GRPO needs something to compare with. PPO has the critic.
        wanted, self.num_generations = self.num_generations, max(2, self.num_generations)
        super().__post_init__()
        self.num_generations = wanted


class OnlinePPOTrainer(OnlineTrainerMixin, GRPOTrainer):
    """
    PPO on live feedback, on the engine of TRL's `GRPOTrainer`.

    Args:
        model, reward_funcs, args, train_dataset, **kwargs:
            As in `GRPOTrainer`, with an [`OnlinePPOConfig`]. A [`~online_trl.rewards.scorer.LiveReward`] in
            `reward_funcs` is refreshed while training runs.
        store ([`~online_trl.store.LogReader`], *optional*):
            The feedback log that fresh prompts and preferences come from.

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
    _tag_names: ClassVar[list[str]] = ["trl", "ppo"]
    _name = "PPO"

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: OnlinePPOConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = OnlinePPOConfig()
        super().__init__(model, reward_funcs, args, **kwargs)
        self._scores = torch.empty(0)
        self.model.critic = load_critic(args.critic_model or self.model.config._name_or_path, dtype=self.model.dtype)
        if args.gradient_checkpointing:
            self.model.critic.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards_per_func: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        # TRL turns these into group advantages and drops them; PPO needs the rewards themselves.
        self._scores = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        return rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if "old_per_token_logps" not in output:
                output["old_per_token_logps"] = self._policy_logps(output)
            values = self._values(self.model, output) * mask
        kl = output["old_per_token_logps"] - output["ref_per_token_logps"] if self.beta else torch.zeros_like(values)
        rank = self.accelerator.process_index
        scores = self._scores[rank * len(values) : (rank + 1) * len(values)]
        rewards = ppo_math.token_rewards(scores, kl, mask, kl_coef=self.beta)
        advantages, returns = ppo_math.generalized_advantages(
            rewards, values, mask, gamma=self.args.gamma, lam=self.args.lam
        )
        moments = self.accelerator.reduce(ppo_math.masked_moments(advantages, mask), reduction="sum")
        output["advantages"] = ppo_math.whiten(advantages, mask, moments)
        output["old_values"], output["returns"] = values, returns
        self._log_rollout(kl, values, returns, mask)
        return output

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        # The KL penalty is in the rewards already: TRL must not put it into the loss a second time.
        beta, self.beta = self.beta, 0.0
        try:
            policy_loss: torch.Tensor = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        value_loss = ppo_math.clipped_value_loss(
            self._values(model, inputs),
            inputs["old_values"],
            inputs["returns"],
            mask,
            cliprange=self.args.cliprange_value,
        )
        self._log_mean("value_loss", value_loss)
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        return policy_loss + self.args.vf_coef * value_loss / accumulation

    def _policy_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        input_ids, attention_mask = _sequences(batch)
        kept = batch["completion_ids"].shape[1]
        logps: torch.Tensor = self._get_per_token_logps_and_entropies(
            self.model, input_ids, attention_mask, kept, batch_size=self.args.per_device_train_batch_size
        )[0]
        return logps

    def _values(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """The critic's value of the state in which each completion token was chosen, shape `(B, T)`."""
        input_ids, attention_mask = _sequences(batch)
        critic = self.accelerator.unwrap_model(model).critic
        with self.accelerator.autocast():
            values = critic(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[..., 0]
        kept = batch["completion_ids"].shape[1]
        return values[:, -kept - 1 : -1].float()

    def _log_rollout(self, kl: torch.Tensor, values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> None:
        self._log_mean("kl", (kl * mask).sum() / mask.sum().clamp(min=1))
        self._log_mean("objective/kl", (kl * mask).sum(dim=1).mean())
        self._log_mean("val/mean", (values * mask).sum() / mask.sum().clamp(min=1))
        self._log_mean("val/explained_variance", ppo_math.explained_variance(values, returns, mask))

    def _log_mean(self, name: str, value: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if state_dict is None:
            state_dict = model.state_dict()
        critic = {key: value for key, value in state_dict.items() if key.startswith(_CRITIC_PREFIX)}
        policy = {key: value for key, value in state_dict.items() if key not in critic}
        super()._save(output_dir, state_dict=policy)
        if self.args.should_save:
            model.critic.save_pretrained(
                Path(output_dir or self.args.output_dir) / CRITIC_FOLDER,
                state_dict={key.removeprefix(_CRITIC_PREFIX): value for key, value in critic.items()},
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        target: Any = self.model if model is None else model
        saved = load_critic(str(Path(resume_from_checkpoint) / CRITIC_FOLDER), dtype=self.model.dtype)
        target.critic.load_state_dict(saved.state_dict())


def load_critic(path: str, *, dtype: torch.dtype) -> PreTrainedModel:
    """
    Loads a model with one value per token.

    Args:
        path (`str`):
            Folder or hub id of a causal language model or reward model, which gets a new head whose values are 0, or
            of a saved critic.
        dtype (`torch.dtype`):
            Type of its parameters.

    Returns:
        `PreTrainedModel`: A token classification model with one label and no dropout.
    """
    critic: PreTrainedModel
    critic, report = AutoModelForTokenClassification.from_pretrained(
        path, num_labels=1, dtype=dtype, output_loading_info=True
    )
    disable_dropout_in_model(critic)
    if any(key.startswith("score") for key in report["missing_keys"]):
        _zero(critic.score)
    return critic


def _zero(head: nn.Linear) -> None:
    """A critic that starts at 0 leaves the first advantages to the rewards alone, instead of to a random head."""
    parameters = list(head.parameters())
    if is_deepspeed_zero3_enabled():
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
            for parameter in parameters:
                nn.init.zeros_(parameter)
        return
    for parameter in parameters:
        nn.init.zeros_(parameter)


def _sequences(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return input_ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
