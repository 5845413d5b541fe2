"""
Whether a reward model is as sure as it is right: the expected calibration error and the reliability plot behind it.

Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """
    The predictions in one interval of probability.

    Args:
        low (`float`), high (`float`):
            The interval `[low, high)`; the last one holds 1 as well.
        predicted (`float`):
            Mean probability that was predicted.
        observed (`float`):
            How often it came true.
        weight (`float`):
            How much the predictions count together.
    """

    low: float
    high: float
    predicted: float
    observed: float
    weight: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    How well predicted probabilities fit what came true.

    Args:
        ece (`float`):
            Expected calibration error: the mean distance between predicted and observed, by weight. NaN of nothing.
        bins (`tuple[ReliabilityBin, ...]`):
            The intervals that hold a prediction, in ascending order.
    """

    ece: float
    bins: tuple[ReliabilityBin, ...]


def calibration(
    probabilities: Sequence[float],
    outcomes: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    num_bins: int = 10,
) -> Calibration:
    """
    Compares predicted probabilities with what came true.

    Args:
        probabilities (`Sequence[float]`):
            Such as the probability of a thumb up, in [0, 1].
        outcomes (`Sequence[float]`):
            What came true, in [0, 1]: 1 for an up, 0 for a down.
        weights (`Sequence[float]`, *optional*):
            How much each counts.
        num_bins (`int`, *optional*, defaults to `10`):
            Intervals of equal width that the probabilities are sorted into.

    Raises:
        `ValueError`: if a probability lies outside [0, 1], or the lengths differ.
    """
    if not len(probabilities) == len(outcomes) == len(outcomes if weights is None else weights):
        raise ValueError(
            f"{len(probabilities)} probabilities, {len(outcomes)} outcomes: give one outcome and weight each"
        )
    predicted, observed = np.asarray(probabilities, dtype=float), np.asarray(outcomes, dtype=float)
    weight = np.ones_like(predicted) if weights is None else np.asarray(weights, dtype=float)
    outside = predicted[~((predicted >= 0) & (predicted <= 1))]
    if outside.size:
        raise ValueError(f"a probability lies in [0, 1], not {outside[0]}")
    which = np.minimum((predicted * num_bins).astype(int), num_bins - 1)
    bins = tuple(
        ReliabilityBin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            predicted=float(np.average(predicted[inside], weights=weight[inside])),
            observed=float(np.average(observed[inside], weights=weight[inside])),
            weight=float(weight[inside].sum()),
        )
        for number in range(num_bins)
        if weight[inside := which == number].sum() > 0
    )
    total = sum(row.weight for row in bins)
    missed = sum(row.weight * abs(row.predicted - row.observed) for row in bins)
    return Calibration(missed / total if total else float("nan"), bins)


def logistic(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the probabilities that belong to logits."""
    # tanh, unlike exp, does not overflow where the model is very sure.
    chances: NDArray[np.float64] = (1 + np.tanh(logits / 2)) / 2
    return chances


def pair_calibration(
    margins: Sequence[float], weights: Sequence[float] | None = None, *, num_bins: int = 10
) -> Calibration:
    """
    Compares the probability that a pair's chosen answer beats the rejected one, σ(margin), with what was chosen.

    Which answer is named first is arbitrary, so each pair counts half from either side: as the chosen one beating the
    rejected one, which came true, and the other way round, which did not.

    Args:
        margins (`Sequence[float]`):
            Raw score of the chosen answer less that of the rejected one.
        weights (`Sequence[float]`, *optional*):
            How much each pair counts.
        num_bins (`int`, *optional*, defaults to `10`):
            Intervals of equal width that the probabilities are sorted into.
    """
    count = len(margins)
    margin = np.asarray(margins, dtype=float)
    chance = logistic(np.concatenate([margin, -margin]))
    halves = np.full(count, 0.5) if weights is None else np.asarray(weights, dtype=float) / 2
    return calibration(chance.tolist(), [1.0] * count + [0.0] * count, np.tile(halves, 2).tolist(), num_bins=num_bins)
