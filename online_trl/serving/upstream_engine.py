"""
The engine that has another server answer: vLLM, `transformers serve`, or any other that speaks OpenAI's language.

What that server sends is passed on as it came and read on the way, and what it refuses is refused in its words. The
key of whoever asks goes no further than this server, which has its own for the other.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from ..config import ConfigError
from .engine import (
    CANARY_MODEL,
    DEFAULT_MODEL,
    EngineError,
    EngineLoad,
    ServedVersion,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
)
from .event_stream import split_events
from .generation import ChatRequest, Piece
from .tee import Tee

API_KEY_VARIABLE = "ONLINE_TRL_UPSTREAM_API_KEY"
"""Environment variable that holds this server's key for the upstream server."""

_CONNECT_SECONDS = 10.0
_OUR_KEY_REFUSED = (401, 403)
_PASSED_HEADERS = ("content-type", "retry-after")
_TOKEN_IDS = {"return_token_ids": True, "logprobs": True}


class _Model(BaseModel):
    id: str
    created: float = Field(default=0.0, ge=0, lt=2**37)


class _Models(BaseModel):
    data: list[_Model]


class UpstreamEngine:
    """
    Passes requests to an OpenAI-compatible server.

    Args:
        url (`str`):
            Its base URL, as OpenAI's clients take it: `http://127.0.0.1:8001/v1`.
        model (`str`, *optional*):
            Its model that answers by default. Defaults to the first that it lists.
        token_ids (`bool`, *optional*, defaults to `False`):
            Whether to ask for token ids and log-probabilities with every answer, as vLLM gives them. They are those of
            the sampling distribution if vLLM runs with `--logprobs-mode processed_logprobs`.
        api_key (`str`, *optional*):
            Key for it.
        read_seconds (`float`, *optional*, defaults to `600.0`):
            How long it may send nothing.

    Raises:
        [`~online_trl.config.ConfigError`]: if the URL is not one of HTTP.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        token_ids: bool = False,
        api_key: str | None = None,
        read_seconds: float = 600.0,
    ) -> None:
        self._url = _checked(url)
        self._model = model
        self._extra = _TOKEN_IDS if token_ids else {}
        self._client = httpx.AsyncClient(
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(read_seconds, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    @property
    def default_version(self) -> str:
        if self._model is None:
            raise EngineError("the engine has no default version before it is started")
        return self._model

    async def versions(self) -> list[ServedVersion]:
        try:
            listed = await self._listed()
        except UpstreamRefusedError:
            listed = []  # not every server lists its models
        models = {model.id: model for model in reversed([*listed, _Model(id=self.default_version)])}
        return [
            ServedVersion(model.id, datetime.fromtimestamp(model.created, timezone.utc)) for model in models.values()
        ]

    async def resolve(self, model: str, *, asker: str | None = None) -> str:
        return self.default_version if model in (DEFAULT_MODEL, CANARY_MODEL) else model

    async def start(self) -> None:
        if self._model is None:
            models = await self._listed()
            if not models:
                raise EngineError(f"the upstream server {self._url} lists no model; name the one that is to answer")
            self._model = models[0].id

    async def stop(self) -> None:
        await self._client.aclose()

    def load(self) -> EngineLoad:
        return EngineLoad(waiting=0)

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        tee = Tee(request)
        body = {**request.body, **self._extra, "model": request.generation.policy_version}
        async with self._requesting("POST", "chat/completions", body) as response:
            if not request.stream:
                yield tee.whole(await response.aread())
                return
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise UpstreamError("the upstream server replied to a request for a stream with something else")
            async for event in split_events(response.aiter_bytes()):
                yield tee.event(event)

    async def _listed(self) -> list[_Model]:
        async with self._requesting("GET", "models") as response:
            body = await response.aread()
        try:
            return _Models.model_validate_json(body).data
        except ValidationError as error:
            raise UpstreamError("what the upstream server lists as its models is no list", said=body) from error

    @asynccontextmanager
    async def _requesting(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        # The standard encoder takes whatever JSON the client sent; httpx's own refuses some of it.
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        url = f"{self._url}/{path}"
        try:
            async with self._client.stream(method, url, content=content, headers=headers) as response:
                await _check_status(response)
                yield response
        except httpx.TimeoutException as error:
            raise UpstreamTimeoutError(f"the upstream server {self._url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise UpstreamError(f"the upstream server {self._url} failed: {error or type(error).__name__}") from error


async def _check_status(response: httpx.Response) -> None:
    if response.status_code in _OUR_KEY_REFUSED:
        raise UpstreamError(f"the upstream server does not accept this server's key for it; set {API_KEY_VARIABLE}")
    if not response.is_success:
        headers = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
        raise UpstreamRefusedError(response.status_code, await response.aread(), headers)


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"the upstream {url} is not the URL of a server, such as http://127.0.0.1:8001/v1")
    return url.rstrip("/")
