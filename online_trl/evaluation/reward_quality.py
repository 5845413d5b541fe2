"""How right a reward model is about what people said, how sure it is of itself, and how that changes over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from ..estimates import mean_estimate
from ..rewards.calibration import pair_calibration
from ..rewards.judging import correctness, judging_weights, pseudo_values
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
            Its accuracy on consecutive stretches of them, each judged by itself, the oldest first.
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
    counted = compress(zip(statements, scores, strict=True), judging_weights(statements))
    rows = sorted(counted, key=lambda row: row[0].seq)
    parts = [[rows[index] for index in part] for part in np.array_split(np.arange(len(rows)), stretches) if part.size]
    points = [(f"{part[0][0].seq}-{part[-1][0].seq}", _accuracy(part)) for part in parts]
    return RewardQuality(
        version=version,
        accuracy=_accuracy(rows),
        ece=_ece(statements, scores),
        over_feedback=tuple(AccuracyPoint(at, accuracy) for at, accuracy in points if accuracy is not None),
        by_version=tuple(by_version),
    )


def _accuracy(rows: Sequence[tuple[Statement, Sequence[float]]]) -> Estimate | None:
    """Judges by these statements alone, all alike; `None` if they put no answer above another."""
    statements = [replace(statement, weight=1.0) for statement, _ in rows]
    values = pseudo_values(statements, correctness(statements, [scores for _, scores in rows]))
    judged = list(compress(zip(values, statements, strict=True), judging_weights(statements)))
    if not judged:
        return None
    return mean_estimate([value for value, _ in judged], clusters=[each.voice for _, each in judged], bounds=_UNIT)


def _ece(statements: Sequence[Statement], scores: Sequence[Sequence[float]]) -> float:
    pairs = [(each, row) for each, row in zip(statements, scores, strict=True) if isinstance(each, PreferencePair)]
    return pair_calibration([row[0] - row[1] for _, row in pairs], [pair.weight for pair, _ in pairs]).ece
