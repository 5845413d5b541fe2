"""How right the scores of answers are about held-out statements, in one currency for statements of every kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..types import Statement, UnpairedLabel

_SAYS_NOTHING = 0.5


def correctness(statements: Sequence[Statement], scores: Sequence[Sequence[float]]) -> list[float]:
    """
    Returns how right scores are about each statement.

    | statement | how right |
    |---|---|
    | pair | 1 if the chosen answer scores higher |
    | ranking | share of its pairs of answers on different ranks that the scores order alike |
    | label | share, by weight, of the opposite labels among the statements that lie on the right side of it |

    Equal scores count half. A ranking of ties alone, or a label that finds no opposite, is half right whatever the
    scores; [`judging_weights`] gives it no weight.

    Args:
        statements (`Sequence[Statement]`):
            What is judged by, all of one slice: labels are judged against each other.
        scores (`Sequence[Sequence[float]]`):
            The scores of each statement's answers: the chosen and the rejected one of a pair, all of a ranking in its
            order, the one of a label.

    Returns:
        `list[float]`: A number in [0, 1] for each statement; NaN where a score is not a finite number.

    Raises:
        `ValueError`: if a statement has another number of answers than scores.
    """
    _check(statements, scores)
    correct = [_SAYS_NOTHING] * len(statements)
    for index, (statement, row) in enumerate(zip(statements, scores, strict=True)):
        if not all(map(math.isfinite, row)):
            correct[index] = math.nan
        elif not isinstance(statement, UnpairedLabel):
            correct[index] = _ordered_alike(statement.ranks, row)
    labels = [
        index
        for index, statement in enumerate(statements)
        if isinstance(statement, UnpairedLabel) and not math.isnan(correct[index])
    ]
    for index, share in zip(labels, _label_shares(statements, scores, labels), strict=True):
        correct[index] = share
    return correct


def pseudo_values(statements: Sequence[Statement], correct: Sequence[float]) -> list[float]:
    """
    Returns a number for each statement whose mean is that of `correct`, and whose spread tells how noisy the mean is.

    For comparisons they are the same. Labels are judged against each other, so that the luck of a few of one kind is
    in the share of every one of the other: taken for independent, they would seem to agree far more than they do. The
    deviation of each is divided by the share of the labels' weight that its kind has, so that the variance is that of
    an AUC (DeLong et al., https://doi.org/10.2307/2531595).

    Args:
        statements (`Sequence[Statement]`):
            All of one slice.
        correct (`Sequence[float]`):
            How right the scores are about each, from [`correctness`].
    """
    values, weight = np.array(correct, dtype=float), np.asarray([each.weight for each in statements], dtype=float)
    verdict = np.asarray([each.label if isinstance(each, UnpairedLabel) else math.nan for each in statements], float)
    ups, downs = (~np.isnan(values) & (verdict == label) for label in (1, 0))
    of_ups, of_downs = weight[ups].sum(), weight[downs].sum()
    if of_ups > 0 and of_downs > 0:
        accuracy = np.average(values[ups], weights=weight[ups])
        for kind, of_kind in ((ups, of_ups), (downs, of_downs)):
            values[kind] = accuracy + (values[kind] - accuracy) * (of_ups + of_downs) / of_kind
    result: list[float] = values.tolist()
    return result


def judging_weights(statements: Sequence[Statement]) -> list[float]:
    """
    Returns how much each statement counts when a version is judged: its weight, or 0 if it puts no answer above
    another (a ranking of ties alone, or a label without an opposite among the statements).
    """
    verdicts = {statement.label for statement in statements if isinstance(statement, UnpairedLabel)}
    return [statement.weight if _orders(statement, len(verdicts) == 2) else 0.0 for statement in statements]


def evidence_weights(statements: Sequence[Statement]) -> list[float]:
    """
    Returns how much each statement counts where all are taken for independent, as by the test for drift: its judging
    weight, and of a label `4 p (1 - p)` of it, where `p` of the labels' weight are thumbs up. If few are of one kind,
    the luck of these few is in the share of every other.
    """
    weights = judging_weights(statements)
    labels = [index for index, each in enumerate(statements) if isinstance(each, UnpairedLabel)]
    total = sum(weights[index] for index in labels)
    if total > 0:
        ups = sum(weights[index] for index in labels if getattr(statements[index], "label", False)) / total
        for index in labels:
            weights[index] *= 4 * ups * (1 - ups)
    return weights


def _orders(statement: Statement, labels_have_opposites: bool) -> bool:
    if isinstance(statement, UnpairedLabel):
        return labels_have_opposites
    return len(set(statement.ranks)) > 1


def _check(statements: Sequence[Statement], scores: Sequence[Sequence[float]]) -> None:
    if len(statements) != len(scores):
        raise ValueError(f"{len(statements)} statements and the scores of {len(scores)}: give one row of scores each")
    for number, (statement, row) in enumerate(zip(statements, scores, strict=True)):
        if len(statement.ranks) != len(row):
            raise ValueError(f"statement {number} has {len(statement.ranks)} answers and {len(row)} scores")


def _ordered_alike(ranks: Sequence[int], scores: Sequence[float]) -> float:
    """Share of the pairs on different ranks whose scores say the same, 1 being the best rank."""
    votes = [
        (np.sign(scores[first] - scores[second]) * np.sign(ranks[second] - ranks[first]) + 1) / 2
        for first, second in combinations(range(len(ranks)), 2)
        if ranks[first] != ranks[second]
    ]
    return float(np.mean(votes)) if votes else _SAYS_NOTHING


def _label_shares(
    statements: Sequence[Statement], scores: Sequence[Sequence[float]], labels: Sequence[int]
) -> list[float]:
    """For each label, by its index, the share of the weight of the opposite ones that is on the right side of it."""
    score = np.asarray([scores[index][0] for index in labels], dtype=float)
    weight = np.asarray([statements[index].weight for index in labels], dtype=float)
    # +1 for an up, −1 for a down.
    verdict = np.asarray([1.0 if getattr(statements[index], "label", False) else -1.0 for index in labels])
    opposite = (verdict[:, None] != verdict[None, :]) * weight[None, :]
    right = (np.sign(score[:, None] - score[None, :]) * verdict[:, None] + 1) / 2
    total = opposite.sum(axis=1)
    shares = np.divide((opposite * right).sum(axis=1), total, out=np.full(len(labels), _SAYS_NOTHING), where=total > 0)
    result: list[float] = shares.tolist()
    return result
