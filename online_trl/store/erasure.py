"""
Erasure, the one real delete of the log: what a user asked and said, or one answer and what was said about it.

What goes: the interactions, the later turns of the conversation, whose prompts quote them, what else the same user
asked with such a quotation, the feedback about any of these, and the rows that supersede that feedback. What stays is
a tombstone with a `seq` of its own: the ids of the erased rows, so that readers who have them can honour it, and a
hash of whom or what they were. An erased row does not come back, however often it is sent again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..migrations import schema
from ..types import ErasedSubject, Feedback, Interaction, Tombstone, utcnow
from .errors import ErasedError, UnknownInteractionError, UnknownUserError
from .insertion import insert_rows
from .quotations import quotations
from .rows import Lookup, interval, move_position, position, where_in

_answers = schema.interactions.c
_rows = schema.feedback.c
_links = schema.feedback_interactions.c
_tombstones = schema.tombstones.c
_erased = schema.erased.c
_CHUNK = 500

# What every write asks is built once.
_ANY_TOMBSTONE = sa.select(_tombstones.seq).limit(1)
_ERASED = Lookup(sa.select(_erased.row_id), _erased.row_id)

# The answers of one request have these in common; another request for the same turn regenerates one of them.
_OF_ONE_REQUEST = (
    _answers.session_id,
    _answers.user_id,
    _answers.purpose,
    _answers.prompt_key,
    _answers.policy_version,
    _answers.parent_id,
    _answers.regenerates,
    _answers.upstream_id,
)


def subject_hash(subject: ErasedSubject, name: str) -> str:
    """Returns what a tombstone keeps of whom or what was erased: enough to recognise a name, not to learn one."""
    return hashlib.sha256(f"{subject.value}/{name}".encode()).hexdigest()


def key_of_erased(idempotency_key: str) -> str:
    """Returns what stays of the key of an erased row, by which a retry is recognised."""
    return "key-" + hashlib.sha256(idempotency_key.encode()).hexdigest()


def erase_user(connection: sa.Connection, user_id: str) -> Tombstone:
    """Erases what a user asked and said."""
    asked = _ids(connection, sa.select(_answers.interaction_id).where(_answers.user_id == user_id))
    answers = _closure(asked, lambda names: _quoting(connection, names))
    said = _ids(connection, sa.select(_rows.feedback_id).where(_rows.user_id == user_id))
    return _erase(connection, ErasedSubject.USER, user_id, answers, said)


def erase_interaction(connection: sa.Connection, interaction_id: str) -> Tombstone:
    """Erases one answer with what was said about it, and what quotes it."""
    named = _ids(connection, sa.select(_answers.interaction_id).where(_answers.interaction_id == interaction_id))
    if not named:
        if interaction_id not in erased_among(connection, [interaction_id]):
            raise UnknownInteractionError([interaction_id])
        # It may have gone with its user, or with an earlier turn.
        number = sa.select(_erased.tombstone_seq).where(_erased.row_id == interaction_id).scalar_subquery()
        return _read(connection, sa.select(*_tombstones).where(_tombstones.seq == number))[0]
    return _erase(connection, ErasedSubject.INTERACTION, interaction_id, _with_quotations(connection, named), set())


def erase_completion(connection: sa.Connection, completion_id: str) -> Tombstone:
    """Erases every answer of one completion, by the id of an answer or the one that its upstream server gave it."""
    is_named = (_answers.interaction_id == completion_id) | (_answers.upstream_id == completion_id)
    named = connection.execute(sa.select(*_OF_ONE_REQUEST).where(is_named).order_by(_answers.seq).limit(1)).first()
    if named is None:
        former = tombstones_of(connection, ErasedSubject.INTERACTION, completion_id)
        return former[-1] if former else erase_interaction(connection, completion_id)
    same = (column.is_not_distinct_from(value) for column, value in zip(_OF_ONE_REQUEST, named, strict=True))
    choices = _ids(connection, sa.select(_answers.interaction_id).where(*same))
    return _erase(connection, ErasedSubject.INTERACTION, completion_id, _with_quotations(connection, choices), set())


def tombstones(connection: sa.Connection, *, after: int, upto: int | None) -> list[Tombstone]:
    """Returns the tombstones of an interval, in the order of the log."""
    return _read(connection, interval(sa.select(*_tombstones), _tombstones.seq, after, upto))


def tombstones_of(connection: sa.Connection, subject: ErasedSubject, name: str) -> list[Tombstone]:
    """Returns the tombstones of somebody or something, by name."""
    return _read(connection, sa.select(*_tombstones).where(_tombstones.subject_hash == subject_hash(subject, name)))


def erased_among(connection: sa.Connection, names: Iterable[str]) -> set[str]:
    """Returns which of these ids, or of these [`key_of_erased`], are those of erased rows."""
    if connection.execute(_ANY_TOMBSTONE).first() is None:
        return set()
    return {row["row_id"] for row in _ERASED.rows(connection, names)}


def check_not_erased(rows: Sequence[Interaction | Feedback], erased: set[str]) -> None:
    """Refuses rows that were erased and come back."""
    if not erased:
        return
    back = [name for row in rows for name in (_name(row),) if erased.intersection(_marks(row))]
    if back:
        raise ErasedError(f"erased from the log, and not to be added again: {', '.join(back)}")


def marks_of(rows: Iterable[Interaction | Feedback]) -> Iterator[str]:
    """Gives what rows would be known by if they had been erased."""
    return (mark for row in rows for mark in _marks(row))


def _name(row: Interaction | Feedback) -> str:
    return row.feedback_id if isinstance(row, Feedback) else row.interaction_id


def _marks(row: Interaction | Feedback) -> tuple[str, ...]:
    if isinstance(row, Feedback):
        return row.feedback_id, key_of_erased(row.idempotency_key)
    return (row.interaction_id,)


def _erase(
    connection: sa.Connection, subject: ErasedSubject, name: str, answers: set[str], said: set[str]
) -> Tombstone:
    said |= _where_in(connection, _feedback_about(), _links.interaction_id, answers)
    said = _closure(said, lambda names: _where_in(connection, sa.select(_rows.feedback_id), _rows.supersedes, names))
    former = tombstones_of(connection, subject, name)
    if not answers and not said:
        if former:
            return former[-1]
        raise UnknownUserError(f"nothing in the log is of the user {name!r}")
    seq = position(connection) + 1
    mark = {"seq": seq, "subject": subject, "subject_hash": subject_hash(subject, name), "created_at": utcnow()}
    insert_rows(connection, schema.tombstones, [mark])
    insert_rows(connection, schema.erased, _entries(connection, answers, said, seq))
    move_position(connection, seq)
    _delete(connection, answers, said)
    return _read(connection, sa.select(*_tombstones).where(_tombstones.seq == seq))[0]


def _closure(names: set[str], following: Callable[[Collection[str]], set[str]]) -> set[str]:
    found, ahead = set(names), set(names)
    while ahead:
        ahead = following(ahead) - found
        found |= ahead
    return found


def _with_quotations(connection: sa.Connection, names: set[str]) -> set[str]:
    return _closure(names, lambda ahead: _quoting(connection, ahead) | quotations(connection, ahead))


def _quoting(connection: sa.Connection, names: Collection[str]) -> set[str]:
    """The turns that came after these in their conversations: those linked to them, and those that repeat them."""
    linked = _where_in(connection, sa.select(_answers.interaction_id), _answers.parent_id, names)
    columns = (_answers.session_id, _answers.prompt, _answers.completion)
    quoted = where_in(connection, sa.select(*columns), _answers.interaction_id, names)
    sessions: dict[str, list[list[Any]]] = defaultdict(list)
    for row in quoted:
        sessions[row["session_id"]].append([*row["prompt"], *row["completion"]])
    turns = sa.select(_answers.interaction_id, _answers.session_id, _answers.prompt)
    return linked | {
        row["interaction_id"]
        for row in where_in(connection, turns, _answers.session_id, sessions)
        if any(_begins_with(row["prompt"], told) for told in sessions[row["session_id"]])
    }


def _begins_with(messages: Sequence[Any], beginning: Sequence[Any]) -> bool:
    return messages[: len(beginning)] == beginning


def _feedback_about() -> sa.Select[Any]:
    return sa.select(_rows.feedback_id).join(schema.feedback_interactions)


class _Erased(NamedTuple):
    row_id: str
    is_feedback: bool
    row_seq: int
    tombstone_seq: int


def _entries(connection: sa.Connection, answers: set[str], said: set[str], seq: int) -> list[dict[str, Any]]:
    asked = where_in(
        connection, sa.select(_answers.interaction_id, _answers.seq), _answers.interaction_id, sorted(answers)
    )
    columns = (_rows.feedback_id, _rows.idempotency_key, _rows.seq)
    rows = where_in(connection, sa.select(*columns), _rows.feedback_id, sorted(said))
    entries = [_Erased(row["interaction_id"], False, row["seq"], seq) for row in asked]
    entries += [_Erased(row["feedback_id"], True, row["seq"], seq) for row in rows]
    entries += [_Erased(key_of_erased(row["idempotency_key"]), True, row["seq"], seq) for row in rows]
    return [entry._asdict() for entry in entries]


def _delete(connection: sa.Connection, answers: set[str], said: set[str]) -> None:
    # A row that supersedes another one goes before it.
    found = where_in(connection, sa.select(_rows.feedback_id, _rows.seq), _rows.feedback_id, said)
    seqs = sorted((row["seq"] for row in found), reverse=True)
    for column in (
        schema.quarantine_releases.c.feedback_seq,
        schema.quarantine.c.feedback_seq,
        _links.feedback_seq,
        _rows.seq,
    ):
        _delete_in(connection, column, seqs)
    _delete_in(connection, _answers.interaction_id, sorted(answers))


def _delete_in(connection: sa.Connection, column: sa.Column[Any], values: Sequence[Any]) -> None:
    for start in range(0, len(values), _CHUNK):
        connection.execute(sa.delete(column.table).where(column.in_(values[start : start + _CHUNK])))


def _read(connection: sa.Connection, query: sa.Select[Any]) -> list[Tombstone]:
    marks = list(connection.execute(query.order_by(_tombstones.seq)).mappings())
    if not marks:
        return []
    entries: dict[int, list[sa.RowMapping]] = {mark["seq"]: [] for mark in marks}
    meant = query.with_only_columns(_tombstones.seq).subquery()
    ids = sa.select(_erased.row_id, _erased.is_feedback, _erased.tombstone_seq).order_by(_erased.row_seq)
    for row in connection.execute(ids.join(meant, meant.c.seq == _erased.tombstone_seq)).mappings():
        if not row["row_id"].startswith("key-"):
            entries[row["tombstone_seq"]].append(row)
    return [
        Tombstone(
            **mark,
            interaction_ids=tuple(row["row_id"] for row in entries[mark["seq"]] if not row["is_feedback"]),
            feedback_ids=tuple(row["row_id"] for row in entries[mark["seq"]] if row["is_feedback"]),
        )
        for mark in marks
    ]


def _ids(connection: sa.Connection, query: sa.Select[Any]) -> set[str]:
    return set(connection.execute(query).scalars())


def _where_in(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[str], values: Iterable[str]
) -> set[str]:
    return {next(iter(row.values())) for row in where_in(connection, query, column, values)}
