"""
OpenAI's stored completions as feedback, so that an unchanged OpenAI client can say something about an answer.

`client.chat.completions.update(id, metadata={"feedback": "up"})` sets what a user thinks of an answer. As with OpenAI,
to set the same again changes nothing, so that a client may retry; to set something else amends it, and to set an empty
text takes it back.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from ..store import FeedbackStore, IdempotencyConflictError, UnknownInteractionError, key_of_erased
from ..types import Feedback, FeedbackKind, Interaction, InvalidRecordError
from . import scores
from .feedback import record_feedback
from .schemas import Name, Text
from .scores import Bounds, Statement
from .service import Service

_KINDS = {
    "feedback": FeedbackKind.BINARY,
    "rating": FeedbackKind.RATING,
    "correction": FeedbackKind.CORRECTION,
    "comment": FeedbackKind.IMPLICIT,
}
_USER = "user"
_KEYS_AT_ONCE = 256
_THUMBS = {"up": True, "down": False}


class CompletionUpdate(BaseModel):
    """
    What a user thinks of an answer. All values are texts.

    `feedback` is `up` or `down`; `rating` is a number within the bounds that the server's setting `rating_bounds` has
    for `rating`, 0 and 1 by default; `correction` is the user's own rewrite; `comment` is free text. An empty text
    takes back what was said. `user` names the user, by default the one who got the answer. Other keys are kept as
    tags.
    """

    metadata: Annotated[dict[Name, Text], Field(min_length=1, max_length=16)]


class DeletedCompletion(BaseModel):
    """Reply to the erasure of an answer."""

    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: bool = True


async def find_interaction(service: Service, completion_id: str) -> Interaction:
    """
    Returns the answer that a completion id names: an interaction, or the first choice of an upstream's completion.

    Args:
        service ([`~online_trl.serving.service.Service`]):
            What the routes stand on.
        completion_id (`str`):
            The id.

    Raises:
        [`~online_trl.store.UnknownInteractionError`]: if there is no such answer.
    """
    return await asyncio.to_thread(_find_interaction, service.store, completion_id)


async def update_completion(service: Service, interaction: Interaction, metadata: Mapping[str, str]) -> None:
    """
    Sets what a user thinks of an answer.

    Args:
        service ([`~online_trl.serving.service.Service`]):
            What the routes stand on.
        interaction ([`~online_trl.types.Interaction`]):
            The answer.
        metadata (`Mapping[str, str]`):
            See [`CompletionUpdate`].

    Raises:
        [`~online_trl.types.InvalidRecordError`]: if a value is not one of those that its key may have.
        [`~online_trl.store.StoreError`]: one of its kinds, if it cannot be stored.
    """
    user_id = scores.user_name(_USER, metadata.get(_USER) or interaction.user_id)
    tags = {name: text for name, text in metadata.items() if name != _USER and name not in _KINDS}
    statements = _statements(metadata, service.settings.rating_bounds)

    async def say() -> None:
        due = await asyncio.to_thread(_due, service.store, interaction.interaction_id, user_id, tags, statements)
        if due:
            await record_feedback(service, due)

    try:
        await say()
    except IdempotencyConflictError:
        # Another client has set something else at the same moment; this one then came after it.
        await say()


def _find_interaction(store: FeedbackStore, completion_id: str) -> Interaction:
    names = [completion_id, *store.interaction_ids_of_upstream([completion_id]).values()]
    found = list(store.get_interactions(names).values())
    if not found:
        raise UnknownInteractionError([completion_id], store.erased_among([completion_id]))
    return found[0]


def _statements(metadata: Mapping[str, str], bounds: Bounds) -> list[Statement]:
    statements = [_statement(name, metadata[name], bounds) for name in _KINDS if name in metadata]
    if not statements:
        raise InvalidRecordError(
            f"`metadata` says nothing about the answer; what it may say is {', '.join(f'`{name}`' for name in _KINDS)}"
        )
    return statements


def _statement(name: str, text: str, bounds: Bounds) -> Statement:
    if not text:
        return {"kind": _KINDS[name], "value": None}
    if name == "feedback":
        return scores.truth(_thumb(text))
    if name == "rating":
        return scores.number(name, _number(text), bounds)
    return scores.correction(text) if name == "correction" else scores.comment(text)


def _thumb(text: str) -> bool:
    if text not in _THUMBS:
        raise InvalidRecordError(f"`feedback` is {text!r}; it may be `up`, `down`, or empty to take it back")
    return _THUMBS[text]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidRecordError(f"`rating` is {text!r}, which is not a number") from error


def _due(
    store: FeedbackStore, interaction_id: str, user_id: str, tags: dict[str, str], statements: Sequence[Statement]
) -> list[Feedback]:
    """Returns the rows that make the statements stand which do not stand already."""
    said = store.feedback_about(interaction_id)
    rows = [_row(store, interaction_id, user_id, tags, statement, said) for statement in statements]
    return [row for row in rows if row is not None]


def _row(
    store: FeedbackStore,
    interaction_id: str,
    user_id: str,
    tags: dict[str, str],
    statement: Statement,
    said: Sequence[Feedback],
) -> Feedback | None:
    """Returns the row that makes a statement stand, or `None` if it stands already."""
    # Two clients that set the same thing at the same time make one row, as both count on from the same rows.
    prefix = f"completion/{interaction_id}/{statement['kind'].value}/{user_id}/"
    earlier = [row for row in said if row.idempotency_key.startswith(prefix) and row.user_id == user_id]
    standing = earlier[-1] if earlier else None
    if standing is None and statement["value"] is None:
        return None
    if standing is not None and _said(standing) == (statement["value"], statement.get("comment"), tags):
        return None
    return Feedback(
        interaction_ids=[interaction_id],
        user_id=user_id,
        tags=tags,
        supersedes=None if standing is None else standing.feedback_id,
        idempotency_key=_next_key(store, prefix, standing),
        **statement,
    )


def _next_key(store: FeedbackStore, prefix: str, standing: Feedback | None) -> str:
    """Returns the key after that of the standing row; those of a user's rows that were erased stay used up."""
    number = -1 if standing is None else int(standing.idempotency_key.removeprefix(prefix))
    for start in itertools.count(number + 1, _KEYS_AT_ONCE):
        keys = [f"{prefix}{each}" for each in range(start, start + _KEYS_AT_ONCE)]
        erased = store.erased_among(map(key_of_erased, keys))
        if free := [key for key in keys if key_of_erased(key) not in erased]:
            return free[0]
    raise AssertionError("the keys never end")


def _said(row: Feedback) -> tuple[object, ...]:
    return row.value, row.comment, row.tags
