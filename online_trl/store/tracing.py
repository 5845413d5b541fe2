"""Which rows of the log belong to somebody or something, the erased ones too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from ..migrations import schema
from ..types import ErasedSubject
from .erasure import tombstones_of
from .rows import where_in

_answers = schema.interactions.c
_rows = schema.feedback.c
_erased = schema.erased.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """
    The rows that belong to a user, or the one row of an interaction.

    Args:
        interactions (`Mapping[str, int]`):
            `seq` of each interaction, by id.
        feedback_ids (`frozenset[str]`):
            Feedback that the user gave; with an erased user, also that of others about the user's answers.
        erased (`frozenset[str]`):
            Those ids, of both kinds, whose rows were erased.
    """

    interactions: Mapping[str, int] = field(default_factory=dict)
    feedback_ids: frozenset[str] = frozenset()
    erased: frozenset[str] = frozenset()


def trace(connection: sa.Connection, subject: ErasedSubject, name: str) -> Trace:
    """Returns the rows of a user or an interaction, whether they are in the log or were erased."""
    if subject is ErasedSubject.INTERACTION:
        return _trace_interactions(connection, _answers.interaction_id == name, [name])
    marks = tombstones_of(connection, subject, name)
    asked = _trace_interactions(
        connection, _answers.user_id == name, [i for mark in marks for i in mark.interaction_ids]
    )
    said = connection.execute(sa.select(_rows.feedback_id).where(_rows.user_id == name)).scalars()
    gone = {name for mark in marks for name in mark.feedback_ids}
    return Trace(interactions=asked.interactions, feedback_ids=frozenset({*said, *gone}), erased=asked.erased | gone)


def _trace_interactions(connection: sa.Connection, are_meant: sa.ColumnElement[bool], names: list[str]) -> Trace:
    """The interactions that are in the log, and those of these names that were erased."""
    present = connection.execute(sa.select(_answers.interaction_id, _answers.seq).where(are_meant))
    found = {row.interaction_id: row.seq for row in present}
    gone = where_in(connection, sa.select(_erased.row_id, _erased.row_seq), _erased.row_id, names)
    erased = {row["row_id"]: row["row_seq"] for row in gone}
    return Trace(interactions=found | erased, erased=frozenset(erased))
