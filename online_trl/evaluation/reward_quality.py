"""How right a reward model is about what people said, how sure it is of itself, and how that changes over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..estimates import mean_estimate
from ..rewards.calibration import pair_calibration
from ..rewards.judging import correctness, judging_weights
from ..types import AccuracyPoint, Estimate, PreferencePair, Statement

_UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardQuality:
    """
    What is known of a reward model.

    Args:
        version (`str`):
            Its name.
        accuracy ([`~online_trl.types.Estimate`], *optional*):
            How often it is right about held-out statements, each voice one cluster; `None` without any.
        ece (`float`):
            Expected calibration error on the pairs among them; NaN without any.
        over_feedback (`tuple[AccuracyPoint, ...]`):
            Its accuracy on consecutive stretches of them, the oldest first.
        by_version (`tuple[AccuracyPoint, ...]`):
            How each version did when it was published.
    """

    version: str
    accuracy: Estimate | None
    ece: float
    over_feedback: tuple[AccuracyPoint, ...] = ()
    by_version: tuple[AccuracyPoint, ...] = ()


def reward_quality(
    version: str,
    statements: Sequence[Statement],
    scores: Sequence[Sequence[float]],
    *,
    stretches: int = 5,
    by_version: Sequence[AccuracyPoint] = (),
) -> RewardQuality:
    """
    Measures a reward model on statements that it was not trained on.

    Args:
        version (`str`):
            Its name.
        statements (`Sequence[Statement]`):
            The statements.
        scores (`Sequence[Sequence[float]]`):
            Its raw scores of the answers of each.
        stretches (`int`, *optional*, defaults to `5`):
            So many stretches of the log, of as many statements each, show the trend.
        by_version (`Sequence[AccuracyPoint]`, *optional*):
            How each version did when it was published.
    """
    weights = judging_weights(statements)
    correct = correctness(statements, scores)
    judged = sorted(
        (each.seq, each.voice, value)
        for each, value, weight in zip(statements, correct, weights, strict=True)
        if weight > 0
    )
    parts = [part for part in np.array_split(np.arange(len(judged)), stretches) if part.size]
    return RewardQuality(
        version=version,
        accuracy=_accuracy(judged) if judged else None,
        ece=_ece(statements, scores),
        over_feedback=tuple(_point([judged[index] for index in part]) for part in parts),
        by_version=tuple(by_version),
    )


_Judged = tuple[int, str, float]


def _accuracy(judged: Sequence[_Judged]) -> Estimate:
    return mean_estimate([value for _, _, value in judged], clusters=[voice for _, voice, _ in judged], bounds=_UNIT)


def _point(judged: Sequence[_Judged]) -> AccuracyPoint:
    return AccuracyPoint(f"{judged[0][0]}-{judged[-1][0]}", _accuracy(judged))


def _ece(statements: Sequence[Statement], scores: Sequence[Sequence[float]]) -> float:
    pairs = [(each, row) for each, row in zip(statements, scores, strict=True) if isinstance(each, PreferencePair)]
    return pair_calibration([row[0] - row[1] for _, row in pairs], [pair.weight for pair, _ in pairs]).ece
