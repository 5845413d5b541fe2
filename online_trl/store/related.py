"""What bears on an interval of the log, found without reading the log: the rows about the prompts that it touches."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ..migrations import schema
from ..types import Interaction
from .quarantine import select_admitted
from .rows import interval, select_records

_rows = schema.feedback.c
_links = schema.feedback_interactions.c
_answers = schema.interactions.c
_released = schema.quarantine_releases.c
_after, _upto = sa.bindparam("after", type_=_rows.seq.type), sa.bindparam("upto", type_=_rows.seq.type)


def read_by_index(connection: sa.Connection, query: sa.Select[Any], *, after: int, upto: int) -> sa.CursorResult[Any]:
    """
    Returns the rows of one of the queries below, and keeps the database from reading whole tables for them.

    An interval touches few rows, however long the log is. PostgreSQL cannot know how few, and would rather scan, or
    compile a query that is over before it is compiled.
    """
    if connection.dialect.name == "postgresql":
        for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
    return connection.execute(query, {"after": after, "upto": upto})


def _related_feedback() -> sa.Select[Any]:
    touched = _touched_prompts()
    about = (
        sa.select(_links.feedback_seq.label("seq"))
        .where(_links.interaction_id == _answers.interaction_id, _answers.prompt_key == touched.c.prompt_key)
        .cte("about")
    )
    fresh = interval(sa.select(_rows.seq), _rows.seq, _after, _upto)
    begins = sa.union(sa.select(about.c.seq), fresh).cte("begins")
    bears = sa.select(begins.c.seq).cte("bears", recursive=True)
    superseded, amending = schema.feedback.alias("superseded"), schema.feedback.alias("amending")
    amends = (
        sa.select(amending.c.seq)
        .join(superseded, amending.c.supersedes == superseded.c.feedback_id)
        .join(bears, superseded.c.seq == bears.c.seq)
    )
    bears = bears.union(amends)
    query = select_admitted(_upto).join(bears, _rows.seq == bears.c.seq)
    return query.where(_rows.seq <= _upto).order_by("seq")


def _related_regenerations(*, tokens: bool) -> sa.Select[Any]:
    touched = _touched_prompts()
    siblings = (
        sa.select(_answers.interaction_id, _answers.regenerates)
        .where(_answers.prompt_key == touched.c.prompt_key, _answers.regenerates.is_not(None))
        .cte("siblings")
    )
    turns = sa.union(sa.select(siblings.c.interaction_id), sa.select(siblings.c.regenerates)).cte("turns")
    turn = turns.c.interaction_id
    members = sa.select(_answers.seq).where(_answers.interaction_id == turn)
    followers = sa.select(_answers.seq).where(_answers.parent_id == turn)
    related = sa.union(members, followers).cte("related")
    query = select_records(Interaction, tokens=tokens).join(related, _answers.seq == related.c.seq)
    return query.where(_answers.seq <= _upto).order_by(_answers.seq)


def _touched_prompts() -> sa.CTE:
    """
    The prompts that were asked or judged in the interval, also by what was superseded in it, or whose regenerated
    answer a user went on from.
    """
    is_about = _links.interaction_id == _answers.interaction_id
    asked = interval(sa.select(_answers.prompt_key), _answers.seq, _after, _upto)
    judged = interval(sa.select(_answers.prompt_key).where(is_about), _links.feedback_seq, _after, _upto)
    superseded = schema.feedback.alias("superseded")
    amended = interval(
        sa.select(_answers.prompt_key)
        .where(is_about, _links.feedback_seq == superseded.c.seq)
        .where(superseded.c.feedback_id == _rows.supersedes),
        _rows.seq,
        _after,
        _upto,
    )
    released = interval(
        sa.select(_answers.prompt_key).where(is_about, _links.feedback_seq == _released.feedback_seq),
        _released.seq,
        _after,
        _upto,
    )
    next_turn = schema.interactions.alias("next_turn")
    went_on = interval(
        sa.select(_answers.prompt_key).join(next_turn, next_turn.c.parent_id == _answers.interaction_id),
        next_turn.c.seq,
        _after,
        _upto,
    ).where(_answers.regenerates.is_not(None))
    return sa.union(asked, judged, amended, released, went_on).cte("touched")


# Built once: to build a statement takes about as long as to answer it.
RELATED_FEEDBACK = _related_feedback()
"""The feedback of the interval, that about its prompts, and what supersedes that, as far as it counts."""
RELATED_REGENERATIONS = {tokens: _related_regenerations(tokens=tokens) for tokens in (True, False)}
"""The answers that replaced another to a prompt of the interval, those, and what went on from both; with their tokens,
or without."""
