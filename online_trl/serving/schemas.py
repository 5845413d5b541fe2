"""
What goes over the wire: the bodies of requests and replies.

Chat completions take what OpenAI's clients send and ignore the fields that have no meaning here; feedback takes
nothing that it does not know, so that a misspelt field is an error and not a lost statement.
"""

from __future__ import annotations

import random
import re
import time
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    model_validator,
)

from ..types import Feedback, FeedbackKind, FeedbackSource, Message, utcnow
from .engine import Generation, GenerationRequest, Sampling

DEFAULT_MODEL = "default"
"""Alias of the version in service."""
ANONYMOUS = "anonymous"
"""User of a request that names none."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LARGEST_NUMBER = 2.0**53


def _check_text(text: str) -> str:
    if _UNSTORABLE.search(text):
        raise ValueError("the text holds NUL or half of a surrogate pair, which cannot be stored")
    return text


def _check_value(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _check_text(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if any(isinstance(part, (int, float)) and not abs(part) <= _LARGEST_NUMBER for part in parts):
        raise ValueError("a number is not finite or too large")
    return value


Text = Annotated[str, AfterValidator(_check_text)]
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_check_text)]


class ErrorDetail(BaseModel):
    """What was wrong with a request, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """Reply to a request that was not met."""

    error: ErrorDetail


class TextPart(BaseModel):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


def _join_parts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    try:
        return "".join(TextPart.model_validate(part).text for part in content)
    except ValidationError as error:
        raise ValueError("a part of a message is {'type': 'text', 'text': …}; the policy reads only text") from error


class ChatMessage(BaseModel):
    """One message of a conversation; content in parts is joined."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text, BeforeValidator(_join_parts, json_schema_input_type=str | list[TextPart])]

    def message(self) -> Message:
        """Returns it as the message that the policy sees."""
        return {"role": self.role, "content": self.content}


def _listed(stop: Any) -> Any:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


class ChatCompletionRequest(BaseModel):
    """Body of `POST /v1/chat/completions`. What is `null` has its default."""

    model_config = ConfigDict(strict=True)

    messages: list[ChatMessage] = Field(min_length=1)
    model: Name = DEFAULT_MODEL
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Name],
        Field(max_length=16),
        BeforeValidator(_listed, json_schema_input_type=str | list[str] | None),
    ] = Field(default_factory=list)
    stream: bool | None = None
    user: Name | None = None

    def generation_request(self, default_version: str) -> GenerationRequest:
        """Returns what the engine is to generate; a random seed is drawn here, so that it is known afterwards."""
        return GenerationRequest(
            messages=[message.message() for message in self.messages],
            policy_version=default_version if self.model == DEFAULT_MODEL else self.model,
            sampling=Sampling(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                seed=random.getrandbits(32) if self.seed is None else self.seed,
                stop=tuple(self.stop),
            ),
            n=self.n or 1,
        )


class Choice(BaseModel):
    """One answer. Each is an interaction of its own, to which feedback can be given."""

    index: int
    message: dict[str, str]
    finish_reason: str | None
    logprobs: None = None
    interaction_id: str


class Usage(BaseModel):
    """Tokens that went in and came out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answers: list[Generation]) -> Usage:
        """Counts the tokens of the answers to one prompt."""
        prompt = len(answers[0].prompt_ids)
        completion = sum(len(answer.completion_ids) for answer in answers)
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatCompletion(BaseModel):
    """Reply to `POST /v1/chat/completions`; its `id` is the first choice's `interaction_id`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    choices: list[Choice]
    usage: Usage


class ChunkChoice(BaseModel):
    """What one answer grew by."""

    index: int
    delta: dict[str, str]
    finish_reason: str | None
    logprobs: None = None
    interaction_id: str


class ChatCompletionChunk(BaseModel):
    """One event of a streamed reply."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]


class Model(BaseModel):
    """One name that a request may ask for; `root` is the version behind it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["online-trl"] = "online-trl"
    root: str


class ModelList(BaseModel):
    """Reply to `GET /v1/models`: the alias of the live version, the live version, then the others, newest first."""

    object: Literal["list"] = "list"
    data: list[Model]


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


class Health(BaseModel):
    """Reply to `GET /healthz`."""

    status: Literal["ok"] = "ok"
    policy_version: str
    latest_seq: int
