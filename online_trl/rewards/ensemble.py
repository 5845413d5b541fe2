"""An ensemble of heads on one backbone: what each head learns from, and what their spread says.

`N` is the number of answers or statements, `K` the number of heads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

MAX_HEADS = 512
"""As many as a BLAKE2b digest has bits."""


def bootstrap_weights(keys: Sequence[str], num_heads: int) -> torch.Tensor:
    """
    Draws for each statement and head whether the head learns from it: twice as much, or not at all.

    A weight is a function of the statement's key and the head alone, so a statement keeps its weights over refreshes,
    ranks and resumed runs. One head alone learns from everything.

    Source: Owen and Eckles 2012, "Bootstrapping data arrays of arbitrary order" (https://arxiv.org/abs/1106.2125),
    which calls it the double-or-nothing bootstrap.

    Args:
        keys (`Sequence[str]`):
            Stable identity of each statement.
        num_heads (`int`):
            `K`, at most 512.

    Returns:
        `torch.Tensor` of shape `(N, K)`: Weights of 0 and 2; of 1 if `K` is 1.
    """
    if num_heads == 1:
        return torch.ones(len(keys), 1)
    size = -(-num_heads // 8)
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=size).digest() for key in keys)
    octets = torch.tensor(list(digests), dtype=torch.uint8).view(len(keys), size, 1)
    bits = (octets >> torch.arange(8, dtype=torch.uint8)) & 1
    return 2.0 * bits.view(len(keys), size * 8)[:, :num_heads].float()


def pessimistic(scores: torch.Tensor, k: float) -> torch.Tensor:
    """
    Mean of the heads less `k` times their spread: what the policy is paid.

    Source: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization"
    (https://arxiv.org/abs/2310.02743), in the form of a lower confidence bound.

    Args:
        scores (`torch.Tensor` of shape `(N, K)`):
            Scores of each head, on one scale.
        k (`float`):
            Standard deviations to subtract; 0 gives the mean.

    Returns:
        `torch.Tensor` of shape `(N,)`: The paid scores.
    """
    return scores.mean(dim=-1) - k * disagreement(scores)


def disagreement(scores: torch.Tensor) -> torch.Tensor:
    """
    Standard deviation over the heads, 0 for one head alone.

    Args:
        scores (`torch.Tensor` of shape `(N, K)`):
            Scores of each head, on one scale.

    Returns:
        `torch.Tensor` of shape `(N,)`: The spread of each answer.
    """
    return scores.std(dim=-1, correction=0 if scores.shape[-1] == 1 else 1)
