"""
Feedback that waits for somebody to look at it: bursts and near-duplicates.

A quarantined row is in the log like any other, acknowledged and with its `seq`, but nothing is learned from it and it
does not count in evaluations. Its release is an entry of the log with a `seq` of its own, and from then on the row
counts as said at that position, so that a reader who has read past the row itself gets it once, too. What replaces a
row that waits, or takes it back, counts at once, also against what that row was to replace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa

from ..migrations import schema
from ..types import ANONYMOUS, Feedback, QuarantineReason, utcnow
from .errors import NotQuarantinedError
from .insertion import insert_rows
from .rows import Bound, Lookup, interval, move_position, position, read_records, select_records

_rows = schema.feedback.c
_held = schema.quarantine.c
_released = schema.quarantine_releases.c
_with_standing = schema.feedback.outerjoin(schema.quarantine).outerjoin(schema.quarantine_releases)
_EVER_HELD = Lookup(
    sa.select(_rows.feedback_id, _rows.seq, _rows.supersedes, _released.seq.label("released"))
    .select_from(_with_standing)
    .where(_held.feedback_seq.is_not(None)),
    _rows.feedback_id,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """
    Decides, in the transaction that adds feedback, which of the new rows are quarantined.

    A burst is more rows of one user than a person sends in so short a time; those beyond the bound are quarantined.
    All who give no name share one user, of whom no burst is told: what they send together is no one's burst, and the
    rate limits bound it. A near-duplicate is a statement that says what so many others said shortly before, see
    [`~store.statements.statement_key`]. Time is that of arrival, by the clock of the server. Quarantined rows count,
    so that a flood does not get through in part. What only takes something back is never quarantined.

    Args:
        burst_rows (`int`):
            Rows of one user within `burst_seconds` from which on further ones are quarantined; `0` for no such bound.
        burst_seconds (`int`):
            See `burst_rows`.
        near_duplicates (`int`):
            Rows that say nearly the same within `near_duplicate_seconds` from which on further ones are quarantined;
            `0` for no such bound.
        near_duplicate_seconds (`int`):
            See `near_duplicates`.
    """

    burst_rows: int
    burst_seconds: int
    near_duplicates: int
    near_duplicate_seconds: int

    def __call__(self, connection: sa.Connection, fresh: Sequence[Feedback]) -> None:
        """Quarantines those of the rows, which were just added, that have to wait."""
        screened = {row.seq for row in fresh if row.value is not None}
        bounds = self._bounds()
        if not screened or not bounds:
            return
        suspects = connection.execute(_suspects(tuple(bounds)), self._parameters(fresh)).mappings()
        held = [row for row in suspects if row["seq"] in screened]
        insert_rows(connection, schema.quarantine, [self._entry(row) for row in held])

    def _bounds(self) -> dict[QuarantineReason, tuple[int, int]]:
        bounds = {
            QuarantineReason.BURST: (self.burst_rows, self.burst_seconds),
            QuarantineReason.NEAR_DUPLICATE: (self.near_duplicates, self.near_duplicate_seconds),
        }
        return {reason: (most, seconds) for reason, (most, seconds) in bounds.items() if most}

    def _parameters(self, fresh: Sequence[Feedback]) -> dict[str, Any]:
        seqs, now = [row.seq or 0 for row in fresh], utcnow()
        parameters: dict[str, Any] = {"first": min(seqs), "last": max(seqs), "now": now}
        for reason, (most, seconds) in self._bounds().items():
            parameters[f"{reason.value}_others"] = most - 1
            parameters[f"{reason.value}_since"] = now - timedelta(seconds=seconds)
        return parameters

    def _entry(self, row: sa.RowMapping) -> dict[str, Any]:
        reason, (most, seconds) = next(bound for bound in self._bounds().items() if row[bound[0].value])
        said = {
            QuarantineReason.BURST: f"{most} rows of this user came in the {seconds} s before it",
            QuarantineReason.NEAR_DUPLICATE: f"{most} rows said nearly the same in the {seconds} s before it",
        }
        return {"feedback_seq": row["seq"], "reason": reason, "detail": said[reason]}


@cache
def _suspects(reasons: tuple[QuarantineReason, ...]) -> sa.Select[Any]:
    """Selects the rows beyond a bound, with a column per reason that says so; built once, as every write needs it."""
    beyond = {
        QuarantineReason.BURST: _row_before(QuarantineReason.BURST, _rows.user_id) & (_rows.user_id != ANONYMOUS),
        QuarantineReason.NEAR_DUPLICATE: _row_before(QuarantineReason.NEAR_DUPLICATE, _rows.statement_key),
    }
    columns = [beyond[reason].label(reason.value) for reason in reasons]
    added = _rows.seq.between(sa.bindparam("first"), sa.bindparam("last"))
    return sa.select(_rows.seq, *columns).where(added, sa.or_(*(beyond[reason] for reason in reasons)))


def _row_before(reason: QuarantineReason, column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """Whether so many rows that are alike came before one, found by skipping over just so many in an index."""
    other = schema.feedback.alias()
    recent = other.c.received_at.between(sa.bindparam(f"{reason.value}_since"), sa.bindparam("now"))
    return (
        sa.select(other.c.seq)
        .where(other.c[column.name] == column, recent, other.c.seq < _rows.seq)
        .order_by(other.c.received_at.desc())
        .limit(1)
        .offset(sa.bindparam(f"{reason.value}_others", type_=sa.Integer))
        .scalar_subquery()
        .is_not(None)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedFeedback:
    """
    A row that waits, and why.

    Args:
        feedback ([`~online_trl.types.Feedback`]):
            The row as it was written.
        reason ([`~online_trl.types.QuarantineReason`]), detail (`str`):
            Why it waits, by name and in words.
    """

    feedback: Feedback
    reason: QuarantineReason
    detail: str


def quarantined(connection: sa.Connection, *, after: int, limit: int | None) -> list[QuarantinedFeedback]:
    """Returns the rows that wait, in the order of the log, each with reason and detail."""
    query = select_records(Feedback).add_columns(_held.reason, _held.detail).select_from(_with_standing)
    waiting = query.where(_held.feedback_seq > after, _released.seq.is_(None))
    rows = connection.execute(waiting.order_by(_held.feedback_seq).limit(limit)).mappings()
    return [_quarantined(row) for row in rows]


def _quarantined(row: sa.RowMapping) -> QuarantinedFeedback:
    feedback = Feedback(**{field.name: row[field.name] for field in fields(Feedback)})
    return QuarantinedFeedback(feedback=feedback, reason=row["reason"], detail=row["detail"])


def release(connection: sa.Connection, feedback_ids: Iterable[str]) -> list[Feedback]:
    """Releases rows and returns them as they count from now on; those released before stay where they are."""
    names = list(dict.fromkeys(feedback_ids))
    entries = _EVER_HELD.rows(connection, names)
    if missing := set(names) - {row["feedback_id"] for row in entries}:
        raise NotQuarantinedError(f"not in quarantine: {', '.join(sorted(missing))}")
    waiting = sorted(row["seq"] for row in entries if row["released"] is None)
    end = position(connection)
    now = utcnow()
    released = [{"seq": end + n, "feedback_seq": seq, "created_at": now} for n, seq in enumerate(waiting, start=1)]
    insert_rows(connection, schema.quarantine_releases, released)
    move_position(connection, end + len(released))
    rows = Lookup(select_admitted(), _rows.feedback_id).records(connection, Feedback, names)
    return sorted(rows, key=lambda row: row.seq or 0)


def select_admitted(upto: Bound | None = None) -> sa.Select[Any]:
    """Selects the feedback that counted at a position; the `seq` of a released row is that of its release."""
    released = _released.seq if upto is None else sa.case((_released.seq <= upto, _released.seq))
    seq = sa.func.coalesce(released, _rows.seq)
    columns = [seq.label(name) if name == "seq" else _rows[name] for name in (f.name for f in fields(Feedback))]
    return (
        sa.select(*columns)
        .select_from(_with_standing)
        .where(sa.or_(_held.feedback_seq.is_(None), released.is_not(None)))
    )


def admitted_feedback(connection: sa.Connection, *, after: int, upto: int | None, at: int | None) -> list[Feedback]:
    """Returns the feedback of an interval that counted at a position, by default at the interval's end."""
    at = upto if at is None else at
    written = interval(sa.select(_rows.seq), _rows.seq, after, upto)
    released = interval(sa.select(_released.feedback_seq), _released.seq, after, upto)
    members = sa.union(written, released).cte("members")
    query = select_admitted(at).join(members, members.c.seq == _rows.seq).order_by("seq")
    # What was written in the interval and released after it counts from there.
    query = interval(query, query.selected_columns["seq"], after, upto)
    return read_admitted(connection, connection.execute(query), upto=at)


