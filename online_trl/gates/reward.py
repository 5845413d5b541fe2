"""May this reward model replace the one in service?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..types import GateCheck, GateDecision
from .decision import decide

_RESAMPLES = 10_000
_CHANCE = 0.5
_ALONE = "with no version to measure it against"
# What sums of weighted numbers may differ by without anything being different.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class AnchorComparison:
    """
    How a candidate scores the anchors beside the version in service.

    Args:
        spread (`float`), live_spread (`float`):
            Standard deviation of the raw scores of each.
        rank_correlation (`float`):
            Spearman's rank correlation of the two; 0 if one scores all alike.
    """

    spread: float
    live_spread: float
    rank_correlation: float


def compare_anchors(candidate: Sequence[float], live: Sequence[float]) -> AnchorComparison:
    """
    Compares the raw scores that two versions give the same anchors.

    Args:
        candidate (`Sequence[float]`), live (`Sequence[float]`):
            Score of each anchor on the version's own scale.
    """
    scores, live_scores = np.asarray(candidate, dtype=float), np.asarray(live, dtype=float)
    return AnchorComparison(
        spread=float(scores.std()),
        live_spread=float(live_scores.std()),
        rank_correlation=_correlation(_ranks(scores), _ranks(live_scores)),
    )


def reward_gate(
    candidate: Sequence[float],
    live: Sequence[float] | None,
    *,
    weights: Sequence[float] | None = None,
    anchors: AnchorComparison | None = None,
    level: float = 0.05,
    tolerance: float = 0.0,
    min_accuracy: float = 0.5,
    min_statements: int = 20,
    min_spread_ratio: float = 0.2,
    min_rank_correlation: float = 0.3,
) -> GateDecision:
    """
    Accepts a reward model unless it is worse than the one in service on the newest held-out statements, or no longer
    tells answers apart.

    The accuracies on the same statements are compared by a paired bootstrap: the candidate is refused if its accuracy
    is lower by more than `tolerance` at the given level. With fewer than `min_statements` a bootstrap says nothing:
    then the first version is accepted as it is, and a later one if its accuracy is lower by no more than `tolerance`.
    Without any statement a later one is refused. The first version, behind which there is nothing, or what is known to
    be worse than a coin, is refused only if its accuracy is below `min_accuracy` at the given level.

    Args:
        candidate (`Sequence[float]`):
            How right it is about each held-out statement, as [`~online_trl.rewards.judging.correctness`] says. Where
            labels are among them, as [`~online_trl.rewards.judging.pseudo_values`], for otherwise the level does not
            hold.
        live (`Sequence[float]`, *optional*):
            The same of the version in service, for the same statements; `None` if there is none to measure it against.
        weights (`Sequence[float]`, *optional*):
            How much each statement counts. Those of weight 0 are left out.
        anchors ([`AnchorComparison`], *optional*):
            How the candidate scores the anchors beside the version in service.
        level (`float`, *optional*, defaults to `0.05`):
            Probability of refusing a candidate that is exactly `tolerance` worse.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Loss of accuracy that is accepted, for the sake of fresher data.
        min_accuracy (`float`, *optional*, defaults to `0.5`):
            Accuracy below which no later candidate is accepted, except to replace one that is right no more often:
            when taste turns, the less wrong of two models is the better one.
        min_statements (`int`, *optional*, defaults to `20`):
            Statements needed for the bootstrap; of unequal weight, as many as say as much as so many of equal weight.
        min_spread_ratio (`float`, *optional*, defaults to `0.2`):
            Smallest spread of the anchors' raw scores, as a multiple of that of the version in service.
        min_rank_correlation (`float`, *optional*, defaults to `0.3`):
            Smallest rank correlation with the version in service on the anchors. A candidate that is better on the
            held-out statements at the given level may disagree with it about everything, and so may one that is right
            more often than a version in service which is not known to be right more often than chance.

    Returns:
        [`~online_trl.types.GateDecision`]: The decision with its checks.

    Raises:
        `ValueError`: if the sequences differ in length.
    """
    correct = np.asarray(candidate, dtype=float)
    broken = int(np.sum(~np.isfinite(correct)))
    if broken:
        check = GateCheck("broken_scores", broken, 0, False)
        return GateDecision(False, f"refused: {broken} of {correct.size} scores are not finite numbers", (check,))
    weight = np.ones_like(correct) if weights is None else np.asarray(weights, dtype=float)
    live_correct = None if live is None else np.asarray(live, dtype=float)
    for other, name in ((weight, "weights"), (live_correct, "of the live version")):
        if other is not None and other.shape != correct.shape:
            raise ValueError(
                f"{correct.size} numbers of the candidate, {other.size} {name}: judge the same statements"
            )
    heard = weight > 0
    candidate_word = _Word(correct[heard], weight[heard], level, min_statements)
    if live_correct is None:
        return _first_reward(candidate_word, min_accuracy)
    gained = replace(candidate_word, values=candidate_word.values - live_correct[heard])
    return _next_reward(
        candidate_word, gained, anchors, tolerance, min_accuracy, min_spread_ratio, min_rank_correlation
    )


def is_better(
    candidate: Sequence[float],
    live: Sequence[float],
    *,
    weights: Sequence[float],
    level: float = 0.05,
    min_statements: int = 10,
) -> bool:
    """
    Returns whether a reward model is right more often than the one in service, beyond noise.

    Args:
        candidate (`Sequence[float]`), live (`Sequence[float]`), weights (`Sequence[float]`):
            As in [`reward_gate`].
        level (`float`, *optional*, defaults to `0.05`):
            Probability of saying so of one that is right just as often.
        min_statements (`int`, *optional*, defaults to `10`):
            Statements needed to say so.
    """
    weight = np.asarray(weights, dtype=float)
    gained = np.asarray(candidate, dtype=float) - np.asarray(live, dtype=float)
    word = _Word(gained[weight > 0], weight[weight > 0], level, min_statements)
    return word.is_known_above(0)


@dataclass(frozen=True)
class _Word:
    """
    What the held-out statements say, as one weighted mean with its noise.

    Args:
        values, weights (arrays of shape `(statements,)`):
            A number for each statement, and how much it counts.
        level (`float`):
            Probability that a bound lies on the wrong side of the true mean.
        min_statements (`int`):
            With fewer there are no bounds.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    level: float
    min_statements: int

    @property
    def mean(self) -> float:
        return float(np.average(self.values, weights=self.weights))

    @property
    def is_enough(self) -> bool:
        """By Kish's effective sample size, which is the number of statements where all weigh the same."""
        if not self.values.size:
            return False
        return float(self.weights.sum() ** 2 / (self.weights**2).sum()) >= self.min_statements - 1e-6

    def is_known_above(self, value: float) -> bool:
        """Whether the true mean is above a value, beyond noise."""
        return self.is_enough and self.bounds[0] > value

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """
        Both ends of the one-sided bootstrap intervals. Statements of the same number and weight are interchangeable,
        so a resample is a draw of how often each occurs.
        """
        kinds, counts = np.unique(np.stack([self.values, self.weights]), axis=1, return_counts=True)
        size = self.values.size
        draws = np.random.default_rng(0).multinomial(size, counts / size, size=_RESAMPLES)
        means = draws @ (kinds[0] * kinds[1]) / (draws @ kinds[1])
        low, high = np.quantile(means, (self.level, 1 - self.level)).tolist()
        return low, high


