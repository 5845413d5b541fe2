"""Adds what the feedback service needs: capture, conversation links, erasure, quarantine, keys and secrets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _extend_interactions()
    _extend_feedback()
    _create_erasure()
    _create_quarantine()
    _create_access()


def _extend_interactions() -> None:
    for name in ("template_hash", "weights_hash", "reply_key"):
        op.add_column("interactions", sa.Column(name, sa.String(64), nullable=True))
    for name in ("upstream_id", "parent_id", "regenerates"):
        op.add_column("interactions", sa.Column(name, sa.Text(), nullable=True))
    for name in ("upstream_id", "parent_id"):
        op.create_index(f"ix_interactions_{name}", "interactions", [name])
    for name in ("reply_key", "session_id"):
        op.create_index(f"ix_interactions_user_id_{name}", "interactions", ["user_id", name])


def _extend_feedback() -> None:
    op.add_column("feedback", sa.Column("session_id", sa.Text(), nullable=True))
    op.add_column("feedback", sa.Column("received_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("feedback", sa.Column("statement_key", sa.String(64), nullable=True))
    for name in ("user_id", "statement_key"):
        op.create_index(f"ix_feedback_{name}_received_at", "feedback", [name, "received_at"])


def _create_erasure() -> None:
    op.create_table(
        "tombstones",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("subject_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_tombstones_subject_hash", "tombstones", ["subject_hash"])
    op.create_table(
        "erased",
        sa.Column("row_id", sa.Text(), primary_key=True),
        sa.Column("is_feedback", sa.Boolean(), nullable=False),
        sa.Column("row_seq", _SEQ, nullable=False),
        sa.Column("tombstone_seq", _SEQ, sa.ForeignKey("tombstones.seq"), nullable=False),
    )
    op.create_index("ix_erased_tombstone_seq", "erased", ["tombstone_seq"])


def _create_quarantine() -> None:
    op.create_table(
        "quarantine",
        sa.Column("feedback_seq", _SEQ, sa.ForeignKey("feedback.seq"), primary_key=True, autoincrement=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_table(
        "quarantine_releases",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
        sa.Column("feedback_seq", _SEQ, sa.ForeignKey("quarantine.feedback_seq"), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )


def _create_access() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )
