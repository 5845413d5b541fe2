"""
What an upstream server replied, read beside the bytes that go on to the client.

Servers differ in what they leave out and what they send as null, and none of that may cost the client its reply: what
cannot be read of a reply that has begun is missing in the log alone.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from .engine import UpstreamError
from .event_stream import event_data
from .generation import ChatRequest, Generation, Origin, Piece, TokenCount
from .schemas import DEEPEST, IfReadable, check_text

logger = logging.getLogger(__name__)

_DONE = "[DONE]"
# The second is what the standard library makes of JSON that is nested too deeply.
_UNREADABLE = (ValueError, RecursionError)

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
)


_StorableName = Annotated[str, AfterValidator(check_text)]


class _Part(BaseModel):
    """A part of a reply. Null stands for what is not there."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, part: Any) -> Any:
        return {name: value for name, value in part.items() if value is not None} if isinstance(part, dict) else part


class _Token(_Part):
    logprob: float


class _Logprobs(_Part):
    content: list[_Token] = Field(default_factory=list)

    def values(self) -> list[float]:
        return [token.logprob for token in self.content]


class _Choice(_Part):
    index: int = Field(0, ge=0)
    message: dict[str, Any] = Field(default_factory=dict)
    delta: dict[str, Any] = Field(default_factory=dict)
    finish_reason: IfReadable[str] = None
    token_ids: IfReadable[list[int]] = None
    logprobs: IfReadable[_Logprobs] = None


class _Usage(_Part):
    prompt_tokens: int = Field(0, ge=0, lt=2**63)
    completion_tokens: int = Field(0, ge=0, lt=2**63)


class _Reply(_Part):
    """What is read of a completion, and of a chunk of one; the token ids are vLLM's `return_token_ids`."""

    id: IfReadable[_StorableName] = None
    model: IfReadable[_StorableName] = None
    choices: list[_Choice] = Field(default_factory=list)
    prompt_token_ids: IfReadable[list[int]] = None
    usage: IfReadable[_Usage] = None


class Tee:
    """
    Reads the reply to one request.

    Args:
        request ([`~online_trl.serving.generation.ChatRequest`]):
            The request that went to the upstream server.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._sampling = {name: value for name in _SAMPLING if (value := request.body.get(name)) is not None}
        self._prompt_ids: list[int] | None = None
        self._unfinished: dict[int, Origin] = {}
        self._has_begun = False
        self._version = request.generation.policy_version
        self._tells_tokens = False
        self._usage: _Usage | None = None

    def whole(self, body: bytes) -> Piece:
        """
        Returns a whole reply.

        Raises:
            [`~online_trl.serving.engine.UpstreamError`]: if it is no chat completion.
        """
        try:
            reply = _read(body)
        except _UNREADABLE as error:
            raise _unreadable(body) from error
        if not reply.choices:
            raise UpstreamError("the upstream server replied without an answer", said=body)
        stretches = self._stretches(reply)
        return Piece(body, (*stretches, *self._ends()), self._token_count())

    def event(self, event: bytes) -> Piece:
        """
        Returns one event of a streamed reply.

        Raises:
            [`~online_trl.serving.engine.UpstreamError`]: if it is the first and no chunk of a chat completion.
        """
        data = event_data(event)
        reply = self._chunk(data) if data and data != _DONE else _Reply()
        stretches = self._ends() if data == _DONE else self._stretches(reply)
        self._has_begun = True
        return Piece(event, stretches, self._token_count() if data == _DONE else None)

    def _chunk(self, data: str) -> _Reply:
        try:
            return _read(data)
        except _UNREADABLE as error:
            if not self._has_begun:
                raise _unreadable(data) from error
            wrong = "no JSON"
            if isinstance(error, ValidationError):
                wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['type']}" for each in error.errors())
            logger.warning("an event of the upstream server is passed on and cannot be read for the log (%s)", wrong)
            return _Reply()

    def _token_count(self) -> TokenCount | None:
        if self._usage is None or self._tells_tokens:
            return None
        return TokenCount(self._version, self._usage.prompt_tokens, self._usage.completion_tokens)

    def _stretches(self, reply: _Reply) -> tuple[Generation, ...]:
        self._prompt_ids = reply.prompt_token_ids or self._prompt_ids
        self._version = reply.model or self._version
        self._usage = reply.usage or self._usage
        self._tells_tokens |= any(choice.token_ids is not None for choice in reply.choices)
        origin = Origin(
            policy_version=self._version,
            sampling=self._sampling,
            upstream_id=reply.id,
        )
        asked = range(self._request.generation.n)
        return tuple(self._stretch(choice, origin) for choice in reply.choices if choice.index in asked)

    def _stretch(self, choice: _Choice, origin: Origin) -> Generation:
        if choice.finish_reason is None:
            self._unfinished[choice.index] = origin
        else:
            self._unfinished.pop(choice.index, None)
        message = choice.message or choice.delta
        return Generation(
            text=_text(message.get("content")),
            origin=origin,
            prompt_ids=self._prompt_ids,
            completion_ids=choice.token_ids,
            logprobs=None if choice.logprobs is None else choice.logprobs.values(),
            fields={name: value for name, value in message.items() if value and name not in ("role", "content")},
            finish_reason=choice.finish_reason,
            index=choice.index,
        )

    def _ends(self) -> tuple[Generation, ...]:
        """Closes the answers whose end the upstream did not tell: no more comes of them."""
        unfinished, self._unfinished = self._unfinished, {}
        return tuple(
            Generation(text="", origin=origin, finish_reason="stop", index=index)
            for index, origin in unfinished.items()
        )


def _read(text: str | bytes) -> _Reply:
    return _Reply.model_validate(_storable(json.loads(text)))


def _storable(value: Any, levels: int = DEEPEST) -> Any:
    """
    Returns JSON without what the log could not keep: null for what lies too deep or is no finite number, `?` for half
    of a surrogate pair.
    """
    if levels == 0:
        return None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_storable(part, levels - 1) for part in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(part, levels - 1) for name, part in value.items()}
    return value


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _unreadable(text: str | bytes) -> UpstreamError:
    return UpstreamError("the upstream server's reply is no chat completion", said=text)
