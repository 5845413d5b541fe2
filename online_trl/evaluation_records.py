"""Evaluations, and whatever else is measured, as plain values for a registry, a file, or a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any

from .types import AccuracyPoint, Estimate, EvaluationRecord, PolicyEvaluation

KIND = "evaluator"
"""Kind of the records of a registry that hold an evaluation."""

_TRENDS = ("accuracy_over_feedback", "accuracy_by_reward_version")


def plain_evaluation(evaluation: PolicyEvaluation) -> dict[str, Any]:
    """
    Returns an evaluation as values that JSON can hold; an end of an interval that is not known is `null`.

    Args:
        evaluation ([`~online_trl.types.PolicyEvaluation`]):
            The evaluation.
    """
    plain: dict[str, Any] = plain_values(asdict(evaluation))
    return plain


def read_evaluation(plain: Mapping[str, Any]) -> PolicyEvaluation:
    """
    Returns the evaluation that [`plain_evaluation`] made into plain values.

    Args:
        plain (`Mapping[str, Any]`):
            The values.
    """
    values = dict(plain)
    values["figures"] = {name: _estimate(figure) for name, figure in values["figures"].items()}
    values["judges"] = tuple(values["judges"])
    values["created_at"] = datetime.fromisoformat(values["created_at"])
    for name in _TRENDS:
        values[name] = tuple(AccuracyPoint(point["at"], _estimate(point["accuracy"])) for point in values[name])
    return PolicyEvaluation(**values)


def as_record(evaluation: PolicyEvaluation) -> EvaluationRecord:
    """Returns an evaluation as a registry keeps it."""
    return EvaluationRecord(KIND, evaluation.created_at, plain_evaluation(evaluation))


def recorded_evaluations(records: Iterable[EvaluationRecord]) -> list[PolicyEvaluation]:
    """Returns the evaluations among the records of a version."""
    return [read_evaluation(record.figures) for record in records if record.kind == KIND]


def plain_values(value: Any) -> Any:
    """Returns a value, with all that is in it, as JSON can hold it; a number that is not known becomes `None`."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimate(plain: Mapping[str, Any]) -> Estimate:
    low, high = (math.nan if plain[end] is None else plain[end] for end in ("low", "high"))
    return Estimate(plain["mean"], low, high, plain["n"])
