"""Chat completions and models, as in the OpenAI API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ...store import StoreError
from ...types import Purpose, new_id
from ...types import Scope as AccessScope
from ..access import requires
from ..completions import Completions, Occasion
from ..engine import Engine, EngineError
from ..errors import error_reply, error_responses
from ..schemas import (
    DEFAULT_MODEL,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ErrorReply,
    Model,
    ModelList,
)
from ..service import Service


def chat_router(service: Service) -> APIRouter:
    """Returns the routes of chat completions and models."""
    router = APIRouter(dependencies=[Depends(requires(AccessScope.CHAT))], tags=["chat"])
    completions = Completions(service.store, service.engine)

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=error_responses(400, 404))
    async def create_chat_completion(
        body: ChatCompletionRequest, occasion: Annotated[Occasion, Depends(_occasion)]
    ) -> ChatCompletion | EventStream:
        """Answers a conversation, whole or as a stream of events."""
        if not body.stream:
            return await completions.complete(body, occasion)
        chunks = completions.stream(body, occasion)
        return EventStream(await anext(chunks), chunks)

    @router.get("/v1/models")
    def list_models() -> ModelList:
        """Lists what `model` may be."""
        return _model_list(service.engine)

    return router


class EventStream(StreamingResponse):
    """
    A streamed reply as server-sent events.

    Args:
        first (`ChatCompletionChunk`):
            First chunk: there is an answer, so that the status can be 200.
        rest (`AsyncGenerator[ChatCompletionChunk, None]`):
            The other chunks; closed with the connection, however that ends.
    """

    media_type = "text/event-stream"

    def __init__(self, first: ChatCompletionChunk, rest: AsyncGenerator[ChatCompletionChunk, None]) -> None:
        super().__init__(_events(first, rest), headers={"Cache-Control": "no-cache"})
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)


async def _events(
    first: ChatCompletionChunk, rest: AsyncGenerator[ChatCompletionChunk, None]
) -> AsyncGenerator[str, None]:
    yield _event(first)
    try:
        async for chunk in rest:
            yield _event(chunk)
    except (EngineError, StoreError) as error:
        yield _event(error_reply(error))
    else:
        yield "data: [DONE]\n\n"


def _event(content: ChatCompletionChunk | ErrorReply) -> str:
    return f"data: {content.model_dump_json()}\n\n"


def _occasion(
    x_session_id: Annotated[str | None, Header(min_length=1, max_length=256)] = None,
    x_purpose: Annotated[Purpose, Header()] = Purpose.CHAT,
) -> Occasion:
    return Occasion(session_id=x_session_id or new_id(), purpose=x_purpose)


def _model_list(engine: Engine) -> ModelList:
    live = engine.default_version
    newest_first = sorted(
        engine.versions(), key=lambda version: (version.name == live, version.created_at), reverse=True
    )
    models = [
        Model(id=version.name, created=int(version.created_at.timestamp()), root=version.name)
        for version in newest_first
    ]
    return ModelList(data=[models[0].model_copy(update={"id": DEFAULT_MODEL}), *models])