def read_admitted(connection: sa.Connection, admitted: Iterable[sa.Row[Any]], *, upto: int | None) -> list[Feedback]:
    """Makes records of admitted rows; what supersedes a row that waits names what that was to replace."""
    rows = list(read_records(Feedback, admitted))
    waiting = _waiting(connection, {row.supersedes for row in rows} - {row.feedback_id for row in rows}, upto)
    return [
        replace(row, supersedes=_last(row.supersedes, waiting)) if row.supersedes in waiting else row for row in rows
    ]


def _waiting(connection: sa.Connection, names: set[str | None], upto: int | None) -> dict[str | None, str | None]:
    """The rows that waited at a position, among these and what those were to replace, each with what it names."""
    found: dict[str | None, str | None] = {}
    while ahead := names - found.keys() - {None}:
        entries = _EVER_HELD.rows(connection, ahead)
        waiting = [row for row in entries if row["released"] is None or (upto is not None and row["released"] > upto)]
        found |= {row["feedback_id"]: row["supersedes"] for row in waiting}
        names = {row["supersedes"] for row in waiting}
    return found


def _last(name: str | None, waiting: dict[str | None, str | None]) -> str | None:
    # Where nothing but waiting rows was replaced, the oldest of them stays named: it counted for nobody.
    while (earlier := waiting.get(name)) is not None:
        name = earlier
    return name
