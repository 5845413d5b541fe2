"""Records to rows and back: the queries that reading and appending share."""

from __future__ import annotations

import hashlib
import json
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from operator import attrgetter
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from ..migrations import schema
from ..types import Feedback, Interaction, Message
from .errors import (
    ForeignFeedbackError,
    IdempotencyConflictError,
    UnknownFeedbackError,
    UnknownInteractionError,
    UnstorableError,
)
from .statements import statement_key

Record = TypeVar("Record", Interaction, Feedback)
Bound = int | sa.BindParameter[int]

_TABLES = {Interaction: schema.interactions, Feedback: schema.feedback}

_FIELDS = {record: tuple(field.name for field in fields(record)) for record in (Interaction, Feedback)}
_GET_FIELDS = {record: attrgetter(*names) for record, names in _FIELDS.items()}
_SETTERS = {record: tuple(vars(record)[name].__set__ for name in names) for record, names in _FIELDS.items()}
# What an engine saw and sampled is longer than the text, and only few need it.
_TOKENS = frozenset({"prompt_ids", "completion_ids", "logprobs"})

# A retry names the row by its key; these differ from one try to the next.
_NOT_CONTENTS = {"seq", "created_at", "feedback_id"}
_GET_CONTENTS = {
    record: attrgetter(*(name for name in names if name not in _NOT_CONTENTS)) for record, names in _FIELDS.items()
}
_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False, sort_keys=True)


# Statements that every write needs are built once.
_MOVE_POSITION = sa.update(schema.log_position).values(seq=sa.bindparam("end"))


