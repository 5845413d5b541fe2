"""
Which answers to put side by side, and which conversations are worth a question at all: people's attention is scarce.

Everything here is a pure function of an ensemble's scores of several answers to one prompt: shape `(N, K)`, N answers
and K heads. Each rule tells the probability of what it chose, so that what is learned from the comparisons can be
corrected for how they were chosen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]

# Differences between the heads below this are rounding.
_DECIMALS = 10


@dataclass(frozen=True, slots=True)
class AskedPair:
    """
    Two answers to be compared.

    Args:
        first (`int`), second (`int`):
            Which answers, in the order in which they are shown. Either order is as likely, so that a liking for the
            first place favours no kind of answer.
        propensity (`float`):
            Probability that the rule puts these two side by side, in any order.
    """

    first: int
    second: int
    propensity: float


def thompson_probabilities(scores: Scores) -> NDArray[np.float64]:
    """
    Returns how likely double Thompson sampling is to choose each pair, over all heads.

    The first answer is the best one in the eyes of a head drawn by lot, the second the one whose difference to it the
    heads disagree about most, as in [Sample-Efficient Alignment for LLMs](https://huggingface.co/papers/2411.01493).
    Answers that tie share the probability. Where the heads do not disagree at all, as with a single one, there is
    nothing to choose by, and all pairs are as likely.

    Args:
        scores (`np.ndarray` of shape `(N, K)`):
            Score of each answer by each head; two answers at least.

    Returns:
        `np.ndarray` of shape `(N, N)`: the probability that the row's answer is the first and the column's the second.
    """
    count = _count(scores)
    variance = (scores[:, None] - scores[None, :]).var(axis=-1).round(_DECIMALS)
    if not variance.any():
        return (1 - np.eye(count)) / (count * (count - 1))
    is_best = scores == scores.max(axis=0)
    first = (is_best / is_best.sum(axis=0)).mean(axis=1)
    np.fill_diagonal(variance, -np.inf)
    is_doubted = variance == variance.max(axis=1, keepdims=True)
    return first[:, None] * is_doubted / is_doubted.sum(axis=1, keepdims=True)


def double_thompson(scores: Scores, rng: np.random.Generator) -> AskedPair:
    """
    Chooses two answers by double Thompson sampling, see [`thompson_probabilities`].

    Args:
        scores (`np.ndarray` of shape `(N, K)`):
            Score of each answer by each head; two answers at least.
        rng (`np.random.Generator`):
            Draws the head, where there are ties an answer, and the order.
    """
    count, probabilities = len(scores), thompson_probabilities(scores)
    pair = divmod(int(rng.choice(count * count, p=probabilities.ravel())), count)
    first, second = (int(place) for place in rng.permutation(pair))
    return AskedPair(first, second, float(probabilities[first, second] + probabilities[second, first]))


def random_pair(scores: Scores, rng: np.random.Generator) -> AskedPair:
    """
    Chooses any two answers, all pairs as likely: the control of [`double_thompson`], with its arguments.

    Args:
        scores (`np.ndarray` of shape `(N, K)`):
            Only N is of interest; two answers at least.
        rng (`np.random.Generator`):
            Draws the pair and the order.
    """
    count = _count(scores)
    first, second = (int(place) for place in rng.choice(count, 2, replace=False))
    return AskedPair(first, second, 2 / (count * (count - 1)))


def worth_asking(scores: Scores) -> float:
    """
    Returns how much a comparison would teach: the largest variance, over the heads, of the probability that one answer
    is preferred to another, in [0, 0.25].

    Args:
        scores (`np.ndarray` of shape `(N, K)`):
            Score of each answer by each head; two answers at least.
    """
    _count(scores)
    differences = scores[:, None] - scores[None, :]
    # The logistic function, in the form that does not overflow.
    return float((0.5 + 0.5 * np.tanh(differences / 2)).var(axis=-1).max().round(_DECIMALS))


def presentable(scores: Scores, *, caution: float = 1.0, slack: float = 1.0) -> NDArray[np.intp]:
    """
    Returns which answers somebody may be shown: those whose lower bound is not far below the mean score of the answer
    that would have been given, and that answer itself.

    Args:
        scores (`np.ndarray` of shape `(N, K)`):
            Score of each answer by each head. The answer that would have been given is the first.
        caution (`float`, *optional*, defaults to `1.0`):
            The lower bound is the mean less this many standard deviations over the heads.
        slack (`float`, *optional*, defaults to `1.0`):
            How far below it may be, in standard deviations of scores over answers, the unit of standardised scores.
    """
    mean, deviation = scores.mean(axis=1), scores.std(axis=1)
    may_be_shown = mean - caution * deviation >= mean[0] - slack
    may_be_shown[0] = True
    return np.flatnonzero(may_be_shown)


class WorthSelection:
    """
    Takes a share of what comes by: the most worthwhile, as measured by what came of late.

    The rank of each value among the latest ones, ties broken by lot, is uniform as long as the values come from one
    distribution, whatever it is; so the share is right on average from the first value on, and where all are the same.

    Args:
        share (`float`):
            Part of the values that is taken, in [0, 1].
        rng (`np.random.Generator`):
            Breaks ties.
        window (`int`, *optional*, defaults to `256`):
            How many of the latest values each is compared with.
    """

    def __init__(self, share: float, rng: np.random.Generator, *, window: int = 256) -> None:
        self._share = share
        self._rng = rng
        self._recent: deque[float] = deque(maxlen=window)

    def takes(self, worth: float) -> bool:
        """Returns whether a value is among the share that is taken, and remembers it."""
        self._recent.append(worth)
        recent = np.array(self._recent)
        rank = (recent < worth).sum() + self._rng.random() * (recent == worth).sum()
        return bool(rank >= (1 - self._share) * len(recent))


def _count(scores: Scores) -> int:
    count = len(scores)
    if count < 2:
        raise ValueError(f"a comparison needs two answers; there are scores of {count}")
    return count
