"""
What goes over the wire for feedback: the bodies of requests and replies.

Feedback takes nothing that it does not know, so that a misspelt field is an error and not a lost statement.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StrictBool,
    Tag,
    model_validator,
)
from typing_extensions import TypedDict

from ..types import ANONYMOUS, Feedback, FeedbackKind, FeedbackSource, InvalidRecordError, new_id, utcnow
from . import scores
from .client_keys import client_key, stored_key
from .schemas import Name, Text, check_text
from .settings import ServerSettings

_LARGEST_NUMBER = 2.0**53

SaidAt = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=timezone.utc), lt=datetime(2200, 1, 1, tzinfo=timezone.utc)),
]
"""When something was said, by the sender's clock; it may be late."""


def said_at(told: datetime | None) -> datetime:
    """Returns when something was said that comes in now: when the sender says, but not later than now."""
    now = utcnow()
    return now if told is None else min(told, now)


def _check_value(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return check_text(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if any(isinstance(part, (int, float)) and not abs(part) <= _LARGEST_NUMBER for part in parts):
        raise ValueError("a number is not finite or too large")
    return value


class FeedbackRequest(BaseModel):
    """
    One statement about one answer (`interaction_id`) or several (`interaction_ids`).

    An interaction may also be named by the id that an upstream server gave its completion. A statement that comes
    again, with the same `feedback_id` or `idempotency_key`, is stored once. To amend an earlier statement, name it as
    `supersedes`; to retract it, do so without a `value`. Only the user who said something may do either.

    | `kind` | interactions | `value` |
    |---|---|---|
    | `binary` | one | `true` (thumb up) or `false` |
    | `rating` | one | `{"score": 4, "low": 1, "high": 5}` |
    | `comparison` | two | `"first"`, `"second"` or `"tie"` |
    | `ranking` | two or more | one rank per interaction, 1 is best, equal ranks are ties: `[2, 1, 3, 3]` |
    | `correction` | one | the user's own rewrite of the answer |
    | `implicit` | one | name of the signal: `"regenerate"`, `"copy"`, `"abandon"` … |
    """

    model_config = ConfigDict(extra="forbid")

    kind: FeedbackKind
    interaction_id: Name | None = None
    interaction_ids: list[Name] | None = Field(None, max_length=64)
    value: Annotated[JsonValue, AfterValidator(_check_value)] = Field(
        None, description="The statement, see the table; without one, what `supersedes` names is taken back."
    )
    user_id: Name = Field(
        ANONYMOUS, validation_alias=AliasChoices("user_id", "user"), description="Who says it. `user` is the same."
    )
    source: FeedbackSource = FeedbackSource.HUMAN
    comment: Text | None = None
    tags: dict[Name, Text] = Field(default_factory=dict)
    session_id: Name | None = None
    supersedes: Name | None = Field(None, description="`feedback_id` of the user's statement that this one replaces.")
    idempotency_key: Name | None = Field(None, description="As the header `Idempotency-Key`, for each of a list.")
    feedback_id: UUID | None = Field(
        None, description="Made by the client; it then also is the `idempotency_key` unless there is another one."
    )
    created_at: SaidAt | None = None

    @model_validator(mode="after")
    def _names_interactions_once(self) -> FeedbackRequest:
        if self.interaction_id is not None and self.interaction_ids is not None:
            raise ValueError("`interaction_id` and `interaction_ids` exclude each other")
        return self

    def feedback(self, settings: ServerSettings, *, idempotency_key: str | None = None) -> Feedback:
        """
        Returns it as a row for the log.

        Args:
            settings ([`~online_trl.serving.settings.ServerSettings`]):
                Settings of the server.
            idempotency_key (`str`, *optional*):
                The key that came in the header.

        Raises:
            [`~online_trl.types.InvalidRecordError`]: if it contradicts itself.
        """
        one = [] if self.interaction_id is None else [self.interaction_id]
        if None not in (idempotency_key, self.idempotency_key) and idempotency_key != self.idempotency_key:
            raise InvalidRecordError(
                "the header `Idempotency-Key` and the body's `idempotency_key` are not the same; send one of them"
            )
        feedback_id = new_id() if self.feedback_id is None else str(self.feedback_id)
        return Feedback(
            kind=self.kind,
            interaction_ids=one if self.interaction_ids is None else self.interaction_ids,
            value=self.value,
            user_id=self.user_id,
            source=self.source,
            comment=self.comment,
            tags=self.tags,
            session_id=self.session_id,
            supersedes=self.supersedes,
            idempotency_key=stored_key(self.user_id, idempotency_key or self.idempotency_key or feedback_id),
            created_at=said_at(self.created_at),
            feedback_id=feedback_id,
        )


class ContentBlock(BaseModel):
    """A piece of an answer, as TensorZero gives it."""

    type: Literal["text"]
    text: Text


def _refuse_dry_run(dryrun: bool | None) -> bool | None:
    if dryrun:
        raise ValueError("there are no dry runs here: what is sent is stored, or refused with a reason; leave it out")
    return dryrun


def _refuse_episode(episode_id: str | None) -> str | None:
    if episode_id is not None:
        raise ValueError("feedback is about answers and not about episodes here: name an answer as `inference_id`")
    return episode_id


class MetricRequest(BaseModel):
    """
    One statement in the shape of TensorZero's feedback API.

    A truth is a thumb; a number is a rating within the bounds that the server's setting `rating_bounds` has for the
    metric, 0 and 1 by default; a text is a comment (metric `comment`) or the user's own rewrite of the answer (metric
    `demonstration`). The metric's name becomes the tag `metric_name`. The tag `user_id` names the user.
    """

    model_config = ConfigDict(extra="forbid")

    metric_name: Name
    inference_id: Name | None = Field(None, description="The interaction, as for `interaction_id`.")
    episode_id: Annotated[str | None, AfterValidator(_refuse_episode)] = Field(None, description="Not supported.")
    value: StrictBool | Annotated[float, Field(strict=True)] | Text | list[ContentBlock]
    tags: dict[Name, Text] = Field(default_factory=dict)
    internal: StrictBool = Field(False, description="Has no meaning here.")
    dryrun: Annotated[StrictBool | None, AfterValidator(_refuse_dry_run)] = Field(None, description="Not supported.")

    def feedback(self, settings: ServerSettings, *, idempotency_key: str | None = None) -> Feedback:
        """Returns it as a row for the log; see [`FeedbackRequest.feedback`]."""
        if self.inference_id is None:
            raise InvalidRecordError("`inference_id` is missing; it names the answer that the metric is about")
        user_id = scores.user_name("user_id", self.tags.get("user_id") or ANONYMOUS)
        return Feedback(
            interaction_ids=[self.inference_id],
            user_id=user_id,
            tags=self.tags | {scores.NAME_TAG: self.metric_name},
            idempotency_key=stored_key(user_id, idempotency_key) if idempotency_key else "",
            **self._statement(settings.rating_bounds),
        )

    def _statement(self, bounds: scores.Bounds) -> scores.Statement:
        if isinstance(self.value, bool):
            return scores.truth(self.value)
        if isinstance(self.value, (int, float)):
            return scores.number(self.metric_name, self.value, bounds)
        text = self.value if isinstance(self.value, str) else "".join(block.text for block in self.value)
        if self.metric_name == "demonstration":
            return scores.correction(text)
        if self.metric_name == "comment":
            return scores.comment(text)
        raise InvalidRecordError(
            f"the value of `{self.metric_name}` is a text; only `comment` and `demonstration` are, other metrics are "
            "true, false or a number"
        )


def _shape(body: Any) -> str:
    if isinstance(body, list):
        return "many"
    return "metric" if isinstance(body, dict) and "metric_name" in body else "one"


AnyFeedbackRequest = Annotated[
    Annotated[FeedbackRequest, Tag("one")] | Annotated[MetricRequest, Tag("metric")],
    Discriminator(_shape),
]

FeedbackBody = Annotated[
    Annotated[FeedbackRequest, Tag("one")]
    | Annotated[MetricRequest, Tag("metric")]
    | Annotated[list[AnyFeedbackRequest], Field(min_length=1, max_length=1000), Tag("many")],
    Discriminator(_shape),
]
"""Body of `POST /v1/feedback`. The tags tell the shapes apart, so that an error speaks of the one that was sent."""


_ANSWER, _OTHER = "019a5b1c-7f00-7000-8000-000000000001", "019a5b1c-7f00-7000-8000-000000000002"

FEEDBACK_EXAMPLES: dict[str, dict[str, Any]] = {
    "thumb": {"value": {"kind": "binary", "interaction_id": _ANSWER, "value": True, "user_id": "ada"}},
    "rating": {"value": {"kind": "rating", "interaction_id": _ANSWER, "value": {"score": 4, "low": 1, "high": 5}}},
    "comparison": {"value": {"kind": "comparison", "interaction_ids": [_ANSWER, _OTHER], "value": "tie"}},
    "ranking": {"value": {"kind": "ranking", "interaction_ids": [_ANSWER, _OTHER], "value": [2, 1]}},
    "correction": {"value": {"kind": "correction", "interaction_id": _ANSWER, "value": "Press it for ten seconds."}},
    "implicit": {"value": {"kind": "implicit", "interaction_id": _ANSWER, "value": "copy"}},
    "amendment": {
        "value": {
            "kind": "binary",
            "interaction_id": _ANSWER,
            "value": False,
            "user_id": "ada",
            "supersedes": "019a5b1c-8000-7000-8000-000000000003",
        }
    },
    "retraction": {
        "value": {"kind": "binary", "user_id": "ada", "supersedes": "019a5b1c-8000-7000-8000-000000000003"}
    },
    "list": {
        "value": [
            {"kind": "binary", "interaction_id": _ANSWER, "value": True},
            {"kind": "binary", "interaction_id": _OTHER, "value": False},
        ]
    },
    "metric": {"value": {"metric_name": "helpfulness", "inference_id": _ANSWER, "value": 0.8}},
}
"""Bodies of `POST /v1/feedback`, one of each kind, as the API's description shows them."""


class FeedbackReceipt(TypedDict):
    """Reply to one statement: where it is in the log. The same statement again has the same receipt."""

    feedback_id: str
    seq: int
    kind: FeedbackKind
    interaction_ids: list[str]
    idempotency_key: str


def receipt_of(feedback: Feedback) -> FeedbackReceipt:
    """Returns the receipt of a stored row."""
    assert feedback.seq is not None, "a stored row has its place in the log"
    return {
        "feedback_id": feedback.feedback_id,
        "seq": feedback.seq,
        "kind": feedback.kind,
        "interaction_ids": feedback.interaction_ids,
        "idempotency_key": client_key(feedback),
    }
