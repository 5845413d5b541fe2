"""Intervals that hold at every look at once, however often and whenever people look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..types import Estimate
from .fixed import bounded_interval, student_t_of
from .users import ClusteredMean, Floats, clustered_mean, user_totals

MIN_USERS = 5
"""Fewer say nothing about how much people differ."""


def confidence_sequence(
    values: Sequence[float],
    users: Sequence[str],
    *,
    level: float = 0.95,
    planned: int = 200,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """
    Mean of judgements that keep arriving, with an interval that covers the true mean at all looks together with
    probability `level`: look at any time, as often as you like, and stop when you like.

    It is an asymptotic confidence sequence, after Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform
    central limit theory and asymptotic confidence sequences" (https://arxiv.org/abs/2103.06476), with the boundary of
    [`critical_value`]. Users come back, and one user's judgements are alike, so the judgements are no martingale.
    Their weighted mean, see [`clustered_mean`], is an efficient estimate at every look, and successive efficient
    estimates have independent increments on the scale of their information: Scharfstein, Tsiatis and Robins 1997, and
    Tsiatis and Davidian 2025, "Independent increments and group sequential tests" (https://arxiv.org/abs/2506.15599).
    So the clock of the boundary is the number of independent judgements that the sample is worth, not the number of
    users or of rows. Imaginary judgements at both bounds and Student's t keep it honest while there are few.

    Assumptions: users are drawn from one population, whatever the order in which they come; what a user thinks of a
    version neither changes over the time looked at, nor decides how often the user judges (whom it drives away does
    not count, hence the response rate beside the score); values are bounded.

    Args:
        values (`Sequence[float]`), users (`Sequence[str]`):
            The judgements, and who made each.
        level (`float`, *optional*, defaults to `0.95`):
            Probability that the interval covers the truth at every look.
        planned (`int`, *optional*, defaults to `200`):
            Number of independent judgements at which it is tightest. To be chosen beforehand.
        bounds (`tuple[float, float]`, *optional*, defaults to `(0.0, 1.0)`):
            Smallest and largest possible value.

    Returns:
        [`~online_trl.types.Estimate`]: Mean and interval; the interval is all of `bounds` with fewer than
        [`MIN_USERS`] users. The mean of an empty sample is `nan`.

    Raises:
        `ValueError`: if there are not as many users as values.
    """
    mean = clustered_mean(user_totals(values, users))
    low, high = sequence_interval(mean, level=level, planned=planned, bounds=bounds)
    return Estimate(float(mean.mean), float(low), float(high), len(values))


def sequence_interval(
    mean: ClusteredMean, *, level: float = 0.95, planned: int = 200, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Floats, Floats]:
    """
    Both ends of the interval of [`confidence_sequence`].

    Args:
        mean ([`ClusteredMean`]):
            The means of one or many streams.
        level (`float`, *optional*), planned (`int`, *optional*), bounds (`tuple[float, float]`, *optional*):
            As in [`confidence_sequence`].
    """
    is_enough = mean.users >= MIN_USERS
    critical = critical_value(np.where(is_enough, mean.independent, planned) / planned, (1 - level) / 2)
    low, high = bounded_interval(
        mean.mean,
        mean.spread,
        mean.independent,
        added=critical**2 / 2,
        critical=student_t_of(critical, np.maximum(mean.users, MIN_USERS) - 1),
        bounds=bounds,
    )
    return np.where(is_enough, low, bounds[0]), np.where(is_enough, high, bounds[1])


def critical_value(progress: float | Floats, level: float) -> Floats:
    """
    How many standard errors an estimate may lie on one side of the truth, such that it ever lies beyond with
    probability `level`.

    The one-sided normal mixture boundary: Robbins 1970, "Statistical methods related to the law of the iterated
    logarithm" (https://doi.org/10.1214/aoms/1177696786), and Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences" (https://arxiv.org/abs/1810.08240), with the lower bound
    Φ(x) ≥ 1 − exp(−x²/2) / 2, which closes the form and costs hardly anything.

    Args:
        progress (`float` or array of shape `(...)`):
            The information gathered, as a multiple of that at which the boundary is tightest.
        level (`float`):
            Probability of ever crossing it.
    """
    tightest = -2 * math.log(2 * level)
    # The variance of the mixture over that of the estimate; at a progress of 1 it is the best choice.
    ratio = np.asarray(progress) * (tightest + math.log(tightest + 1))
    critical: Floats = np.sqrt(2 * (1 + 1 / ratio) * np.log(0.5 + np.sqrt(1 + ratio) / (2 * level)))
    return critical
