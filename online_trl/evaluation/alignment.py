"""What is measured of answers and scores without asking anybody."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from ..types import Interaction
from .text import words


def log_ratios(logprobs: Sequence[Sequence[float]], reference_logprobs: Sequence[Sequence[float]]) -> list[float]:
    """
    Returns the log-probability of each answer under the policy that sampled it less that under a reference, in nats;
    their mean estimates the KL divergence.

    Args:
        logprobs (`Sequence[Sequence[float]]`), reference_logprobs (`Sequence[Sequence[float]]`):
            For each answer, the log-probability of each of its tokens.

    Raises:
        `ValueError`: if the two do not match token by token.
    """
    if [len(row) for row in logprobs] != [len(row) for row in reference_logprobs]:
        raise ValueError("`logprobs` and `reference_logprobs` are not about the same tokens")
    return [math.fsum(own) - math.fsum(base) for own, base in zip(logprobs, reference_logprobs, strict=True)]


def answer_length(interactions: Iterable[Interaction]) -> float:
    """
    Mean length of answers in words, `nan` if there are none.

    Args:
        interactions (`Iterable[Interaction]`):
            The answers.
    """
    lengths = [sum(len(words(message["content"])) for message in row.completion) for row in interactions]
    return fmean(lengths) if lengths else math.nan
