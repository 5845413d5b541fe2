"""What goes over the wire for quarantine and erasure: the bodies of requests and replies."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..store import QuarantinedFeedback
from ..types import ErasedSubject, FeedbackKind, QuarantineReason, Tombstone
from .schemas import Name


class QuarantinedRow(BaseModel):
    """A row of feedback that waits, and why."""

    feedback_id: str
    seq: int
    user_id: str
    kind: FeedbackKind
    interaction_ids: list[str]
    value: JsonValue
    comment: str | None
    created_at: datetime
    reason: QuarantineReason
    detail: str

    @classmethod
    def of(cls, row: QuarantinedFeedback) -> QuarantinedRow:
        """Returns what is said of a row."""
        said = row.feedback
        assert said.seq is not None
        return cls(
            feedback_id=said.feedback_id,
            seq=said.seq,
            user_id=said.user_id,
            kind=said.kind,
            interaction_ids=said.interaction_ids,
            value=said.value,
            comment=said.comment,
            created_at=said.created_at,
            reason=row.reason,
            detail=row.detail,
        )


class ReleaseRequest(BaseModel):
    """Rows of feedback to be let out of quarantine, all or none."""

    model_config = ConfigDict(extra="forbid")

    feedback_ids: list[Name] = Field(min_length=1, max_length=1000)


class Release(BaseModel):
    """A released row, and the position in the log from which on it counts."""

    feedback_id: str
    seq: int


class TombstoneReply(BaseModel):
    """What was erased: the ids of the rows, never what they said."""

    seq: int
    subject: ErasedSubject
    created_at: datetime
    interaction_ids: list[str]
    feedback_ids: list[str]

    @classmethod
    def of(cls, tombstone: Tombstone) -> TombstoneReply:
        """Returns what is said of a tombstone."""
        return cls(
            seq=tombstone.seq,
            subject=tombstone.subject,
            created_at=tombstone.created_at,
            interaction_ids=list(tombstone.interaction_ids),
            feedback_ids=list(tombstone.feedback_ids),
        )
