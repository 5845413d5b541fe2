"""The tables of the feedback log, as the newest migration leaves them; a test compares the two."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum
from typing import Any

import sqlalchemy as sa

from ..types import ErasedSubject, FeedbackKind, FeedbackSource, Purpose, QuarantineReason


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Timezone-aware UTC on both sides, also on SQLite, which stores no time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[datetime | None], Any] | None:
        """Returns what makes a parameter of a time: SQLite's is a text, which is made faster than by a pattern."""
        return _sqlite_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def _sqlite_text(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(timezone.utc).isoformat(" ", "microseconds").removesuffix("+00:00")


def _enum(kind: type[Enum]) -> sa.Enum:
    return sa.Enum(kind, values_callable=lambda members: [m.value for m in members], native_enum=False, length=16)


# SQLite makes a column the table's own key, which turns reading an interval into a range scan, only if it is INTEGER.
_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)

metadata = sa.MetaData()

log_position = sa.Table(
    "log_position",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", _SEQ, nullable=False),
)

interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
    sa.Column("interaction_id", sa.Text, nullable=False, unique=True),
    sa.Column("session_id", sa.Text, nullable=False, index=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("policy_version", sa.Text, nullable=False, index=True),
    sa.Column("purpose", _enum(Purpose), nullable=False, index=True),
    sa.Column("prompt_key", sa.String(64), nullable=False, index=True),
    sa.Column("prompt", _JSON, nullable=False),
    sa.Column("completion", _JSON, nullable=False),
    sa.Column("sampling", _JSON, nullable=False),
    sa.Column("prompt_ids", _JSON),
    sa.Column("completion_ids", _JSON),
    sa.Column("logprobs", _JSON),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("template_hash", sa.String(64)),
    sa.Column("weights_hash", sa.String(64)),
    sa.Column("upstream_id", sa.Text, index=True),
    sa.Column("parent_id", sa.Text, index=True),
    sa.Column("regenerates", sa.Text),
    sa.Column("reply_key", sa.String(64)),
    # A conversation is looked up with every request, and a single column can be the same in half of the log.
    sa.Index("ix_interactions_user_id_reply_key", "user_id", "reply_key"),
    sa.Index("ix_interactions_user_id_session_id", "user_id", "session_id"),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
    sa.Column("feedback_id", sa.Text, nullable=False, unique=True),
    sa.Column("idempotency_key", sa.Text, nullable=False, unique=True),
    sa.Column("kind", _enum(FeedbackKind), nullable=False),
    sa.Column("interaction_ids", _JSON, nullable=False),
    sa.Column("value", _JSON),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("source", _enum(FeedbackSource), nullable=False),
    sa.Column("comment", sa.Text),
    sa.Column("tags", _JSON, nullable=False),
    sa.Column("supersedes", sa.Text, sa.ForeignKey("feedback.feedback_id"), index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("received_at", UtcDateTime),
    sa.Column("statement_key", sa.String(64)),
    sa.Index("ix_feedback_user_id_received_at", "user_id", "received_at"),
    sa.Index("ix_feedback_statement_key_received_at", "statement_key", "received_at"),
)

feedback_interactions = sa.Table(
    "feedback_interactions",
    metadata,
    sa.Column("feedback_seq", _SEQ, sa.ForeignKey("feedback.seq"), primary_key=True, autoincrement=False),
    sa.Column("interaction_id", sa.Text, sa.ForeignKey("interactions.interaction_id"), primary_key=True, index=True),
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
    sa.Column("subject", _enum(ErasedSubject), nullable=False),
    sa.Column("subject_hash", sa.String(64), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

erased = sa.Table(
    "erased",
    metadata,
    sa.Column("row_id", sa.Text, primary_key=True),
    sa.Column("is_feedback", sa.Boolean, nullable=False),
    sa.Column("row_seq", _SEQ, nullable=False),
    sa.Column("tombstone_seq", _SEQ, sa.ForeignKey("tombstones.seq"), nullable=False, index=True),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("feedback_seq", _SEQ, sa.ForeignKey("feedback.seq"), primary_key=True, autoincrement=False),
    sa.Column("reason", _enum(QuarantineReason), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

quarantine_releases = sa.Table(
    "quarantine_releases",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
    sa.Column("feedback_seq", _SEQ, sa.ForeignKey("quarantine.feedback_seq"), nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", _JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
