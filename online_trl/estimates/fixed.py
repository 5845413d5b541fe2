"""Means of samples that were planned and are measured once, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ..types import Estimate
from .users import Floats

_UNIT = (0.0, 1.0)


def mean_estimate(
    values: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """
    Mean of a sample with a confidence interval from Student's t. It holds at one look: where judgements keep arriving
    and people look in between, take [`confidence_sequence`].

    With clusters, the variance is the cluster-robust one of Liang and Zeger 1986, "Longitudinal data analysis using
    generalized linear models" (https://doi.org/10.1093/biomet/73.1.13). For a bounded quantity the interval is that of
    Agresti and Coull 1998, "Approximate is better than 'exact'" (https://doi.org/10.1080/00031305.1998.10480550), on
    the effective sample size: unanimous judgements do not give an interval of width 0.

    Args:
        values (`Sequence[float]`):
            The sample.
        clusters (`Sequence[str]`, *optional*):
            What each value belongs to, such as the user who judged. Defaults to one cluster per value.
        level (`float`, *optional*, defaults to `0.95`):
            Confidence level.
        bounds (`tuple[float, float]`, *optional*):
            Smallest and largest possible value, if there are such.

    Returns:
        [`~online_trl.types.Estimate`]: Mean and interval. Fewer than two clusters say nothing about the spread: the
        interval is then all of `bounds`, or unbounded. The mean of an empty sample is `nan`.

    Raises:
        `ValueError`: if there are not as many clusters as values.
    """
    sample = np.asarray(values, dtype=float)
    groups = np.unique(np.arange(sample.size) if clusters is None else np.asarray(clusters), return_inverse=True)[1]
    if groups.size != sample.size:
        raise ValueError(f"{sample.size} values, but {groups.size} clusters; each value belongs to one")
    count = int(groups.max()) + 1 if sample.size else 0
    mean = float(sample.mean()) if sample.size else math.nan
    low, high = bounds or (-math.inf, math.inf)
    if count < 2:
        return Estimate(mean, low, high, sample.size)
    sums = np.bincount(groups, weights=sample - mean)
    variance = float(count / (count - 1) * np.sum(sums**2)) / sample.size**2
    if bounds is None:
        half = _student_t(1 - (1 - level) / 2, count - 1) * math.sqrt(variance)
        return Estimate(mean, mean - half, mean + half, sample.size)
    independent = min(sample.size, float(sample.var(ddof=1)) / variance) if variance > 0 else count
    spread = float(sample.var())
    return Estimate(mean, *_fixed_interval(mean, spread, independent, count - 1, level, bounds), sample.size)


def share_estimate(share: float, n: int, *, level: float = 0.95) -> Estimate:
    """
    A share of independent cases with its interval, as [`mean_estimate`] gives it to the cases themselves.

    Args:
        share (`float`):
            Share of the cases, in [0, 1].
        n (`int`):
            Number of cases.
        level (`float`, *optional*, defaults to `0.95`):
            Confidence level.
    """
    if n < 2:
        return Estimate(share if n else math.nan, *_UNIT, n)
    return Estimate(share, *_fixed_interval(share, share * (1 - share), n, n - 1, level, _UNIT), n)


def bounded_interval(
    mean: Floats, spread: Floats, independent: Floats, *, added: Floats, critical: Floats, bounds: tuple[float, float]
) -> tuple[Floats, Floats]:
    """
    Interval of a mean of so many independent judgements with a variance of `spread`, `critical` standard errors to
    each side, after adding so many imaginary judgements at each bound.
    """
    low, high = bounds
    total = independent + 2 * added
    centre = (independent * mean + added * (low + high)) / total
    squares = independent * (spread + (mean - centre) ** 2) + added * ((low - centre) ** 2 + (high - centre) ** 2)
    half = critical * np.sqrt(squares) / total
    return np.maximum(low, centre - half), np.minimum(high, centre + half)


def _fixed_interval(
    mean: float, spread: float, independent: float, freedom: int, level: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    probability = 1 - (1 - level) / 2
    low, high = bounded_interval(
        np.asarray(mean),
        np.asarray(spread),
        np.asarray(independent),
        added=np.asarray(NormalDist().inv_cdf(probability) ** 2 / 2),
        critical=np.asarray(_student_t(probability, freedom)),
        bounds=bounds,
    )
    return float(low), float(high)


def _student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t: exact for one and two degrees of freedom, else as [`student_t_of`] has it."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    return float(student_t_of(np.asarray(NormalDist().inv_cdf(probability)), np.asarray(freedom)))


def student_t_of(z: Floats, freedom: Floats) -> Floats:
    """
    Quantile of Student's t of the same probability as a normal quantile, by the expansion of Abramowitz and Stegun,
    "Handbook of Mathematical Functions", 26.7.5: within 0.2 % for three degrees of freedom or more at usual levels.
    """
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum((term / freedom**power for power, term in enumerate(terms)), np.zeros_like(z))
