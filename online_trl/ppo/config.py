"""The settings of PPO: every mistake in them is found when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from trl import GRPOConfig

from ..config import ConfigError, OnlineArguments, check_choice, check_range
from ..critic import ADAPTER, HEAD, MODEL, is_saved_part

LIVE = "live"
IN_REWARD, IN_LOSS = "reward", "loss"
# Those of TRL's losses that clip the ratio from both sides, which is what makes it PPO.
_CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")


class _Group(int):
    """A number of completions per prompt that is never too small: PPO compares with the critic, and not in groups."""

    def __lt__(self, other: int) -> bool:
        return False


@dataclass
class OnlinePPOConfig(OnlineArguments, GRPOConfig):
    """
    Configuration of [`OnlinePPOTrainer`]: every field of TRL's `GRPOConfig`, those of
    [`~online_trl.config.OnlineArguments`], and the ones below.

    TRL's fields keep their meaning: `num_iterations` is the number of PPO epochs over one rollout,
    `steps_per_generation` the number of minibatches that it is cut into, `epsilon` the clip range of the policy and
    `beta` the coefficient of the KL penalty. The new fields are named as in TRL's `PPOConfig`, where it had them.

    Args:
        num_generations (`int`, *optional*, defaults to `1`):
            Completions per prompt. The critic is the baseline, so one is enough.
        num_iterations (`int`, *optional*, defaults to `4`):
            PPO epochs over one rollout.
        beta (`float`, *optional*, defaults to `0.05`):
            Coefficient of the KL penalty.
        kl_penalty (`str`, *optional*, defaults to `"reward"`):
            Where the KL penalty goes: into the `reward` of each token, or into the `loss`, as in GRPO.
        kl_estimator (`str`, *optional*):
            Estimator of the KL divergence: `k1` or `k3`. Defaults to `k1` in the reward; in the loss, TRL's is `k3`.
        missing_eos_penalty (`float`, *optional*):
            Taken off the reward of a completion that did not end by itself.
        whiten_rewards (`bool`, *optional*, defaults to `False`):
            Whether to scale the rewards of all tokens of a rollout to variance 1, leaving their mean. Advantages are
            whitened in any case.
        critic (`str`, *optional*):
            What the values come from: `model`, a model of its own; `head`, a value head on the policy's backbone; or
            `adapter`, a LoRA adapter and a value head on the frozen base under the policy's adapter. Defaults to
            `adapter` if the policy is trained by one, otherwise `model`.
        critic_model (`str`, *optional*):
            What the critic starts from: folder or hub id of a model; `live`, the version of the live reward model in
            service; or folder of a saved critic. Defaults to the critic of its kind that was saved beside the model
            that the policy is loaded from, or else to that model. The recipes publish a policy with an adapter merged,
            beside which a critic of the kind `adapter` is none any more: it starts anew.
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
    beta: float = field(default=0.05, metadata={"help": "Coefficient of the KL penalty."})
    kl_penalty: str = field(
        default=IN_REWARD, metadata={"help": "Where the KL penalty goes: into the reward of each token, or the loss."}
    )
    kl_estimator: str | None = field(
        default=None, metadata={"help": "Estimator of the KL divergence: k1 or k3; defaults to k1 in the reward."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the reward of a completion that did not end by itself."}
    )
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Whether to scale the rewards of all tokens to variance 1."}
    )
    critic: str | None = field(default=None, metadata={"help": "What the values come from: model, head or adapter."})
    critic_model: str | None = field(
        default=None,
        metadata={"help": "What the critic starts from: folder or hub id, or live; defaults to the policy's model."},
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
        for name in ("vf_coef", "cliprange_value", "missing_eos_penalty"):
            check_range(name, getattr(self, name) or 0.0, 0.0, None)
        check_choice("loss_type", self.loss_type, _CLIPPED_LOSSES)
        self._check_kl()
        self._check_critic()
        self._check_unused()
        if self.ddp_find_unused_parameters is None:
            # The critic runs outside the forward pass that DDP watches, and would be taken for unused.
            self.ddp_find_unused_parameters = False
        self.num_generations = _Group(self.num_generations)
        super().__post_init__()
        self.num_generations = int(self.num_generations)

    def _check_kl(self) -> None:
        check_choice("kl_penalty", self.kl_penalty, (IN_REWARD, IN_LOSS))
        if self.kl_estimator is not None:
            check_choice("kl_estimator", self.kl_estimator, ("k1", "k3"))
        if self.kl_penalty == IN_LOSS and self.kl_estimator == "k1":
            raise ConfigError("`kl_estimator` is `k1`, which has no useful gradient: in the loss, TRL's is `k3`")
        if self.kl_penalty == IN_LOSS and self.beta == 0:
            raise ConfigError("`kl_penalty` is `loss`, but `beta`, the coefficient of the KL penalty, is 0")

    def _check_critic(self) -> None:
        if self.critic is not None:
            check_choice("critic", self.critic, (MODEL, HEAD, ADAPTER))
        start = self.critic_model
        if self.critic in (HEAD, ADAPTER) and start is not None and not is_saved_part(start):
            raise ConfigError(
                f"`critic_model` is {start}, but a critic of the kind `{self.critic}` is on the policy's model and "
                "starts from a saved critic of its kind alone: leave `critic_model` out, or set `critic` to `model`"
            )

    def _check_unused(self) -> None:
        """Refuses what TRL's GRPO would use and PPO does not."""
        if self.use_liger_kernel:
            raise ConfigError("`use_liger_kernel` computes a loss that has no room for the critic's: leave it out")
        if self.scale_rewards not in ("group", True):
            raise ConfigError("`scale_rewards` scales within groups, which PPO has not: see `whiten_rewards`")
        if self.sync_ref_model:
            raise ConfigError(
                "`sync_ref_model` copies the policy with its critic onto a reference that has none: leave it out"
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ConfigError(
                "`multi_objective_aggregation` normalises within groups, which PPO has not: leave it out"
            )
