"""Brings the rewards of a source to mean 0 and spread 1. NaN, where the source does not apply, stays NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# Below this spread all rewards are the same, up to rounding.
_MIN_STD = 1e-6


@dataclass(frozen=True, slots=True)
class Moments:
    """
    Count, mean and spread of rewards, which can be put together from parts.

    Args:
        count (`int`, *optional*, defaults to `0`):
            How many rewards.
        mean (`float`, *optional*, defaults to `0.0`):
            Their mean.
        squares (`float`, *optional*, defaults to `0.0`):
            Sum of the squared distances from the mean.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, rewards: torch.Tensor) -> Moments:
        """Returns the moments of rewards of shape `(N,)`; those that are NaN do not count."""
        values = rewards[~rewards.isnan()].double()
        if not len(values):
            return cls()
        mean = values.mean()
        return cls(len(values), float(mean), float(((values - mean) ** 2).sum()))

    def merged(self, other: Moments) -> Moments:
        """
        Returns the moments of both samples together (Chan, Golub and LeVeque,
        [Updating formulae and a pairwise algorithm for computing sample
        variances](http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf), 1979).
        """
        count = self.count + other.count
        if not count:
            return self
        distance = other.mean - self.mean
        return Moments(
            count,
            self.mean + distance * other.count / count,
            self.squares + other.squares + distance**2 * self.count * other.count / count,
        )

    @property
    def std(self) -> float:
        """The unbiased standard deviation; 1 while fewer than two rewards leave it unknown."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 1.0

    def standardise(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns rewards of shape `(N,)`, less the mean and divided by the spread."""
        return ((rewards.double() - self.mean) / max(self.std, _MIN_STD)).to(rewards.dtype)
