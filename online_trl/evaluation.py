"""
What users think of a policy version, measured from the log: satisfaction, win rates, and the figures beside them.

Only interactions of purpose `EVALUATION` count, which nothing is trained on. Several judgements of one user are not
independent, so intervals treat each user as one cluster, and they are honest about few or unanimous judgements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np

from .preferences import standing_feedback
from .store import LogReader
from .types import Estimate, Feedback, FeedbackKind, Interaction, Purpose

_UNIT = (0.0, 1.0)
_POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}


def mean_estimate(
    values: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """
    Mean of a sample with a confidence interval from Student's t.

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
    return Estimate(mean, *_bounded_interval(mean, spread, independent, count - 1, level, bounds), sample.size)


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
    return Estimate(share, *_bounded_interval(share, share * (1 - share), n, n - 1, level, _UNIT), n)


def satisfaction(store: LogReader, policy_version: str) -> Estimate:
    """
    How satisfied users are with the answers of a version: the mean of the thumbs (0 or 1) and ratings (scaled to
    [0, 1]) that they gave them, each user one cluster. What a user took back or replaced does not count.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        policy_version (`str`):
            Name of the version.
    """
    answers = _evaluated(store, policy_version)
    rows = [
        row
        for row in _feedback_about(store, answers)
        if row.kind in (FeedbackKind.BINARY, FeedbackKind.RATING) and row.interaction_ids[0] in answers
    ]
    return mean_estimate([row.score for row in rows], clusters=[row.user_id for row in rows], bounds=_UNIT)


def win_rate(store: LogReader, policy_version: str, opponent: str) -> Estimate:
    """
    How often users preferred the answer of one version to that of another: 1 for a win, 0.5 for a tie, each user one
    cluster. What a user took back or replaced does not count.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        policy_version (`str`):
            Name of the version.
        opponent (`str`):
            Name of the version it is compared with.

    Raises:
        `ValueError`: if both are the same version.
    """
    if policy_version == opponent:
        raise ValueError(f"{policy_version} has no win rate against itself; compare two versions")
    own, other = _evaluated(store, policy_version), _evaluated(store, opponent)
    points, users = [], []
    for row in _feedback_about(store, own):
        if row.kind is not FeedbackKind.COMPARISON:
            continue
        first, second = row.interaction_ids
        if first in own and second in other:
            points.append(_POINTS[row.value])
        elif first in other and second in own:
            points.append(1 - _POINTS[row.value])
        else:
            continue
        users.append(row.user_id)
    return mean_estimate(points, clusters=users, bounds=_UNIT)


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


def _evaluated(store: LogReader, policy_version: str) -> dict[str, int]:
    """The evaluation answers of a version, each with its position in the log."""
    answers = store.interactions(purpose=Purpose.EVALUATION, policy_version=policy_version)
    return {answer.interaction_id: answer.seq or 0 for answer in answers}


def _feedback_about(store: LogReader, answers: dict[str, int]) -> list[Feedback]:
    """The standing feedback that came after the first of these answers; there is none about them before it."""
    return standing_feedback(store.admitted_feedback(after=min(answers.values()))) if answers else []


def _bounded_interval(
    mean: float, spread: float, independent: float, freedom: int, level: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """
    Interval of a mean of so many independent judgements with a variance of `spread`, after adding imaginary ones at
    both bounds, z²/2 at each.
    """
    low, high = bounds
    probability = 1 - (1 - level) / 2
    added = NormalDist().inv_cdf(probability) ** 2 / 2
    total = independent + 2 * added
    centre = (independent * mean + added * (low + high)) / total
    squares = independent * (spread + (mean - centre) ** 2) + added * ((low - centre) ** 2 + (high - centre) ** 2)
    half = _student_t(probability, freedom) * math.sqrt(squares) / total
    return max(low, centre - half), min(high, centre + half)


def _student_t(probability: float, freedom: int) -> float:
    """
    Quantile of Student's t: exact for one and two degrees of freedom, else within 0.2 % by the expansion around the
    normal quantile of Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
