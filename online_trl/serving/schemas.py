"""
What goes over the wire for chat: the bodies of requests and replies, and what all bodies are made of.

Chat completions take what OpenAI's clients send and ignore the fields that have no meaning here.
"""

from __future__ import annotations

import random
import re
import time
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from ..types import Message
from .engine import Generation, GenerationRequest, Sampling

DEFAULT_MODEL = "default"
"""Alias of the version in service."""
ANONYMOUS = "anonymous"
"""User of a request that names none."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def check_text(text: str) -> str:
    """Returns a text that can be stored; for others, raises a `ValueError` that says why not."""
    if _UNSTORABLE.search(text):
        raise ValueError("the text holds NUL or half of a surrogate pair, which cannot be stored")
    return text


Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(check_text)]


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


class Health(BaseModel):
    """Reply to `GET /healthz`."""

    status: Literal["ok"] = "ok"
    policy_version: str
    latest_seq: int
