"""
Which conversation a request goes on with. The answer is in the log, so that any server finds it, also after a restart.

A request names its conversation, or its prompt does: all of it up to the last answer is what an earlier interaction of
the same user ended with. Users without a name say the same things to the same policy and are strangers all the same:
their conversations have to be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..migrations import schema
from ..types import ANONYMOUS, Message, Purpose, new_id
from .rows import prompt_key

_rows = schema.interactions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    Place of a request in a conversation.

    Args:
        session_id (`str`):
            The conversation.
        parent_id (`str`, *optional*):
            The interaction whose answer the prompt goes on from.
        regenerates (`str`, *optional*):
            The latest earlier answer to the same prompt in this conversation.
        first_version (`str`, *optional*):
            The policy version that answered first in this conversation.
    """

    session_id: str
    parent_id: str | None = None
    regenerates: str | None = None
    first_version: str | None = None


def find_turn(
    connection: sa.Connection, prompt: Sequence[Message], *, user_id: str, purpose: Purpose, session_id: str | None
) -> Turn:
    """Returns the place of a request; [`FeedbackStore.find_turn`] says how it is found."""
    is_stranger = user_id == ANONYMOUS and session_id is None
    if is_stranger or purpose is Purpose.BACKGROUND:
        return Turn(session_id=session_id or new_id())
    own = sa.and_(_rows.user_id == user_id, _rows.purpose == purpose)
    parent = _parent(connection, prompt, own, session_id)
    session_id = session_id or (new_id() if parent is None else parent.session_id)
    in_session = sa.and_(own, _rows.session_id == session_id)
    former = _one(connection, sa.and_(in_session, _rows.prompt_key == prompt_key(prompt)), _rows.seq.desc())
    first = _one(connection, in_session, _rows.seq)
    return Turn(
        session_id=session_id,
        parent_id=parent and parent.interaction_id,
        regenerates=former and former.interaction_id,
        first_version=first and first.policy_version,
    )


def _parent(
    connection: sa.Connection, prompt: Sequence[Message], own: sa.ColumnElement[bool], session_id: str | None
) -> sa.Row[str, str, str] | None:
    answers = [place for place, message in enumerate(prompt) if message["role"] == "assistant"]
    if not answers:
        return None
    is_parent = sa.and_(own, _rows.reply_key == prompt_key(prompt[: answers[-1] + 1]))
    if session_id is not None:
        is_parent = sa.and_(is_parent, _rows.session_id == session_id)
    return _one(connection, is_parent, _rows.seq.desc())


def _one(
    connection: sa.Connection, condition: sa.ColumnElement[bool], order: sa.ColumnElement[Any]
) -> sa.Row[str, str, str] | None:
    query = sa.select(_rows.interaction_id, _rows.session_id, _rows.policy_version).where(condition)
    return connection.execute(query.order_by(order).limit(1)).first()
