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


def read_by_index(connection: sa.Connection) -> None:
    """
    Keeps the database from reading whole tables for what follows in the transaction.

    An interval touches few rows, however long the log is. PostgreSQL cannot know how few, and would rather scan.
    """
    if connection.dialect.name == "postgresql":
        for method in ("seqscan", "hashjoin", "mergejoin"):
            connection.exec_driver_sql(f"SET LOCAL enable_{method} = off")


def related_feedback(*, after: int, upto: int) -> sa.Select[Any]:
    """Selects the feedback of the interval, that about its prompts, and what supersedes that, as far as it counts."""
    touched = _touched_prompts(after, upto)
    about = (
        sa.select(_links.feedback_seq.label("seq"))
        .where(_links.interaction_id == _answers.interaction_id, _answers.prompt_key == touched.c.prompt_key)
        .cte("about")
    )
    fresh = interval(sa.select(_rows.seq), _rows.seq, after, upto)
    begins = sa.union(sa.select(about.c.seq), fresh).cte("begins")
    bears = sa.select(begins.c.seq).cte("bears", recursive=True)
    superseded, amending = schema.feedback.alias("superseded"), schema.feedback.alias("amending")
    amends = (
        sa.select(amending.c.seq)
        .join(superseded, amending.c.supersedes == superseded.c.feedback_id)
        .join(bears, superseded.c.seq == bears.c.seq)
    )
    bears = bears.union(amends)
    query = select_admitted(upto).join(bears, _rows.seq == bears.c.seq)
    return query.where(_rows.seq <= upto).order_by("seq")


def related_regenerations(*, after: int, upto: int) -> sa.Select[Any]:
    """Selects the answers that replaced another to a prompt of the interval, those, and what went on from both."""
    touched = _touched_prompts(after, upto)
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
    query = select_records(Interaction).join(related, _answers.seq == related.c.seq)
    return query.where(_answers.seq <= upto).order_by(_answers.seq)


def _touched_prompts(after: int, upto: int) -> sa.CTE:
    """The prompts that were asked or judged in the interval, or whose regenerated answer a user went on from."""
    is_about = _links.interaction_id == _answers.interaction_id
    asked = interval(sa.select(_answers.prompt_key), _answers.seq, after, upto)
    judged = interval(sa.select(_answers.prompt_key).where(is_about), _links.feedback_seq, after, upto)
    released = interval(
        sa.select(_answers.prompt_key).where(is_about, _links.feedback_seq == _released.feedback_seq),
        _released.seq,
        after,
        upto,
    )
    next_turn = schema.interactions.alias("next_turn")
    went_on = interval(
        sa.select(_answers.prompt_key).join(next_turn, next_turn.c.parent_id == _answers.interaction_id),
        next_turn.c.seq,
        after,
        upto,
    ).where(_answers.regenerates.is_not(None))
    return sa.union(asked, judged, released, went_on).cte("touched")
