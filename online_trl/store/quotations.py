"""
Where else the words of an erased answer stand: in what the same user asked later.

A conversation that goes on quotes all that was said before, also under another session id; an evaluation may do so;
and the background requests of a chat front-end quote a conversation within a text, to find a title for it. All who
give no name are not one user: of theirs, only the same conversation is looked through.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ..migrations import schema
from ..types import ANONYMOUS, Purpose
from .rows import where_in

_answers = schema.interactions.c
_COLUMNS = (
    _answers.interaction_id,
    _answers.user_id,
    _answers.session_id,
    _answers.purpose,
    _answers.prompt,
    _answers.completion,
)


def quotations(connection: sa.Connection, names: Collection[str]) -> set[str]:
    """Returns the interactions of the same users whose prompts quote these ones' last question and its answer."""
    exchanges: dict[tuple[str, str], list[list[Any]]] = defaultdict(list)
    for row in where_in(connection, sa.select(*_COLUMNS), _answers.interaction_id, names):
        # A chore's own text is looked for nowhere: nobody goes on from it, and a title is made of everyday words.
        if row["purpose"] is not Purpose.BACKGROUND:
            exchanges[_owner(row)].append([row["prompt"][-1], *row["completion"]])
    return {
        row["interaction_id"]
        for row in _candidates(connection, exchanges)
        if any(_quotes(row, exchange) for exchange in exchanges.get(_owner(row), ()))
    }


def _owner(row: sa.RowMapping) -> tuple[str, str]:
    return row["user_id"], row["session_id"] if row["user_id"] == ANONYMOUS else ""


def _candidates(connection: sa.Connection, owners: Collection[tuple[str, str]]) -> list[sa.RowMapping]:
    users = [user_id for user_id, _ in owners if user_id != ANONYMOUS]
    sessions = [session_id for user_id, session_id in owners if user_id == ANONYMOUS]
    query = sa.select(*_COLUMNS)
    return [
        *where_in(connection, query, _answers.user_id, users),
        *where_in(connection, query, _answers.session_id, sessions),
    ]


def _quotes(row: sa.RowMapping, exchange: Sequence[Any]) -> bool:
    prompt, length = row["prompt"], len(exchange)
    if row["purpose"] is Purpose.BACKGROUND:
        asked = "\n".join(map(_text, prompt))
        return any(text in asked for text in map(_text, exchange) if text)
    return any(prompt[start : start + length] == exchange for start in range(len(prompt) - length + 1))


def _text(message: Any) -> str:
    content = message["content"]
    return content.strip() if isinstance(content, str) else ""
