"""What is measured of answers and scores without asking anybody."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..estimates import share_estimate
from ..types import Estimate, Interaction


def kl_divergence(logprobs: Sequence[Sequence[float]], reference_logprobs: Sequence[Sequence[float]]) -> float:
    """
    KL divergence of a policy from a reference in nats per answer, estimated from answers that the policy sampled.

    Args:
        logprobs (`Sequence[Sequence[float]]`):
            For each answer, the log-probability of each of its tokens under the policy.
        reference_logprobs (`Sequence[Sequence[float]]`):
            The same under the reference.

    Raises:
        `ValueError`: if there is no answer, or if the two do not match token by token.
    """
    if not logprobs:
        raise ValueError("there is no answer to estimate a KL divergence from")
    if [len(row) for row in logprobs] != [len(row) for row in reference_logprobs]:
        raise ValueError("`logprobs` and `reference_logprobs` are not about the same tokens")
    ratios = [math.fsum(own) - math.fsum(base) for own, base in zip(logprobs, reference_logprobs, strict=True)]
    return math.fsum(ratios) / len(ratios)


def reward_accuracy(margins: Sequence[float]) -> Estimate:
    """
    How often a reward model orders held-out pairs as users did.

    Args:
        margins (`Sequence[float]`):
            Score of the chosen answer less that of the rejected one, for each pair. A tie counts half.
    """
    correct = [1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins]
    return share_estimate(math.fsum(correct) / max(1, len(correct)), len(correct))


def answer_length(interactions: Iterable[Interaction]) -> float:
    """
    Mean length of answers in words, `nan` if there are none.

    Args:
        interactions (`Iterable[Interaction]`):
            The answers.
    """
    lengths = [sum(len(message["content"].split()) for message in row.completion) for row in interactions]
    return sum(lengths) / len(lengths) if lengths else math.nan
