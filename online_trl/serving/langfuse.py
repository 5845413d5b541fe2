"""
Langfuse's scores as feedback, so that its clients can be pointed at this server.

A score is about the answer that `observationId`, or else `traceId`, names: an interaction, also as the 32 hexadecimal
digits that Langfuse's clients want trace ids to be. Fields that have no meaning here are ignored. A score's `id` is
the key that it is stored once under.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, JsonValue, StrictBool, Tag, model_validator

from ..types import ANONYMOUS, Feedback, InvalidRecordError
from . import scores
from .client_keys import stored_key
from .feedback_schemas import SaidAt, said_at
from .schemas import IfReadable, Name, Text
from .settings import ServerSettings

DataType = Literal["NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION"]
SCORE_EVENT = "score-create"

_TRACE_ID = re.compile("[0-9a-f]{32}")
_TEXT_TYPES = ("CATEGORICAL", "TEXT", "CORRECTION")
_METADATA_TAG, _USER = "metadata", "userId"


def _tag(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tags(metadata: JsonValue) -> dict[str, str]:
    if metadata is None:
        return {}
    named = metadata if isinstance(metadata, dict) else {_METADATA_TAG: metadata}
    if not isinstance(named.get(_USER) or ANONYMOUS, str):
        raise ValueError(f"`{_USER}` names the user and must be a text")
    return {name: _tag(value) for name, value in named.items() if name != _USER or value}


class Score(BaseModel):
    """
    A score of Langfuse.

    `BOOLEAN` (0 or 1) is a thumb; `NUMERIC` is a rating within the bounds that the server's setting `rating_bounds`
    has for the name, 0 and 1 by default; `CORRECTION` is the user's own rewrite of the answer; `TEXT` is a comment;
    `CATEGORICAL` is an implicit signal `name=value`. The name becomes the tag `metric_name`, the metadata become tags,
    or the tag `metadata` if they are no object; `userId` among them names the user.
    """

    id: Name | None = None
    trace_id: Name | None = Field(None, alias="traceId")
    observation_id: Name | None = Field(None, alias="observationId")
    session_id: Name | None = Field(None, alias="sessionId")
    name: Name
    value: StrictBool | Annotated[float, Field(strict=True)] | Text
    data_type: DataType | None = Field(None, alias="dataType")
    comment: Text | None = None
    metadata: Annotated[dict[Name, Text], BeforeValidator(_tags, json_schema_input_type=JsonValue)] = Field(
        default_factory=dict
    )
    timestamp: SaidAt | None = None

    @model_validator(mode="after")
    def _value_is_of_its_type(self) -> Score:
        if self.data_type is None:
            self.data_type = self._default_type()
        if isinstance(self.value, str) != (self.data_type in _TEXT_TYPES):
            raise ValueError(f"a value of type {self.data_type} is {self.value!r}")
        if self.data_type == "BOOLEAN" and self.value not in (0, 1):
            raise ValueError(f"a value of type BOOLEAN is 0 or 1, not {self.value!r}")
        return self

    def _default_type(self) -> DataType:
        if isinstance(self.value, str):
            return "CATEGORICAL"
        return "BOOLEAN" if isinstance(self.value, bool) else "NUMERIC"

    def feedback(self, settings: ServerSettings, *, idempotency_key: str | None = None) -> Feedback:
        """
        Returns it as a row for the log.

        Args:
            settings ([`~online_trl.serving.settings.ServerSettings`]):
                Settings of the server.
            idempotency_key (`str`, *optional*):
                The key of a score without an `id`.

        Raises:
            [`~online_trl.types.InvalidRecordError`]: if it contradicts itself.
        """
        statement = self._statement(settings.rating_bounds)
        comments = [text for text in (statement.get("comment"), self.comment) if text]
        key, user_id = self.id or idempotency_key, self._user_id()
        return Feedback(
            kind=statement["kind"],
            value=statement["value"],
            interaction_ids=[self._interaction_id()],
            user_id=user_id,
            comment="\n".join(comments) or None,
            tags=self.metadata | {scores.NAME_TAG: self.name},
            session_id=self.session_id,
            idempotency_key=stored_key(user_id, key) if key else "",
            created_at=said_at(self.timestamp),
        )

    def _interaction_id(self) -> str:
        name = self.observation_id or self.trace_id
        if name is None:
            raise InvalidRecordError("a score names the answer that it is about as `traceId` or `observationId`")
        return str(uuid.UUID(name)) if _TRACE_ID.fullmatch(name) else name

    def _user_id(self) -> str:
        return scores.user_name(_USER, self.metadata.get(_USER) or ANONYMOUS)

    def _statement(self, bounds: scores.Bounds) -> scores.Statement:
        if not isinstance(self.value, str):
            is_truth = self.data_type == "BOOLEAN"
            return scores.truth(bool(self.value)) if is_truth else scores.number(self.name, self.value, bounds)
        if self.data_type == "CORRECTION":
            return scores.correction(self.value)
        return scores.comment(self.value) if self.data_type == "TEXT" else scores.label(self.name, self.value)


ScoreBody = Annotated[
    Annotated[Score, Tag("one")] | Annotated[list[dict[str, Any]], Field(max_length=1000), Tag("many")],
    Discriminator(lambda body: "many" if isinstance(body, list) else "one"),
]
"""Body of `POST /api/public/scores`; those of a list are read one by one, as each is stored or refused for itself."""


class Event(BaseModel):
    """One event of a batch; only those of type `score-create` are stored."""

    id: Name
    type: Name
    body: dict[str, Any]
    timestamp: IfReadable[SaidAt] = None

    def score(self) -> Score:
        """
        Returns the score that it brings.

        Raises:
            [`~online_trl.types.InvalidRecordError`]: if it brings something else.
            `ValidationError`: if the score is malformed.
        """
        if self.type != SCORE_EVENT:
            raise InvalidRecordError(f"events of type {self.type!r} are not stored here, only {SCORE_EVENT!r}")
        score = Score.model_validate(self.body)
        return score.model_copy(update={"id": score.id or self.id, "timestamp": score.timestamp or self.timestamp})


class Batch(BaseModel):
    """Body of `POST /api/public/ingestion`: events, see [`Event`]."""

    batch: list[dict[str, Any]] = Field(max_length=1000)


class CreatedScore(BaseModel):
    """Reply to one score: the id that it is stored under."""

    id: str


class AcceptedScores(BaseModel):
    """Reply to a list of scores that all were stored."""

    message: Literal["Accepted"] = "Accepted"


class ScoreError(BaseModel):
    """Why one score of a list was not stored."""

    message: str


class PartlyAcceptedScores(BaseModel):
    """Reply to a list of scores of which some were not stored."""

    accepted: int
    rejected: int
    errors: list[ScoreError]


class EventSuccess(BaseModel):
    """An event that was stored."""

    id: str
    status: int = 201


class EventError(BaseModel):
    """An event that was not stored, and why."""

    id: str
    status: int
    message: str
    error: str


class IngestionReply(BaseModel):
    """Reply to a batch: what became of each event."""

    successes: list[EventSuccess]
    errors: list[EventError]
