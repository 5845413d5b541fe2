"""What the reward model learns from each kind of statement, as pure functions on tensors.

`N` is the number of statements, `L` the largest number of answers in one, `A` the number of answers and `K` the number
of heads, which is always the last dimension: each head has a loss of its own.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def pair_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, *, margin: torch.Tensor | float = 0.0, tie_strength: float = 0.0
) -> torch.Tensor:
    """
    Negative log-likelihood that the chosen answer beats the rejected one, in a world in which a tie is possible.

    Source: Bradley and Terry 1952 for `tie_strength=0`; Davidson 1970, "On Extending the Bradley-Terry Model to
    Accommodate Ties in Paired Comparison Experiments", where ties have `exp((chosen + rejected) / 2)` times ν; the
    margin as in Touvron et al. 2023, "Llama 2" (https://arxiv.org/abs/2307.09288).

    Args:
        chosen, rejected (`torch.Tensor` of shape `(N, K)`):
            Scores.
        margin (`torch.Tensor` of shape `(N, 1)` or `float`, *optional*, defaults to `0.0`):
            By how much the chosen answer has to be ahead.
        tie_strength (`float`, *optional*, defaults to `0.0`):
            Davidson's ν, 0 or more. Two equal answers tie with probability `ν / (2 + ν)`.

    Returns:
        `torch.Tensor` of shape `(N, K)`: The losses.
    """
    ahead = chosen - rejected - margin
    return _log_normaliser(ahead, tie_strength) - ahead / 2


def tie_loss(first: torch.Tensor, second: torch.Tensor, *, tie_strength: float = 0.0) -> torch.Tensor:
    """
    Negative log-likelihood of a tie, less the constant `-log ν`: so it stays finite without ties in the model, where
    it is the mean of the two pair losses.

    Source: Davidson 1970, as in [`pair_loss`].

    Args:
        first, second (`torch.Tensor` of shape `(N, K)`):
            Scores.
        tie_strength (`float`, *optional*, defaults to `0.0`):
            Davidson's ν, 0 or more.

    Returns:
        `torch.Tensor` of shape `(N, K)`: The losses.
    """
    return _log_normaliser(first - second, tie_strength)


def _log_normaliser(ahead: torch.Tensor, tie_strength: float) -> torch.Tensor:
    """`log(exp(ahead / 2) + exp(-ahead / 2) + ν)`: the sum of win, loss and tie, divided by the tie's `√(π₁ π₂)`."""
    terms = [ahead / 2, -ahead / 2]
    if tie_strength > 0:
        terms.append(torch.full_like(ahead, math.log(tie_strength)))
    return torch.logsumexp(torch.stack(terms), dim=0)


def ranking_loss(scores: torch.Tensor, ranks: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Negative log-likelihood of a ranking, ties included: at each place, the answer that took it is the first choice
    among those that have none yet.

    Source: Plackett 1975, "The Analysis of Permutations", and Luce 1959; for ties, Efron 1977, "The Efficiency of
    Cox's Likelihood Function for Censored Data": of `d` answers on one rank, each counts by `(d - m) / d` after `m` of
    them.

    Args:
        scores (`torch.Tensor` of shape `(N, L, K)`):
            Scores of the answers.
        ranks (`torch.Tensor` of shape `(N, L)`):
            Rank of each answer: the lowest is best, equal ones are ties.
        mask (`torch.Tensor` of shape `(N, L)`):
            True where there is an answer.

    Returns:
        `torch.Tensor` of shape `(N, K)`: The losses, each a sum over the places.
    """
    both = mask[:, :, None] & mask[:, None, :]
    left = both & (ranks[:, None, :] >= ranks[:, :, None])
    tied = both & (ranks[:, None, :] == ranks[:, :, None])
    before = tied.tril(diagonal=-1).sum(-1, keepdim=True) / tied.sum(-1, keepdim=True).clamp(min=1)
    shares = left.float() - before * tied
    # Padding competes with itself alone, which costs nothing, and keeps the logarithm away from an empty sum.
    shares = shares + torch.diag_embed((~mask).float())
    # (N, place, competitor, K)
    denominators = torch.logsumexp(scores[:, None] + shares.log()[..., None], dim=2)
    return ((denominators - scores) * mask[..., None]).sum(dim=1)


def label_loss(scores: torch.Tensor, labels: torch.Tensor, offsets: torch.Tensor | float = 0.0) -> torch.Tensor:
    """
    Negative log-likelihood of a verdict on one answer: logistic on the score less a threshold, plus the leniency of
    whoever gave it.

    Source: the logistic model with a random intercept, in item response theory the model of Rasch 1960. The point of
    reference that is subtracted is that of Ethayarajh et al. 2024, "KTO" (https://arxiv.org/abs/2402.01306).

    Args:
        scores (`torch.Tensor` of shape `(N, K)`):
            Scores.
        labels (`torch.Tensor` of shape `(N,)`):
            Verdicts from 0 (bad) to 1 (good); one in between is that share of a yes.
        offsets (`torch.Tensor` of shape `(N, K)` or `float`, *optional*, defaults to `0.0`):
            Leniency less threshold, see [`~online_trl.rewards.leniency.fit_leniency`].

    Returns:
        `torch.Tensor` of shape `(N, K)`: The losses.
    """
    logits = scores + offsets
    return binary_cross_entropy_with_logits(logits, labels[:, None].expand_as(logits), reduction="none")


def centring_loss(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Square of twice the mean score of a statement's answers: of a pair, the square of the sum.

    Source: Eisenstein et al. 2023, "Helping or Herding?" (https://arxiv.org/abs/2312.09244), Eq. 2, which is TRL's
    `center_rewards_coefficient`.

    Args:
        scores (`torch.Tensor` of shape `(N, L, K)`):
            Scores of the answers.
        mask (`torch.Tensor` of shape `(N, L)`):
            True where there is an answer.

    Returns:
        `torch.Tensor` of shape `(N, K)`: The losses.
    """
    mean = (scores * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (2 * mean).square()


def pull_loss(scores: torch.Tensor, old_scores: torch.Tensor) -> torch.Tensor:
    """
    Mean square of how far the difference between two answers is from what it was, over all pairs of answers.

    Source: the identity that this mean is twice the variance of the change, so that a shift of all scores is free.

    Args:
        scores, old_scores (`torch.Tensor` of shape `(A, K)`):
            Scores now, and those of the model that training started from.

    Returns:
        `torch.Tensor` of shape `(K,)`: The loss of each head; 0 for a single answer.
    """
    change = scores - old_scores
    if len(change) < 2:
        return change.sum(dim=0) * 0
    return 2 * change.var(dim=0)


def weigh(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    Mean of weighted losses over statements and heads.

    The weights are not brought to a mean of 1: a batch of weak statements moves the model less than another.

    Args:
        losses, weights (`torch.Tensor` of shape `(N, K)`):
            Loss and weight of each statement under each head.

    Returns:
        `torch.Tensor` of shape `()`: The loss.
    """
    return (losses * weights).mean()
