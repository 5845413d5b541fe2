"""
What goes over the wire for chat: the bodies of requests and replies, and what all bodies are made of.

Chat completions take what OpenAI's clients send; fields that are not among those named here mean something to an
upstream server at most.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from ..types import Interaction, Message
from .engine import DEFAULT_MODEL
from .generation import ChatRequest, Generation, GenerationRequest, Sampling, TokenLogprob

LONGEST_NAME = 256
"""Characters that an id, a key or a user's name may have."""
MOST_ANSWERS = 16
"""Answers that one request may have."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
DEEPEST = 64
"""Levels of lists and objects in each other that JSON may have here."""


def check_text(text: str) -> str:
    """Returns a text that can be stored; for others, raises a `ValueError` that says why not."""
    if _UNSTORABLE.search(text):
        raise ValueError("the text holds NUL or half of a surrogate pair, which cannot be stored")
    return text


def _check_storable(body: Any) -> None:
    """Refuses JSON that the log or an engine could not take. NUL is not refused: a policy may say it, and be told."""
    level = [body]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, str) and _HALF_PAIR.search(value):
                raise ValueError("a text holds half of a surrogate pair, which is no character")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("a number is not finite")
        level = [part for value in level for part in _parts(value)]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return value if isinstance(value, list) else ()


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_Value = TypeVar("_Value")
IfReadable = Annotated[_Value | None, WrapValidator(_or_none)]
"""What another program says in its own way, and what is done without where it cannot be read."""

Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(check_text)]
Seq = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A position in the log, as far as a database can count."""


class ErrorDetail(BaseModel):
    """What was wrong with a request, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """Reply to a request that was not met."""

    error: ErrorDetail


class ContentPart(BaseModel):
    """A piece of a message's content: a text, or something that only an upstream server may be able to read."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


def _join_texts(content: Any) -> Any:
    """Joins the parts of a content that is nothing but text."""
    is_text = isinstance(content, list) and all(_is_text_part(part) for part in content)
    return "".join(part["text"] for part in content) if is_text else content


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


class ChatMessage(BaseModel):
    """One message of a conversation; texts in parts are joined."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[
        str | list[ContentPart] | None,
        BeforeValidator(_join_texts, json_schema_input_type=str | list[ContentPart] | None),
    ] = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("`content` is required")
        return self

    def message(self) -> Message:
        """Returns it as the message that the policy sees; fields that say nothing are left out."""
        fields = {name: value for name, value in self.model_dump(exclude_unset=True).items() if value}
        return cast(Message, fields | {"role": self.role, "content": fields.get("content", "")})


def _listed(stop: Any) -> Any:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


class StreamOptions(BaseModel):
    """How a stream is written."""

    include_usage: bool | None = None


class ChatCompletionRequest(BaseModel):
    """Body of `POST /v1/chat/completions`. What is `null` has its default."""

    model_config = ConfigDict(strict=True, extra="allow")

    messages: list[ChatMessage] = Field(min_length=1)
    model: Name = DEFAULT_MODEL
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Name],
        Field(max_length=16),
        BeforeValidator(_listed, json_schema_input_type=str | list[str] | None),
    ] = Field(default_factory=list)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _can_be_stored(cls, body: Any) -> Any:
        _check_storable(body)
        return body

    @model_validator(mode="after")
    def _candidates_need_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs` to be true")
        return self

    def chat_request(
        self, *, policy_version: str, interaction_ids: Sequence[str], body: Mapping[str, Any]
    ) -> ChatRequest:
        """
        Returns what the engine is asked for.

        Args:
            policy_version (`str`):
                The version that answers.
            interaction_ids (`Sequence[str]`):
                Id of each answer.
            body (`Mapping[str, Any]`):
                This request as it came.
        """
        generation = GenerationRequest(
            messages=[message.message() for message in self.messages],
            policy_version=policy_version,
            sampling=Sampling(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                seed=self.seed,
                stop=tuple(self.stop),
            ),
            n=len(interaction_ids),
            top_logprobs=self.top_logprobs or 0 if self.logprobs else None,
        )
        return ChatRequest(
            generation=generation,
            interaction_ids=tuple(interaction_ids),
            body=body,
            stream=bool(self.stream),
            include_usage=bool(self.stream_options and self.stream_options.include_usage),
        )


class ChoiceLogprobs(BaseModel):
    """The tokens of a choice, each that was drawn, the one that ends the answer included."""

    content: list[TokenLogprob]
    refusal: None = None


class Choice(BaseModel):
    """One answer. Each is an interaction of its own, to which feedback can be given."""

    index: int
    message: dict[str, Any]
    finish_reason: str | None
    logprobs: ChoiceLogprobs | None = None
    interaction_id: str


class Usage(BaseModel):
    """Tokens that went in and came out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answers: Sequence[Generation | Interaction]) -> Usage:
        """Counts the tokens of the answers to one prompt, or of their stretches."""
        prompt = len(answers[0].prompt_ids or [])
        completion = sum(len(answer.completion_ids or []) for answer in answers)
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatCompletion(BaseModel):
    """Reply to `POST /v1/chat/completions`; its `id` is the first choice's `interaction_id`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    system_fingerprint: str | None
    choices: list[Choice]
    usage: Usage
    metadata: Annotated[dict[str, str] | None, Field(exclude_if=lambda metadata: metadata is None)] = None
    comparison: Annotated[
        Literal["asked"] | None,
        Field(
            exclude_if=lambda comparison: comparison is None,
            description="Stands there if the client welcomes a comparison and is asked which of the two answers is "
            "better.",
        ),
    ] = None


class ChunkChoice(BaseModel):
    """What one answer grew by."""

    index: int
    delta: dict[str, str]
    finish_reason: str | None
    logprobs: ChoiceLogprobs | None = None
    interaction_id: str


class ChatCompletionChunk(BaseModel):
    """One event of a streamed reply."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """One name that a request may ask for; `root` is the version behind it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["online-trl"] = "online-trl"
    root: str


class ModelList(BaseModel):
    """Reply to `GET /v1/models`: the aliases, the version in service, then the others, newest first."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """Reply to `GET /healthz`."""

    status: Literal["ok"] = "ok"
    policy_version: str


class Readiness(BaseModel):
    """Reply to `GET /readyz` of a server that can answer and store."""

    status: Literal["ready"] = "ready"
    policy_version: str
    latest_seq: int
