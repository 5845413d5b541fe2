"""The mathematics of PPO as pure functions on tensors.

`B` is the number of completions and `T` the number of completion tokens. Masks are 1 on real tokens and 0 on padding,
which always comes after them.
"""

from __future__ import annotations

import torch


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
            Completion mask.
        kl_coef (`float`):
            Reward per nat.

    Returns:
        `torch.Tensor` of shape `(B, T)`: Reward of each token, 0 on padding.
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(dim=1).long().clamp(min=1) - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores * (mask.sum(dim=1) > 0)
    return rewards


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Generalised advantage estimation over completions that end at their last real token.

    Source: Schulman et al. 2015, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
    (https://arxiv.org/abs/1506.02438).

    Args:
        rewards (`torch.Tensor` of shape `(B, T)`):
            Reward of each token.
        values (`torch.Tensor` of shape `(B, T)`):
            The critic's value of the state in which each token was chosen.
        mask (`torch.Tensor` of shape `(B, T)`):
            Completion mask.
        gamma (`float`):
            Discount factor.
        lam (`float`):
            Trade-off between bias (0) and variance (1).

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Advantages and returns, each of shape `(B, T)` and 0 on padding.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    following_advantage = torch.zeros_like(values[:, 0])
    following_value = torch.zeros_like(values[:, 0])
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] + gamma * following_value - values[:, step]
        following_advantage = (delta + gamma * lam * following_advantage) * mask[:, step]
        following_value = values[:, step]
        advantages[:, step] = following_advantage
    return advantages, (advantages + values) * mask


def whiten(values: torch.Tensor, mask: torch.Tensor, moments: torch.Tensor | None = None) -> torch.Tensor:
    """
    Shifts and scales values to mean 0 and variance 1 over the real tokens.

    Args:
        values (`torch.Tensor` of shape `(B, T)`):
            What to whiten.
        mask (`torch.Tensor` of shape `(B, T)`):
            Completion mask.
        moments (`torch.Tensor` of shape `(3,)`, *optional*):
            Count, sum and sum of squares over all ranks, see [`masked_moments`]. Defaults to those of `values`.

    Returns:
        `torch.Tensor` of shape `(B, T)`: Whitened values, 0 on padding.
    """
    count, total, squares = masked_moments(values, mask) if moments is None else moments
    mean = total / count.clamp(min=1)
    variance = squares / count.clamp(min=1) - mean**2
    whitened: torch.Tensor = (values - mean) * torch.rsqrt(variance.clamp(min=0) + 1e-8) * mask
    return whitened


def masked_moments(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns count, sum and sum of squares of the values on real tokens, shape `(3,)`; they add up over ranks."""
    return torch.stack([mask.sum(), (values * mask).sum(), (values.square() * mask).sum()]).float()


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, *, cliprange: float
) -> torch.Tensor:
    """
    Squared error of the critic, the larger of the plain one and that of values clipped around the old ones.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (https://arxiv.org/abs/1707.06347), and the
    value clipping of its reference implementation.

    Args:
        values, old_values, returns (`torch.Tensor` of shape `(B, T)`):
            Values now, values when the completions were made, and their targets.
        mask (`torch.Tensor` of shape `(B, T)`):
            Completion mask.
        cliprange (`float`):
            How far a value may move from the old one.

    Returns:
        `torch.Tensor` of shape `()`: Half the mean over real tokens.
    """
    clipped = torch.clamp(values, old_values - cliprange, old_values + cliprange)
    errors = torch.max((values - returns).square(), (clipped - returns).square())
    return 0.5 * (errors * mask).sum() / mask.sum().clamp(min=1)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns `1 - Var(returns - values) / Var(returns)` over real tokens, shape `()`; 1 is a perfect critic."""
    real = mask.bool()
    return 1 - (returns - values)[real].var() / returns[real].var().clamp(min=1e-8)
