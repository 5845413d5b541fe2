"""
What goes over the wire for feedback: the bodies of requests and replies.

Feedback takes nothing that it does not know, so that a misspelt field is an error and not a lost statement.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    model_validator,
)

from ..types import Feedback, FeedbackKind, FeedbackSource, utcnow
from .schemas import ANONYMOUS, Name, Text, check_text

_LARGEST_NUMBER = 2.0**53


def _check_value(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return check_text(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if any(isinstance(part, (int, float)) and not abs(part) <= _LARGEST_NUMBER for part in parts):
        raise ValueError("a number is not finite or too large")
    return value


class FeedbackRequest(BaseModel):
    """One statement about one answer (`interaction_id`) or several (`interaction_ids`); see [`~types.Feedback`]."""

    model_config = ConfigDict(extra="forbid")

    kind: FeedbackKind
    interaction_id: Name | None = None
    interaction_ids: list[Name] | None = Field(None, max_length=64)
    value: Annotated[JsonValue, AfterValidator(_check_value)] = None
    user_id: Name = Field(ANONYMOUS, validation_alias=AliasChoices("user_id", "user"))
    source: FeedbackSource = FeedbackSource.HUMAN
    comment: Text | None = None
    tags: dict[Name, Text] = Field(default_factory=dict)
    supersedes: Name | None = None
    idempotency_key: Name | None = None
    created_at: AwareDatetime | None = Field(
        None, ge=datetime(2000, 1, 1, tzinfo=timezone.utc), lt=datetime(2200, 1, 1, tzinfo=timezone.utc)
    )

    @model_validator(mode="after")
    def _names_interactions_once(self) -> FeedbackRequest:
        if self.interaction_id is not None and self.interaction_ids is not None:
            raise ValueError("`interaction_id` and `interaction_ids` exclude each other")
        return self

    def feedback(self) -> Feedback:
        """
        Returns it as a row for the log.

        Raises:
            [`~types.InvalidRecordError`]: if it contradicts itself.
        """
        one = [] if self.interaction_id is None else [self.interaction_id]
        return Feedback(
            kind=self.kind,
            interaction_ids=one if self.interaction_ids is None else self.interaction_ids,
            value=self.value,
            user_id=self.user_id,
            source=self.source,
            comment=self.comment,
            tags=self.tags,
            supersedes=self.supersedes,
            idempotency_key=self.idempotency_key or "",
            created_at=self.created_at or utcnow(),
        )


def _is_one_or_many(body: Any) -> str:
    return "many" if isinstance(body, list) else "one"


FeedbackBody = Annotated[
    Annotated[FeedbackRequest, Tag("one")]
    | Annotated[list[FeedbackRequest], Field(min_length=1, max_length=1000), Tag("many")],
    Discriminator(_is_one_or_many),
]
"""Body of `POST /v1/feedback`. The tags tell the two apart, so that an error speaks of the one that was sent."""


class FeedbackReceipt(BaseModel):
    """Reply to one statement: where it is in the log. The same statement again has the same receipt."""

    feedback_id: str
    seq: int
    kind: FeedbackKind
    interaction_ids: list[str]
    idempotency_key: str

    @classmethod
    def of(cls, feedback: Feedback) -> FeedbackReceipt:
        """Returns the receipt of a stored row."""
        assert feedback.seq is not None, "a stored row has its place in the log"
        return cls(
            feedback_id=feedback.feedback_id,
            seq=feedback.seq,
            kind=feedback.kind,
            interaction_ids=feedback.interaction_ids,
            idempotency_key=feedback.idempotency_key,
        )