def prompt_key(prompt: Sequence[Message]) -> str:
    """Returns the fingerprint of a prompt: the same messages have the same key."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()


def select_records(record: type[Interaction] | type[Feedback], *, tokens: bool = True) -> sa.Select[Any]:
    """Selects the fields of records in their order, those of [`_TOKENS`] only if they are wanted."""
    columns = _TABLES[record].c
    left_out = frozenset() if tokens else _TOKENS
    return sa.select(*(sa.null().label(name) if name in left_out else columns[name] for name in _FIELDS[record]))


def interval(query: sa.Select[Any], seq: sa.ColumnElement[int], after: Bound, upto: Bound | None) -> sa.Select[Any]:
    query = query.where(seq > after)
    return query if upto is None else query.where(seq <= upto)


class Lookup:
    """
    The rows of which a column has one of many values.

    The values are one parameter: databases limit the number of parameters, and a statement that never changes is
    built and compiled once.

    Args:
        query (`Select`):
            Gives the rows.
        column (`ColumnElement`):
            The column.
    """

    def __init__(self, query: sa.Select[Any], column: sa.ColumnElement[Any]) -> None:
        listed = sa.func.json_each(sa.bindparam("values")).table_valued("value")
        self._in_sqlite = query.where(column.in_(sa.select(listed.c.value)))
        self._missing_in_sqlite = sa.select(listed.c.value).where(~sa.exists().where(column == listed.c.value))
        self._in_postgresql = query.where(column == sa.any_(sa.bindparam("values", type_=ARRAY(column.type))))

    def rows(self, connection: sa.Connection, values: Iterable[Any]) -> Sequence[sa.RowMapping]:
        """Returns the rows by column, in no particular order."""
        found = self._found(connection, values)
        return [] if found is None else found.mappings().all()

    def records(self, connection: sa.Connection, record: type[Record], values: Iterable[Any]) -> Iterator[Record]:
        """Returns the rows as records, whose fields the query selects in their order."""
        found = self._found(connection, values)
        return iter(()) if found is None else read_records(record, found)

    def missing(self, connection: sa.Connection, values: Iterable[str]) -> set[str]:
        """Returns which of these values no row has; the query selects the column alone."""
        listed = list(dict.fromkeys(values))
        if connection.dialect.name == "sqlite":
            # Usually none is missing, and each row that comes from SQLite gives the interpreter away.
            return set(connection.execute(self._missing_in_sqlite, {"values": json.dumps(listed)}).scalars())
        return set(listed).difference(row[0] for row in self._found(connection, listed) or ())

    def _found(self, connection: sa.Connection, values: Iterable[Any]) -> sa.CursorResult[Any] | None:
        listed = list(dict.fromkeys(values))
        if not listed:
            return None
        if connection.dialect.name == "sqlite":
            return connection.execute(self._in_sqlite, {"values": json.dumps(listed)})
        return connection.execute(self._in_postgresql, {"values": listed})


def where_in(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Iterable[Any]
) -> Sequence[sa.RowMapping]:
    return Lookup(query, column).rows(connection, values)


def find(
    connection: sa.Connection, record: type[Record], key: str, values: Iterable[str], *, tokens: bool = True
) -> dict[str, Record]:
    lookup = _RECORDS_BY[key] if tokens else _WITHOUT_TOKENS
    return {getattr(row, key): row for row in lookup.records(connection, record, values)}


def read_records(record: type[Record], rows: Iterable[sa.Row[Any]]) -> Iterator[Record]:
    """
    Makes records of rows whose columns are the fields in their order.

    The rows were made of records: to check their contents again takes longer than everything else.
    """
    setters = _SETTERS[record]
    for row in rows:
        yield _restored(record, setters, row)


def _restored(record: type[Record], setters: Sequence[Callable[[Any, Any], None]], values: Iterable[Any]) -> Record:
    restored = object.__new__(record)
    for put, value in zip(setters, values, strict=True):
        put(restored, value)
    return restored


_RECORDS_BY = {
    key: Lookup(select_records(record), _TABLES[record].c[key])
    for record, key in ((Interaction, "interaction_id"), (Feedback, "idempotency_key"), (Feedback, "feedback_id"))
}
_WITHOUT_TOKENS = Lookup(select_records(Interaction, tokens=False), schema.interactions.c.interaction_id)


def counts(connection: sa.Connection, column: sa.Column[Any]) -> dict[Any, int]:
    query = sa.select(column, sa.func.count()).group_by(column).order_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}


def position(connection: sa.Connection) -> int:
    position: int = connection.execute(sa.select(schema.log_position.c.seq)).scalar_one()
    return position


def move_position(connection: sa.Connection, seq: int) -> None:
    connection.execute(_MOVE_POSITION, {"end": seq})


def number_rows(
    records: Sequence[Record], key: str, stored: Mapping[str, Record], end: int
) -> tuple[list[Record], dict[str, Record]]:
    """Returns the row of every record, and among them by key the new ones, numbered from `end` on."""
    rows: list[Record] = []
    fresh: dict[str, Record] = {}
    for record in records:
        name = getattr(record, key)
        row = stored.get(name) or fresh.get(name)
        if row is None:
            row = fresh[name] = _numbered(record, end + len(fresh) + 1)
        elif record_contents(row) != record_contents(record):
            raise IdempotencyConflictError(f"`{key}` {name!r} is already in the log with other contents")
        rows.append(row)
    return rows, fresh


def _numbered(record: Record, seq: int) -> Record:
    # A copy of what was checked when it was made.
    kind = type(record)
    numbered = _restored(kind, _SETTERS[kind], _GET_FIELDS[kind](record))
    object.__setattr__(numbered, "seq", seq)
    object.__setattr__(numbered, "created_at", record.created_at.astimezone(timezone.utc))
    return numbered


def storable(records: Sequence[Record]) -> Sequence[Record]:
    """
    Returns the records, of which each can be stored: those that are written together with it must not suffer.

    Raises:
        [`UnstorableError`]: if one cannot.
    """
    for record in records:
        if record.created_at.tzinfo is None:
            raise UnstorableError(
                f"`created_at` is {record.created_at} without a time zone; pass a timezone-aware time"
            )
        try:
            contents = record_contents(record).encode()
        except UnicodeEncodeError as error:
            raise UnstorableError(f"a record holds text that is not Unicode: {error}; it is {record!r}") from error
        if rb"\u0000" in contents:
            _check_names(record)
    return records


def _check_names(record: Interaction | Feedback) -> None:
    # Messages and statements are stored as JSON, which can write NUL; the other columns cannot.
    names = [value for value in record_values(record).values() if isinstance(value, str)]
    if isinstance(record, Feedback):
        names += record.interaction_ids
    if any("\x00" in name for name in names):
        raise UnstorableError(f"a record holds the character NUL where the log cannot keep it; it is {record!r}")


def interaction_values(row: Interaction) -> dict[str, Any]:
    """Returns the columns of an interaction: its fields, and the fingerprints that conversations are followed by."""
    return record_values(row) | {
        "prompt_key": prompt_key(row.prompt),
        "reply_key": prompt_key([*row.prompt, *row.completion]),
    }


def feedback_values(row: Feedback, received_at: datetime) -> dict[str, Any]:
    """Returns the columns of a feedback row: its fields, when it came in, and what others that say so are known by."""
    return record_values(row) | {"received_at": received_at, "statement_key": statement_key(row)}


def record_values(record: Interaction | Feedback) -> dict[str, Any]:
    """Returns the fields of a record by name."""
    kind = type(record)
    return dict(zip(_FIELDS[kind], _GET_FIELDS[kind](record), strict=True))


def record_contents(record: Interaction | Feedback) -> str:
    # As JSON, so that a tuple equals the list that it is stored as.
    try:
        return _JSON.encode(_GET_CONTENTS[type(record)](record))
    except (TypeError, ValueError) as error:
        raise UnstorableError(f"a record cannot be stored as JSON: {error}; it is {record!r}") from error


def interaction_links(row: Feedback) -> list[dict[str, Any]]:
    return [{"feedback_seq": row.seq, "interaction_id": name} for name in dict.fromkeys(row.interaction_ids)]


_INTERACTION_IDS = Lookup(sa.select(schema.interactions.c.interaction_id), schema.interactions.c.interaction_id)


def missing_interactions(connection: sa.Connection, feedback: Sequence[Feedback]) -> set[str]:
    """Returns the ids of the interactions that feedback names and that are not in the log."""
    return _INTERACTION_IDS.missing(connection, (name for row in feedback for name in row.interaction_ids))


def check_interactions(feedback: Sequence[Feedback], missing: set[str], erased: set[str]) -> None:
    """Refuses feedback on answers that are missing from the log."""
    if missing and (unknown := [name for row in feedback for name in row.interaction_ids if name in missing]):
        raise UnknownInteractionError(dict.fromkeys(unknown), erased)


_AUTHORS = Lookup(sa.select(schema.feedback.c.feedback_id, schema.feedback.c.user_id), schema.feedback.c.feedback_id)


def known_authors(connection: sa.Connection, feedback: Sequence[Feedback]) -> dict[str, str]:
    """Returns the user of each row, by its id, that feedback has the id of or supersedes."""
    named = [name for row in feedback for name in (row.feedback_id, row.supersedes) if name is not None]
    return {row["feedback_id"]: row["user_id"] for row in _AUTHORS.rows(connection, named)}


def check_names(
    requested: Sequence[Feedback], rows: Sequence[Feedback], fresh: Sequence[Feedback], known: Iterable[str]
) -> None:
    """Checks that no requested row has the key of one row and the id of another, which is new or known."""
    strays = {one.feedback_id for one, row in zip(requested, rows, strict=True) if one.feedback_id != row.feedback_id}
    if strays and (others := strays.intersection([*known, *(row.feedback_id for row in fresh)])):
        raise IdempotencyConflictError(f"`feedback_id` {min(others)!r} is already in the log with another key")


def check_feedback_ids(feedback: Sequence[Feedback], authors: dict[str, str]) -> None:
    """Checks the ids of new rows against the user of each known one, and adds theirs if all are right."""
    added: dict[str, str] = {}
    for row in feedback:
        if row.feedback_id in authors or row.feedback_id in added:
            raise IdempotencyConflictError(f"`feedback_id` {row.feedback_id!r} is already in the log with another key")
        if row.supersedes is not None:
            _check_superseded(row.supersedes, row.user_id, ChainMap(added, authors))
        added[row.feedback_id] = row.user_id
    authors.update(added)


def _check_superseded(feedback_id: str, user_id: str, authors: Mapping[str, str]) -> None:
    if feedback_id not in authors:
        raise UnknownFeedbackError(f"`supersedes` names {feedback_id!r}, which is not in the log")
    if authors[feedback_id] != user_id:
        raise ForeignFeedbackError(
            f"`supersedes` names {feedback_id!r}, which another user said; only who said it may replace it or take it "
            "back: send the same `user_id`"
        )
