"""Makes the log: interactions, feedback, which feedback is about which interaction, and the position of its end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    position = op.create_table(
        "log_position",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("seq", _SEQ, nullable=False),
    )
    op.bulk_insert(position, [{"id": 1, "seq": 0}])
    _create_interactions()
    _create_feedback()


def _create_interactions() -> None:
    op.create_table(
        "interactions",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
        sa.Column("interaction_id", sa.Text(), nullable=False, unique=True),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("prompt_key", sa.String(64), nullable=False),
        sa.Column("prompt", sa.JSON(), nullable=False),
        sa.Column("completion", sa.JSON(), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("prompt_ids", sa.JSON(), nullable=True),
        sa.Column("completion_ids", sa.JSON(), nullable=True),
        sa.Column("logprobs", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    for column in ("session_id", "policy_version", "purpose", "prompt_key"):
        op.create_index(f"ix_interactions_{column}", "interactions", [column])


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=False),
        sa.Column("feedback_id", sa.Text(), nullable=False, unique=True),
        sa.Column("idempotency_key", sa.Text(), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("interaction_ids", sa.JSON(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("supersedes", sa.Text(), sa.ForeignKey("feedback.feedback_id"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_feedback_supersedes", "feedback", ["supersedes"])
    op.create_table(
        "feedback_interactions",
        sa.Column("feedback_seq", _SEQ, sa.ForeignKey("feedback.seq"), primary_key=True),
        sa.Column("interaction_id", sa.Text(), sa.ForeignKey("interactions.interaction_id"), primary_key=True),
    )
    op.create_index("ix_feedback_interactions_interaction_id", "feedback_interactions", ["interaction_id"])
