"""How a policy compares with others on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..estimates import mean_estimate
from ..types import Estimate
from .scoring import Scores

_UNIT = (0.0, 1.0)


def score_points(own: Scores, other: Scores) -> Scores:
    """
    Returns who won each prompt by the scores of the two answers.

    Args:
        own (array of shape `(prompts,)`), other (array of shape `(prompts,)`):
            The scores; NaN where there is none.

    Returns:
        Array of shape `(prompts,)`: 1 for a win, 0.5 for a tie, 0 for a loss; NaN where a score is missing.
    """
    return (np.sign(own - other) + 1) / 2


def both_orders(shown_first: Scores, shown_second: Scores) -> tuple[Scores, Scores]:
    """
    Brings together what a judge says of two answers in either order, so that a liking for one place favours neither.

    Args:
        shown_first (array of shape `(prompts,)`), shown_second (array of shape `(prompts,)`):
            How the judge prefers the first of the two that it sees, in [0, 1], where the policy's own answer is the
            first, and where it is the second.

    Returns:
        Points of the policy, the mean of both orders, and whether the orders contradict each other (1) or not (0);
        two arrays of shape `(prompts,)`, NaN where the judge did not say in one of the orders.
    """
    points = (shown_first + (1 - shown_second)) / 2
    contradicts = np.where(np.isnan(points), np.nan, np.abs(shown_first - (1 - shown_second)) > 0.5)
    return points, contradicts


def standardised_gain(own: Scores, base: Scores) -> Scores:
    """
    Returns by how much each answer scores above that of the base, in standard deviations of the base's scores: scales
    of different judges then mean the same.

    Args:
        own (array of shape `(prompts,)`), base (array of shape `(prompts,)`):
            The scores; NaN where there is none.

    Returns:
        Array of shape `(prompts,)`; all NaN if the base's scores do not differ.
    """
    known = base[~np.isnan(base)]
    spread = known.std(ddof=1) if known.size > 1 else 0.0
    return (own - base) / spread if spread > 0 else np.full_like(own, np.nan)


def length_ratio(own: Scores, other: Scores, clusters: Sequence[str]) -> Estimate | None:
    """
    Ratio of the mean lengths of paired answers, with its interval by the delta method; `None` where the others are
    empty.

    Args:
        own (array of shape `(prompts,)`), other (array of shape `(prompts,)`):
            Lengths of the answers to the same prompts.
        clusters (`Sequence[str]`):
            The prompts.
    """
    if not other.any():
        return None
    ratio = float(own.mean() / other.mean())
    linear = ratio + (own - ratio * other) / other.mean()
    return mean_estimate(linear.tolist(), clusters=clusters)


def known_mean(values: Scores, clusters: Sequence[str], *, unit: bool = False) -> Estimate | None:
    """
    Mean of the values that are known, `None` if none is.

    Args:
        values (array of shape `(prompts,)`):
            The values; NaN where there is none.
        clusters (`Sequence[str]`):
            The prompts; answers to the same one are one cluster.
        unit (`bool`, *optional*, defaults to `False`):
            Whether they lie in [0, 1].
    """
    known = [(value, name) for value, name in zip(values.tolist(), clusters, strict=True) if not math.isnan(value)]
    if not known:
        return None
    numbers, names = zip(*known, strict=True)
    return mean_estimate(numbers, clusters=names, bounds=_UNIT if unit else None)
