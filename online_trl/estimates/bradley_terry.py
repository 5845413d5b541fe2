"""How strong each of several versions is, from comparisons of two at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..types import Estimate
from .sequential import sequence_interval
from .users import ClusteredMean, Floats

_PRECISION = 0.25
"""Of the normal prior of each log-strength: what was never beaten, or never compared, has a finite strength too."""


@dataclass(frozen=True)
class _Games:
    """
    Comparisons as a multinomial logit: the log-strengths of the players, and that of a tie, are its parameters.

    Args:
        features (array of shape `(games, 3, players + 1)`):
            What each parameter adds to the logit of each outcome: the first wins, a tie, the second wins.
        outcomes (array of shape `(games,)`):
            Which of the three it was.
        users (array of shape `(games,)`):
            Who judged, by number.
    """

    features: Floats
    outcomes: NDArray[np.int64]
    users: NDArray[np.int64]

    def scores_and_information(self, parameters: Floats) -> tuple[Floats, Floats]:
        """Gradient of the log-likelihood of each game, and the information of all."""
        logits = self.features @ parameters
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        expected = np.einsum("go,gop->gp", chances, self.features)
        scores = self.features[np.arange(len(self.outcomes)), self.outcomes] - expected
        information = np.einsum("go,gop,goq->pq", chances, self.features, self.features) - expected.T @ expected
        return scores, information


def bradley_terry(
    comparisons: Sequence[tuple[str, str, float]],
    users: Sequence[str],
    *,
    reference: str,
    level: float = 0.95,
    planned: int = 200,
) -> dict[str, Estimate]:
    """
    Win rate of each version against a reference, from comparisons of any two versions.

    The model is that of Bradley and Terry with the ties of Davidson 1970, "On extending the Bradley-Terry model to
    accommodate ties in paired comparison experiments" (https://doi.org/10.1080/01621459.1970.10481082): with strengths
    π and a propensity ν to tie, the first wins, ties and loses in proportion to π₁, ν √(π₁ π₂) and π₂. It is fitted by
    Newton's method with a weak normal prior on each log-strength. The variance is cluster-robust by user, or what the
    model says if that is more; it tells how many independent comparisons of the two would say as much, and the
    interval is that of [`confidence_sequence`] for these, under the same assumptions: it holds at all looks together.

    Args:
        comparisons (`Sequence[tuple[str, str, float]]`):
            Two versions, and the points of the first: 1 for a win, 0.5 for a tie, 0 for a loss.
        users (`Sequence[str]`):
            Who judged each.
        reference (`str`):
            The version that the others are held against.
        level (`float`, *optional*, defaults to `0.95`), planned (`int`, *optional*, defaults to `200`):
            As in [`confidence_sequence`].

    Returns:
        `dict[str, Estimate]`: Of each other version that was compared, the expected points against the reference,
        whether or not the two ever met. `n` is the number of comparisons the version was in.

    Raises:
        `ValueError`: if there are not as many users as comparisons.
    """
    fitted = win_rate_matrix(comparisons, users, references=[reference], level=level, planned=planned)
    return {name: estimate for (name, _), estimate in fitted.items()}


def win_rate_matrix(
    comparisons: Sequence[tuple[str, str, float]],
    users: Sequence[str],
    *,
    references: Sequence[str],
    level: float = 0.95,
    planned: int = 200,
) -> dict[tuple[str, str], Estimate]:
    """
    Win rates as of [`bradley_terry`] against several references, from one fit.

    Args:
        comparisons (`Sequence[tuple[str, str, float]]`), users (`Sequence[str]`):
            As in [`bradley_terry`].
        references (`Sequence[str]`):
            The versions that all are held against.
        level (`float`, *optional*), planned (`int`, *optional*):
            As in [`bradley_terry`].

    Returns:
        `dict[tuple[str, str], Estimate]`: By version and reference, the expected points of the first against the
        second.

    Raises:
        `ValueError`: as of [`bradley_terry`].
    """
    if len(users) != len(comparisons):
        raise ValueError(f"{len(comparisons)} comparisons, but {len(users)} users; each was judged by one")
    players = sorted({*references, *(name for first, second, _ in comparisons for name in (first, second))})
    if not comparisons:
        return {}
    games = _games(comparisons, users, players)
    parameters, covariance = _fit(games)
    judges = np.asarray(games.users.max() + 1.0)
    tie = float(np.exp(parameters[-1]))
    met = Counter(name for first, second, _ in comparisons for name in (first, second))
    estimates = {}
    for name, reference in ((name, reference) for reference in references for name in players if name != reference):
        contrast = np.zeros(len(parameters))
        contrast[[players.index(name), players.index(reference)]] = 1.0, -1.0
        mean, spread = _points(float(contrast @ parameters), tie)
        # Points are the sufficient statistic of a lead in log-strength: one comparison tells `spread` about it.
        independent = np.asarray(1 / (spread * (contrast @ covariance @ contrast)))
        low, high = sequence_interval(
            ClusteredMean(np.asarray(mean), np.asarray(spread), independent, judges, np.asarray(len(comparisons))),
            level=level,
            planned=planned,
        )
        estimates[name, reference] = Estimate(mean, float(low), float(high), met[name])
    return estimates


def _games(comparisons: Sequence[tuple[str, str, float]], users: Sequence[str], players: Sequence[str]) -> _Games:
    features = np.zeros((len(comparisons), 3, len(players) + 1))
    games = np.arange(len(comparisons))
    index = {name: place for place, name in enumerate(players)}
    firsts = [index[first] for first, _, _ in comparisons]
    seconds = [index[second] for _, second, _ in comparisons]
    for sides, sign in ((firsts, 0.5), (seconds, -0.5)):
        features[games, 0, sides], features[games, 2, sides] = sign, -sign
    features[:, 1, -1] = 1.0
    outcomes = np.array([round(2 - 2 * points) for _, _, points in comparisons])
    return _Games(features, outcomes, np.unique(np.asarray(users, dtype=str), return_inverse=True)[1])


def _fit(games: _Games) -> tuple[Floats, Floats]:
    """The most probable parameters, and their covariance."""
    parameters = np.zeros(games.features.shape[2])
    prior = _PRECISION * np.eye(parameters.size)
    while True:
        scores, information = games.scores_and_information(parameters)
        step = np.linalg.solve(information + prior, scores.sum(axis=0) - prior @ parameters)
        parameters = parameters + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            break
    scores, information = games.scores_and_information(parameters)
    model = np.linalg.inv(information + prior).astype(float)
    by_user = np.zeros((int(games.users.max()) + 1, parameters.size))
    np.add.at(by_user, games.users, scores)
    judges = len(by_user)
    robust = model @ (judges / max(1, judges - 1) * by_user.T @ by_user + prior) @ model
    return parameters, _larger(robust, model)


def _larger(one: Floats, other: Floats) -> Floats:
    """A covariance that is nowhere smaller than either of two."""
    root = np.linalg.cholesky(other)
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ one @ inverse.T)
    turned = root @ vectors
    larger: Floats = turned * np.maximum(values, 1.0) @ turned.T
    return larger


def _points(lead: float, tie: float) -> tuple[float, float]:
    """Mean and variance of the points of a version that leads by so much in log-strength, at a propensity to tie."""
    chances = np.array([np.exp(lead / 2), tie, np.exp(-lead / 2)])
    chances /= chances.sum()
    mean = float(chances @ [1.0, 0.5, 0.0])
    return mean, float(chances @ [1.0, 0.25, 0.0]) - mean**2
