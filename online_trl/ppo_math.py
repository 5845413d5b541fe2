"""The mathematics of PPO as pure functions on tensors.

`B` is the number of completions and `T` the number of completion tokens. Masks are 1 on the tokens that the policy
chose and 0 on the others: padding, which comes after them, and what tools said, which comes between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def kl_estimate(logps: torch.Tensor, ref_logps: torch.Tensor, *, estimator: str) -> torch.Tensor:
    """
    Estimates the KL divergence from the reference at each token, from the log-probability of the token alone.

    Source: Schulman 2020, "Approximating KL Divergence" (http://joschu.net/blog/kl-approx.html).

    Args:
        logps, ref_logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy that chose the tokens, and under the reference.
        estimator (`str`):
            `k1`, the plain difference, whose single values may be negative; or `k3`, which is never negative and
            varies less.

    Returns:
        `torch.Tensor` of shape `(B, T)`: Estimates in nats.
    """
    log_ratio = ref_logps - logps
    return -log_ratio if estimator == "k1" else log_ratio.exp() - 1 - log_ratio


def ended(completion_ids: torch.Tensor, completion_mask: torch.Tensor, eos_token_ids: Sequence[int]) -> torch.Tensor:
    """
    Says which completions ended by themselves, and not because they became too long.

    Args:
        completion_ids, completion_mask (`torch.Tensor` of shape `(B, T)`):
            Completions and which of their tokens are no padding.
        eos_token_ids (`Sequence[int]`):
            Tokens that end a completion.

    Returns:
        `torch.Tensor` of shape `(B,)`: Whether the last token is one of them.
    """
    last = completion_ids.gather(1, _last(completion_mask)[:, None])[:, 0]
    return torch.isin(last, torch.tensor(eos_token_ids, device=last.device))


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, *, kl_coef: float) -> torch.Tensor:
    """
    Spreads the rewards over the tokens: the KL penalty at every token, the score at the last one.

    Source: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences" (https://arxiv.org/abs/1909.08593).

    Args:
        scores (`torch.Tensor` of shape `(B,)`):
            Reward of each completion.
        kl (`torch.Tensor` of shape `(B, T)`):
            Estimate of the KL divergence from the reference at each token, in nats.
        mask (`torch.Tensor` of shape `(B, T)`):
            Which tokens the policy chose.
        kl_coef (`float`):
            Reward per nat.

    Returns:
        `torch.Tensor` of shape `(B, T)`: Reward of each token, 0 where the mask is.
    """
    rewards = -kl_coef * kl * mask
    rewards[torch.arange(len(scores), device=scores.device), _last(mask)] += scores * mask.any(dim=1)
    return rewards


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Generalised advantage estimation over completions that end at their last token. What the policy did not choose is
    stepped over: the state that follows a token is that of the next one that the policy chose.

    Source: Schulman et al. 2015, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
    (https://arxiv.org/abs/1506.02438).

    Args:
        rewards (`torch.Tensor` of shape `(B, T)`):
            Reward of each token.
        values (`torch.Tensor` of shape `(B, T)`):
            The critic's value of the state in which each token was chosen.
        mask (`torch.Tensor` of shape `(B, T)`):
            Which tokens the policy chose.
        gamma (`float`):
            Discount factor.
        lam (`float`):
            Trade-off between bias (0) and variance (1).

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Advantages and returns, each of shape `(B, T)` and 0 where the mask is.
    """
    chosen = mask.bool()
    advantages = torch.zeros_like(values)
    following_advantage = torch.zeros_like(values[:, 0])
    following_value = torch.zeros_like(values[:, 0])
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] + gamma * following_value - values[:, step]
        advantage = delta + gamma * lam * following_advantage
        following_advantage = torch.where(chosen[:, step], advantage, following_advantage)
        following_value = torch.where(chosen[:, step], values[:, step], following_value)
        advantages[:, step] = advantage * mask[:, step]
    return advantages, (advantages + values) * mask


def whiten(
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    shift_mean: bool = True,
    add_up: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> torch.Tensor:
    """
    Scales values to variance 1, and shifts them to mean 0, over the tokens of all ranks that the policy chose.

    Args:
        values (`torch.Tensor` of shape `(B, T)`):
            What to whiten.
        mask (`torch.Tensor` of shape `(B, T)`):
            Which tokens the policy chose.
        shift_mean (`bool`, *optional*, defaults to `True`):
            Whether to shift the mean to 0; otherwise it stays where it is.
        add_up (`Callable`, *optional*):
            Adds a tensor up over the ranks. Defaults to there being one rank.

    Returns:
        `torch.Tensor` of shape `(B, T)`: Whitened values, 0 where the mask is.
    """
    count, total = add_up(torch.stack([mask.sum().to(values.dtype), (values * mask).sum()]))
    count = count.clamp(min=1)
    mean = total / count
    centred = (values - mean) * mask
    # The mean of large values is rounded. Where they are all the same, whitening would blow that error up.
    centred = (centred - add_up(centred.sum()) / count) * mask
    variance = add_up(centred.square().sum()) / (count - 1).clamp(min=1)
    whitened: torch.Tensor = centred * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean * mask


def clipped_value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    *,
    cliprange: float,
    count: torch.Tensor,
) -> torch.Tensor:
    """
    Squared error of the critic, the larger of the plain one and that of values clipped around the old ones.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (https://arxiv.org/abs/1707.06347), and the
    value clipping of its reference implementation.

    Args:
        values, old_values, returns (`torch.Tensor` of shape `(B, T)`):
            Values now, values when the completions were made, and their targets.
        mask (`torch.Tensor` of shape `(B, T)`):
            Which tokens the policy chose.
        cliprange (`float`):
            How far a value may move from the old one.
        count (`torch.Tensor` of shape `()`):
            How many tokens to take the mean over: those of a whole batch, where this is a part of one.

    Returns:
        `torch.Tensor` of shape `()`: Half the sum over these tokens, divided by `count`.
    """
    clipped = torch.clamp(values, old_values - cliprange, old_values + cliprange)
    errors = torch.max((values - returns).square(), (clipped - returns).square())
    return 0.5 * (errors * mask).sum() / count


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Returns `1 - Var(returns - values) / Var(returns)` over the tokens that the policy chose, shape `()`. 1 is a
    perfect critic, 0 one that says the same of every state. Where the returns do not vary, there is nothing to
    explain, and the answer is 0.
    """
    unexplained, total = _variance(returns - values, mask), _variance(returns, mask)
    return torch.where(total > 1e-8, 1 - unexplained / total.clamp(min=1e-8), 0.0)


def _variance(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    return ((values - mean).square() * mask).sum() / count


def _last(mask: torch.Tensor) -> torch.Tensor:
    """Position of the last 1 of each row, shape `(B,)`; 0 where there is none."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
