"""The mean of what users said, several times each, and how much it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_CORRELATION = 0.1
"""Judgements of one user are taken to be alike at least so much: nobody counts for more than ten."""


class UserTotals(NamedTuple):
    """
    What each user's judgements amount to.

    Args:
        counts, sums, squares (arrays of shape `(..., users)`):
            How many they are, their sum, and the sum of their squares. A user with none counts for nothing.
    """

    counts: Floats
    sums: Floats
    squares: Floats


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """
    A mean of judgements, several of each user.

    Args:
        mean (array of shape `(...)`):
            The mean.
        spread (array of shape `(...)`):
            Variance of one judgement.
        independent (array of shape `(...)`):
            How many judgements of as many users would be worth as much.
        users (array of shape `(...)`), n (array of shape `(...)`):
            How many users there are, and how many judgements.
    """

    mean: Floats
    spread: Floats
    independent: Floats
    users: Floats
    n: Floats

    def guarded_spread(self, added: float | Floats, bounds: tuple[float, float]) -> Floats:
        """Variance of one judgement after adding so many imaginary ones at each bound: unanimity is no certainty."""
        low, high = bounds
        squares = self.independent * self.spread + added * ((low - self.mean) ** 2 + (high - self.mean) ** 2)
        guarded: Floats = squares / (self.independent + 2 * added)
        return guarded


def user_totals(values: Sequence[float], users: Sequence[str]) -> UserTotals:
    """
    Sums up the judgements of each user.

    Args:
        values (`Sequence[float]`), users (`Sequence[str]`):
            The judgements, and who made each.

    Raises:
        `ValueError`: if there are not as many users as values.
    """
    if len(values) != len(users):
        raise ValueError(f"{len(values)} values, but {len(users)} users; each value belongs to one")
    judged = np.asarray(values, dtype=float)
    who = np.unique(np.asarray(users, dtype=str), return_inverse=True)[1]
    summed = (np.bincount(who, weights=weights).astype(float) for weights in (np.ones_like(judged), judged, judged**2))
    return UserTotals(*summed)


def clustered_mean(totals: UserTotals) -> ClusteredMean:
    """
    Mean of judgements of which those of one user are alike.

    A user with k judgements, any two of which correlate by ρ, weighs k / (1 + (k − 1) ρ): the generalised least
    squares weights of a random-intercept model, with the analysis-of-variance estimate of ρ, see Donner 1986, "A
    review of inference procedures for the intraclass correlation coefficient in the one-way random effects model",
    International Statistical Review 54. At ρ = 0 every judgement counts as much, at ρ = 1 every user. The sum of the
    weights is what the mean is worth, or less where the cluster-robust variance says so.

    Args:
        totals ([`UserTotals`]):
            What each user's judgements amount to. Any leading axes are streams of their own.
    """
    counts, sums, squares = totals
    users, n = np.sum(counts > 0, axis=-1).astype(float), counts.sum(axis=-1)
    own = sums / np.maximum(counts, 1)
    weights = counts / (1 + np.maximum(counts - 1, 0) * _correlation(totals, users, n)[..., None])
    weight = weights.sum(axis=-1)
    # An empty sample has no mean: 0 / 0 is the `nan` that says so.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights * own).sum(axis=-1) / weight
        spread = (weights * squares / np.maximum(counts, 1)).sum(axis=-1) / weight - mean**2
        off = (weights**2 * (own - mean[..., None]) ** 2).sum(axis=-1)
        robust = spread * weight**2 / off
    spread = np.maximum(spread, 0.0)
    return ClusteredMean(mean, spread, np.fmin(weight, robust), users, n)


def _correlation(totals: UserTotals, users: Floats, n: Floats) -> Floats:
    """How much alike the judgements of one user are."""
    counts, sums, squares = totals
    own = sums / np.maximum(counts, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        overall = sums.sum(axis=-1) / n
        between = (counts * (own - overall[..., None]) ** 2).sum(axis=-1) / (users - 1)
        within = (squares - counts * own**2).sum(axis=-1) / (n - users)
        size = (n - (counts**2).sum(axis=-1) / n) / (users - 1)
        correlation = (between - within) / (between + (size - 1) * within)
    # Where nobody judged twice, or all judgements are the same, nothing tells; 1 trusts repetition least.
    known: Floats = np.clip(np.nan_to_num(correlation, nan=1.0, posinf=1.0, neginf=1.0), LEAST_CORRELATION, 1.0)
    return known