def _first_reward(word: _Word, min_accuracy: float) -> GateDecision:
    count = word.values.size
    if not word.is_enough:
        return GateDecision(True, f"accepted: {_statements(count)} are too few to judge it by, {_ALONE}")
    # There is nothing to fall back on, so only what is worse than chance beyond noise is turned away.
    best_case = word.bounds[1]
    check = GateCheck("accuracy", best_case, min_accuracy, best_case >= min_accuracy)
    refusal = (
        f"the accuracy {word.mean:.2f} on {_statements(count)}, {best_case:.2f} at best, is below {min_accuracy:.2f}"
    )
    return decide([(check, refusal)], f"accuracy {word.mean:.2f} on {_statements(count)}, {_ALONE}")


def _next_reward(
    word: _Word,
    gained: _Word,
    anchors: AnchorComparison | None,
    tolerance: float,
    min_accuracy: float,
    min_spread_ratio: float,
    min_rank_correlation: float,
) -> GateDecision:
    if not word.values.size:
        check = GateCheck("statements", 0, 1, False)
        return GateDecision(
            False, "refused: there is no held-out statement to compare it with the live version on", (check,)
        )
    judged = _statements(word.values.size)
    live = replace(word, values=word.values - gained.values)
    live_accuracy = live.mean
    floor = min(min_accuracy, live_accuracy)
    best_case = gained.bounds[1] if gained.is_enough else gained.mean
    compared = f"accuracy {word.mean:.2f} against {live_accuracy:.2f} of the live version on {judged}"
    checks = [
        (
            GateCheck("accuracy", word.mean, floor, word.mean >= floor - _ROUNDING),
            f"the accuracy {word.mean:.2f} on {judged} is below {floor:.2f}",
        ),
        (
            GateCheck("accuracy_difference", best_case, -tolerance, best_case >= -tolerance - _ROUNDING),
            f"{compared}, a difference of {best_case:+.2f} at best",
        ),
    ]
    if anchors is not None:
        may_disagree = gained.is_known_above(0) or (gained.mean > 0 and not live.is_known_above(_CHANCE))
        checks += _anchor_checks(anchors, min_spread_ratio, -1.0 if may_disagree else min_rank_correlation)
    return decide(checks, compared)


def _anchor_checks(
    anchors: AnchorComparison, min_spread_ratio: float, min_rank_correlation: float
) -> list[tuple[GateCheck, str]]:
    least = min_spread_ratio * anchors.live_spread
    correlation = anchors.rank_correlation
    return [
        (
            GateCheck("anchor_spread", anchors.spread, least, anchors.spread >= least),
            f"its scores of the anchors spread by {anchors.spread:.2g}, below {least:.2g}, which is "
            f"{min_spread_ratio:g} times the spread of the live version",
        ),
        (
            GateCheck("rank_correlation", correlation, min_rank_correlation, correlation >= min_rank_correlation),
            f"its rank correlation with the live version on the anchors is {correlation:.2f}, below "
            f"{min_rank_correlation:.2f}, and it is not better beyond noise",
        ),
    ]


def _statements(count: int) -> str:
    return f"{count} held-out statements"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each number from 0; equal ones share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2)[which]
    return ranks


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
