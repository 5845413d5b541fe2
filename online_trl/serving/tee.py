"""What an upstream server replied, read beside the bytes that go on to the client."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from .engine import UpstreamError
from .event_stream import event_data
from .generation import ChatRequest, Generation, Origin, Piece

_DONE = "[DONE]"

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


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Token] | None = None

    def values(self) -> list[float]:
        return [token.logprob for token in self.content or []]


class _Choice(BaseModel):
    index: int = Field(0, ge=0)
    message: dict[str, Any] = Field(default_factory=dict)
    delta: dict[str, Any] = Field(default_factory=dict)
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Reply(BaseModel):
    """What is read of a completion, and of a chunk of one; the token ids are vLLM's `return_token_ids`."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = Field(default_factory=list)
    prompt_token_ids: list[int] | None = None


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

    def whole(self, body: bytes) -> Piece:
        """
        Returns a whole reply.

        Raises:
            [`~online_trl.serving.engine.UpstreamError`]: if it is no chat completion.
        """
        reply = _read(body)
        if not reply.choices:
            raise UpstreamError(f"the upstream server replied without an answer: {body[:200]!r}")
        stretches = self._stretches(reply)
        return Piece(body, (*stretches, *self._ends()))

    def event(self, event: bytes) -> Piece:
        """
        Returns one event of a streamed reply.

        Raises:
            [`~online_trl.serving.engine.UpstreamError`]: if its data is no chunk of a chat completion.
        """
        data = event_data(event)
        if data == _DONE:
            return Piece(event, self._ends())
        return Piece(event, self._stretches(_read(data)) if data else ())

    def _stretches(self, reply: _Reply) -> tuple[Generation, ...]:
        self._prompt_ids = reply.prompt_token_ids or self._prompt_ids
        origin = Origin(
            policy_version=reply.model or self._request.generation.policy_version,
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
        content = message.get("content")
        return Generation(
            text=content if isinstance(content, str) else "",
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
    try:
        return _Reply.model_validate_json(text)
    except ValidationError as error:
        raise UpstreamError(f"the upstream server's reply is no chat completion: {text[:200]!r}") from error
