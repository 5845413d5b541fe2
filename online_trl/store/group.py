"""
Many write requests in one transaction: each is met as a whole or fails alone with its own error.

What the requests of a group need to know of the log is looked up for all of them at once, and what they add is
inserted at once, so that a single row among many costs a fraction of what it costs by itself. Requests see what those
before them in the group have added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from ..migrations import schema
from ..types import Feedback, Interaction, utcnow
from .erasure import check_not_erased, erased_among, marks_of
from .errors import StoreError
from .insertion import insert_rows
from .rows import (
    Record,
    check_feedback_ids,
    check_interactions,
    check_names,
    feedback_values,
    find,
    interaction_links,
    interaction_values,
    known_authors,
    missing_interactions,
    move_position,
    number_rows,
    position,
)

Result = TypeVar("Result")

Screen = Callable[[sa.Connection, Sequence[Feedback]], None]
"""Looks at feedback that was just added, in the transaction that adds it."""


@dataclass(frozen=True, slots=True, eq=False)
class AddInteractions:
    """
    Asks for interactions to be appended.

    Args:
        rows (`Sequence[Interaction]`):
            What to append, all or none.
    """

    rows: Sequence[Interaction]
    future: Future[list[Interaction]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, eq=False)
class AddFeedback:
    """
    Asks for feedback to be appended.

    Args:
        rows (`Sequence[Feedback]`):
            What to append, all or none.
        screen (`Callable[[Connection, Sequence[Feedback]], None]`, *optional*):
            Is shown the rows that are new, once they are in the table. It is called once for all requests of a group
            that bring the same one.
    """

    rows: Sequence[Feedback]
    screen: Screen | None = None
    future: Future[list[Feedback]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, eq=False)
class RunTask(Generic[Result]):
    """
    Asks for something else to be done to the log, after what was asked before it and before what is asked after it.

    Args:
        task (`Callable[[Connection], Result]`):
            Does it; what it has written is undone if it raises a [`StoreError`].
    """

    task: Callable[[sa.Connection], Result]
    future: Future[Result] = field(default_factory=Future)


WriteRequest = AddInteractions | AddFeedback | RunTask[Any]
Outcome = Any
"""Result of a request, or the [`StoreError`] that it failed with."""


def write_group(connection: sa.Connection, requests: Sequence[WriteRequest]) -> list[Outcome]:
    """Writes what the requests ask for, and returns the outcome of each, in their order."""
    outcomes: list[Outcome] = []
    for are_tasks, neighbours in groupby(requests, key=lambda request: isinstance(request, RunTask)):
        if are_tasks:
            outcomes += [_run(connection, request.task) for request in neighbours if isinstance(request, RunTask)]
        else:
            outcomes += _append(connection, list(neighbours))
    return outcomes


def _run(connection: sa.Connection, task: Callable[[sa.Connection], Outcome]) -> Outcome:
    try:
        with connection.begin_nested():
            return task(connection)
    except StoreError as error:
        return error


def _append(connection: sa.Connection, requests: Sequence[WriteRequest]) -> list[Outcome]:
    # Whoever sends an answer and feedback on it without waiting in between finds both in one group.
    answers = [request for request in requests if isinstance(request, AddInteractions)]
    statements = [request for request in requests if isinstance(request, AddFeedback)]
    start = end = position(connection)
    outcomes: dict[WriteRequest, Outcome] = {}
    if answers:
        end = _append_interactions(connection, answers, end, outcomes)
    if statements:
        end = _append_feedback(connection, statements, end, outcomes)
    if end > start:
        move_position(connection, end)
    return [outcomes[request] for request in requests]


def _append_interactions(
    connection: sa.Connection, requests: Sequence[AddInteractions], end: int, outcomes: dict[WriteRequest, Outcome]
) -> int:
    ids = [row.interaction_id for request in requests for row in request.rows]
    erased = erased_among(connection, ids)
    stored = find(connection, Interaction, "interaction_id", ids)
    numbering = _Numbering("interaction_id", stored, end, lambda _, __, fresh: check_not_erased(fresh, erased))
    for request in requests:
        outcomes[request] = numbering.add(request.rows)
    insert_rows(connection, schema.interactions, [interaction_values(row) for row in numbering.fresh])
    return numbering.end


def _append_feedback(
    connection: sa.Connection, requests: Sequence[AddFeedback], end: int, outcomes: dict[WriteRequest, Outcome]
) -> int:
    rows = [row for request in requests for row in request.rows]
    stored = find(connection, Feedback, "idempotency_key", [row.idempotency_key for row in rows])
    candidates = [row for row in rows if row.idempotency_key not in stored]
    missing = missing_interactions(connection, candidates)
    authors = known_authors(connection, [*candidates, *_strays(rows, stored)])
    erased = erased_among(connection, chain(missing, marks_of(candidates)))

    def check(requested: Sequence[Feedback], found: Sequence[Feedback], fresh: Sequence[Feedback]) -> None:
        check_interactions(fresh, missing, erased)
        check_not_erased(fresh, erased)
        check_names(requested, found, fresh, authors)
        check_feedback_ids(fresh, authors)

    numbering = _Numbering("idempotency_key", stored, end, check)
    screens: dict[Screen, list[Feedback]] = {}
    for request in requests:
        before = len(numbering.fresh)
        outcomes[request] = numbering.add(request.rows)
        if request.screen is not None:
            screens.setdefault(request.screen, []).extend(numbering.fresh[before:])
    _insert_feedback(connection, numbering.fresh)
    for screen, fresh in screens.items():
        screen(connection, fresh)
    return numbering.end


def _strays(rows: Sequence[Feedback], stored: Mapping[str, Feedback]) -> list[Feedback]:
    """Returns the rows that have the key of a stored row and not its id, which may be that of another."""
    return [row for row in rows if (found := stored.get(row.idempotency_key)) and found.feedback_id != row.feedback_id]


def _insert_feedback(connection: sa.Connection, rows: Sequence[Feedback]) -> None:
    now = utcnow()
    insert_rows(connection, schema.feedback, [feedback_values(row, now) for row in rows])
    insert_rows(connection, schema.feedback_interactions, [link for row in rows for link in interaction_links(row)])


class _Numbering(Generic[Record]):
    """Gives the new rows of request after request their `seq`, and leaves out the requests that cannot be met."""

    def __init__(
        self,
        key: str,
        stored: dict[str, Record],
        end: int,
        check: Callable[[Sequence[Record], Sequence[Record], Sequence[Record]], None],
    ) -> None:
        self.fresh: list[Record] = []
        self.end = end
        self._key = key
        self._stored: dict[str, Record] = stored
        self._check: Callable[[Sequence[Record], Sequence[Record], Sequence[Record]], None] = check

    def add(self, records: Sequence[Record]) -> list[Record] | StoreError:
        try:
            rows, named = number_rows(records, self._key, self._stored, self.end)
            fresh = list(named.values())
            self._check(records, rows, fresh)
        except StoreError as error:
            return error
        self._stored.update(named)
        self.fresh += fresh
        self.end += len(fresh)
        return rows
