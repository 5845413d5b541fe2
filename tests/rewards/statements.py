"""Statements of people who prefer one word to another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from online_trl.preferences import PreferenceBatch
from online_trl.types import FeedbackKind, PreferencePair, Statement, UnpairedLabel

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def conversation(prompt: str, text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, *answer(text)]


def pair(number: int, *, chosen: str = "yes", rejected: str = "no", **fields: Any) -> PreferencePair:
    return PreferencePair(
        prompt=question(number),
        chosen=answer(f"{chosen} {number}"),
        rejected=answer(f"{rejected} {number}"),
        kind=FeedbackKind.COMPARISON,
        **_origin(number, fields),
    )


def label(number: int, text: str, *, up: bool, **fields: Any) -> UnpairedLabel:
    return UnpairedLabel(
        prompt=question(number),
        completion=answer(f"{text} {number}"),
        label=up,
        score=float(up),
        **_origin(number, fields),
    )


def batch(statements: Sequence[Statement], *, after: int | None = None, upto: int | None = None) -> PreferenceBatch:
    """A batch that holds pairs and labels, over the interval that they span."""
    return PreferenceBatch(
        pairs=tuple(each for each in statements if isinstance(each, PreferencePair)),
        labels=tuple(each for each in statements if isinstance(each, UnpairedLabel)),
        feedback_ids=tuple(name for each in statements for name in each.feedback_ids),
        after=statements[0].seq - 1 if after is None else after,
        upto=statements[-1].seq if upto is None else upto,
    )


def pairs(first: int, count: int, **sides: Any) -> PreferenceBatch:
    return batch([pair(number, **sides) for number in range(first, first + count)])


def _origin(number: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "feedback_ids": (f"feedback-{number}",),
        "interaction_ids": (f"answer-{number}",),
        "seq": number,
        "session_ids": (f"session-{number}",),
        "policy_versions": ("policy-0001",),
        "voice": f"user-{number % 10}",
        "said_at": START + timedelta(minutes=number),
        "answered_at": START + timedelta(minutes=number - 1),
        **fields,
    }
