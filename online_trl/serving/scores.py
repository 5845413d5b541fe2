"""
Named scores, as other services take them, in the words of the log.

TensorZero calls them metrics and Langfuse scores: a name, and a value that is a truth, a number or a text. The name is
kept as a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..types import FeedbackKind, InvalidRecordError
from .schemas import LONGEST_NAME

Bounds = Mapping[str, tuple[float, float]]
"""Lowest and highest value of a score, by its name."""

NAME_TAG = "metric_name"
"""Tag that holds the name of a score."""
COMMENT_SIGNAL = "comment"
"""Implicit signal of a user who only comments; nothing is learned from it, and the comment stands beside it."""

_UNIT_BOUNDS = (0.0, 1.0)


class Said(TypedDict):
    """The fields that every statement has."""

    kind: FeedbackKind
    value: Any


class Statement(Said, total=False):
    """The fields of [`~online_trl.types.Feedback`] that say what was said."""

    comment: str


def user_name(field: str, value: object) -> str:
    """
    Returns the name of a user that another service's field holds.

    Args:
        field (`str`):
            Name of the field, for the message.
        value (`object`):
            What it holds.

    Raises:
        [`~online_trl.types.InvalidRecordError`]: if that cannot be a name.
    """
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise InvalidRecordError(f"`{field}` names the user and must be a text of at most {LONGEST_NAME} characters")
    return value


def truth(value: bool) -> Statement:
    """Returns a truth as a thumb."""
    return {"kind": FeedbackKind.BINARY, "value": value}


def number(name: str, value: float, bounds: Bounds) -> Statement:
    """
    Returns a number as a rating.

    Args:
        name (`str`):
            Name of the score.
        value (`float`):
            The score.
        bounds (`Mapping[str, tuple[float, float]]`):
            Lowest and highest value by name; 0 and 1 for names that are not in it.

    Raises:
        [`~online_trl.types.InvalidRecordError`]: if the number is out of its bounds.
    """
    low, high = bounds.get(name, _UNIT_BOUNDS)
    if not low <= value <= high:
        raise InvalidRecordError(
            f"`{name}` is {value}, which is not between {low:g} and {high:g}; the server's setting `rating_bounds` "
            "gives a score other bounds"
        )
    return {"kind": FeedbackKind.RATING, "value": {"score": value, "low": low, "high": high}}


def correction(text: str) -> Statement:
    """Returns a text as the user's own rewrite of the answer."""
    return {"kind": FeedbackKind.CORRECTION, "value": text}


def comment(text: str) -> Statement:
    """Returns a text as a comment without a verdict."""
    return {"kind": FeedbackKind.IMPLICIT, "value": COMMENT_SIGNAL, "comment": text}


def label(name: str, text: str) -> Statement:
    """Returns one of several categories as an implicit signal, such as `tone=formal`."""
    return {"kind": FeedbackKind.IMPLICIT, "value": f"{name}={text}"}
