"""What all records are made of: messages, ids, times, estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import uuid_utils
from typing_extensions import TypedDict


class Message(TypedDict):
    """One chat message, in the conversational format of TRL and of the OpenAI API."""

    role: str
    content: str


def new_id() -> str:
    """Returns a new UUIDv7, whose text order is its time order (RFC 9562)."""
    return str(uuid_utils.uuid7())


def utcnow() -> datetime:
    """Returns the present time, timezone-aware, in UTC."""
    return datetime.now(timezone.utc)


class InvalidRecordError(ValueError):
    """A record contradicts itself; the message names the field, the value and what would be accepted."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval and the number of judgements behind it."""

    mean: float
    low: float
    high: float
    n: int


def check_messages(name: str, messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidRecordError(f"`{name}` is empty; it needs at least one message")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InvalidRecordError(f"`{name}` holds {message!r}; a message is {{'role': …, 'content': …}}")
