"""Records to rows and back: the queries that reading and appending share."""

from __future__ import annotations

import hashlib
import json
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import fields, replace
from datetime import timezone
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from ..migrations import schema
from ..types import Feedback, Interaction, Message, utcnow
from .errors import (
    ForeignFeedbackError,
    IdempotencyConflictError,
    StoreError,
    UnknownFeedbackError,
    UnknownInteractionError,
)

Record = TypeVar("Record", Interaction, Feedback)

_TABLES = {Interaction: schema.interactions, Feedback: schema.feedback}

# A retry names the row by its key; these differ from one try to the next.
_NOT_CONTENTS = {"seq", "created_at", "feedback_id"}

_CHUNK = 500


def prompt_key(prompt: Sequence[Message]) -> str:
    """Returns the fingerprint of a prompt: the same messages have the same key."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()


def select_records(record: type[Interaction] | type[Feedback]) -> sa.Select[Any]:
    columns = _TABLES[record].c
    return sa.select(*(columns[field.name] for field in fields(record)))


def interval(query: sa.Select[Any], seq: sa.ColumnElement[int], after: int, upto: int | None) -> sa.Select[Any]:
    query = query.where(seq > after)
    return query if upto is None else query.where(seq <= upto)


def where_in(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[str], values: Iterable[str]
) -> list[sa.RowMapping]:
    # Databases limit the number of parameters of one query.
    remaining = iter(dict.fromkeys(values))
    rows: list[sa.RowMapping] = []
    while chunk := list(islice(remaining, _CHUNK)):
        rows += connection.execute(query.where(column.in_(chunk))).mappings()
    return rows


def find(connection: sa.Connection, record: type[Record], key: str, values: Iterable[str]) -> dict[str, Record]:
    rows = where_in(connection, select_records(record), _TABLES[record].c[key], values)
    return {row[key]: record(**row) for row in rows}


def counts(connection: sa.Connection, column: sa.Column[Any]) -> dict[Any, int]:
    query = sa.select(column, sa.func.count()).group_by(column).order_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}


def position(connection: sa.Connection) -> int:
    position: int = connection.execute(sa.select(schema.log_position.c.seq)).scalar_one()
    return position


def move_position(connection: sa.Connection, seq: int) -> None:
    connection.execute(sa.update(schema.log_position).values(seq=seq))


def number_rows(
    records: Sequence[Record], key: str, stored: MutableMapping[str, Record], end: int
) -> tuple[list[Record], list[Record]]:
    """Returns the row of every record, and among them the new ones, numbered from `end` on and put into `stored`."""
    rows: list[Record] = []
    fresh: list[Record] = []
    for record in records:
        name = getattr(record, key)
        row = stored.get(name)
        if row is None:
            row = stored[name] = replace(record, seq=end + len(fresh) + 1)
            fresh.append(row)
        elif record_contents(row) != record_contents(record):
            raise IdempotencyConflictError(f"`{key}` {name!r} is already in the log with other contents")
        rows.append(row)
    return rows, fresh


def storable(records: Iterable[Record]) -> list[Record]:
    """
    Returns the records as they will be stored.

    Raises:
        [`StoreError`]: if a record cannot be stored: the ones that are written together with it must not suffer.
    """
    return [_storable(record) for record in records]


def _storable(record: Record) -> Record:
    if record.created_at.tzinfo is None:
        raise StoreError(f"`created_at` is {record.created_at} without a time zone; pass a timezone-aware time")
    try:
        record_contents(record).encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"a record holds text that is not Unicode: {error}; it is {record!r}") from error
    names = [value for value in record_values(record).values() if isinstance(value, str)]
    if any("\x00" in name for name in names):
        raise StoreError(f"a record holds the character NUL where the log cannot keep it; it is {record!r}")
    return replace(record, created_at=record.created_at.astimezone(timezone.utc))


def interaction_values(row: Interaction) -> dict[str, Any]:
    """Returns the columns of an interaction: its fields, and the fingerprints that conversations are followed by."""
    return record_values(row) | {
        "prompt_key": prompt_key(row.prompt),
        "reply_key": prompt_key([*row.prompt, *row.completion]),
    }


def feedback_values(row: Feedback) -> dict[str, Any]:
    """Returns the columns of a feedback row: its fields, and when it came in by this machine's clock."""
    return record_values(row) | {"received_at": utcnow()}


def record_values(record: Interaction | Feedback) -> dict[str, Any]:
    """Returns the fields of a record by name."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def record_contents(record: Interaction | Feedback) -> str:
    # As JSON, so that a tuple equals the list that it is stored as.
    contents = {name: value for name, value in record_values(record).items() if name not in _NOT_CONTENTS}
    try:
        return json.dumps(contents, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"a record cannot be stored as JSON: {error}; it is {record!r}") from error


def interaction_links(row: Feedback) -> list[dict[str, Any]]:
    return [{"feedback_seq": row.seq, "interaction_id": name} for name in dict.fromkeys(row.interaction_ids)]


def insert_rows(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), rows)


def known_interactions(connection: sa.Connection, feedback: Sequence[Feedback]) -> set[str]:
    """Returns the ids of the interactions that feedback names, as far as they are in the log."""
    column = schema.interactions.c.interaction_id
    named = [name for row in feedback for name in row.interaction_ids]
    return {row["interaction_id"] for row in where_in(connection, sa.select(column), column, named)}


def check_interactions(feedback: Sequence[Feedback], known: set[str]) -> None:
    named = [name for row in feedback for name in row.interaction_ids]
    if unknown := dict.fromkeys(name for name in named if name not in known):
        raise UnknownInteractionError(unknown)


def known_authors(connection: sa.Connection, feedback: Sequence[Feedback]) -> dict[str, str]:
    """Returns the user of each row, by its id, that feedback has the id of or supersedes."""
    rows = schema.feedback.c
    named = [name for row in feedback for name in (row.feedback_id, row.supersedes) if name is not None]
    query = sa.select(rows.feedback_id, rows.user_id)
    return {row["feedback_id"]: row["user_id"] for row in where_in(connection, query, rows.feedback_id, named)}


def check_feedback_ids(feedback: Sequence[Feedback], authors: dict[str, str]) -> None:
    """Checks the ids of new rows against the user of each known one, and adds theirs if all are right."""
    known = ChainMap({}, authors)
    for row in feedback:
        if row.feedback_id in known:
            raise IdempotencyConflictError(f"`feedback_id` {row.feedback_id!r} is already in the log with another key")
        if row.supersedes is not None:
            _check_superseded(row.supersedes, row.user_id, known)
        known[row.feedback_id] = row.user_id
    authors.update(known.maps[0])


def _check_superseded(feedback_id: str, user_id: str, authors: Mapping[str, str]) -> None:
    if feedback_id not in authors:
        raise UnknownFeedbackError(f"`supersedes` names {feedback_id!r}, which is not in the log")
    if authors[feedback_id] != user_id:
        raise ForeignFeedbackError(
            f"`supersedes` names {feedback_id!r}, which another user said; only who said it may replace it or take it "
            "back: send the same `user_id`"
        )
