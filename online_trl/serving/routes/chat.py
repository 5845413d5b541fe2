"""Chat completions and models, as in the OpenAI API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ...store import StoreError
from ...types import Purpose
from ...types import Scope as AccessScope
from ..access import requires
from ..comparisons import Comparisons
from ..completions import Completions, Occasion, Reply
from ..engine import CANARY_MODEL, DEFAULT_MODEL, Engine, EngineError, UnknownVersionError
from ..errors import error_reply, error_responses
from ..feedback_url import FeedbackUrls
from ..rendering import event
from ..schemas import ChatCompletion, ChatCompletionRequest, Model, ModelList, Name
from ..selected_reply import ASKED
from ..service import Service

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion, or with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": {
            "X-Comparison": {
                "description": "`asked` if there are two answers where one was asked for, to be compared.",
                "schema": {"type": "string", "const": "asked"},
            },
            "X-Interaction-Id": {"description": "Ids of the answers in the log.", "schema": {"type": "string"}},
            "X-Feedback-Url": {
                "description": "Takes feedback on the answers without a key, see `/v1/signed-feedback`. Missing if "
                "the server is set to allow no feedback that is about so few answers.",
                "schema": {"type": "string", "format": "uri"},
            },
        },
    },
    **error_responses(400, 404, 500, 502, 503, 504),
}

# What nginx and others log for a client that did not wait; nobody reads it.
_CLIENT_CLOSED_REQUEST = 499


def chat_router(service: Service) -> APIRouter:
    """Returns the routes of chat completions and models."""
    router = APIRouter(dependencies=[Depends(requires(AccessScope.CHAT))], tags=["chat"])
    comparisons = Comparisons(service.engine, service.settings, service.rate_limits, service.metrics, service.scores)
    completions = Completions(
        service.store, service.engine, service.arrivals, comparisons, pin_sessions=service.settings.pin_sessions
    )
    feedback_urls = FeedbackUrls(service.store.keys, service.settings)

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=_RESPONSES)
    async def create_chat_completion(
        body: ChatCompletionRequest, request: Request, occasion: Annotated[Occasion, Depends(_occasion)]
    ) -> Response:
        """Answers a conversation, whole or as a stream of events."""
        if body.user is not None:
            service.rate_limits.count_users([body.user])
        begun = await _begun(completions.reply(body, await request.json(), occasion), request)
        if begun is None:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        reply, first = begun
        # Of a stream, more answers may begin later.
        names = reply.interaction_ids if body.stream else reply.begun_ids
        headers = {"X-Interaction-Id": ", ".join(names)}
        if feedback_url := feedback_urls.url(names, base_url=str(request.base_url)):
            headers["X-Feedback-Url"] = feedback_url
        if reply.is_comparison:
            headers["X-Comparison"] = ASKED
        return EventStream(first, reply, headers) if body.stream else await _whole(first, reply, headers)

    @router.get("/v1/models", responses=error_responses(500, 502, 504))
    async def list_models() -> ModelList:
        """Lists what `model` may be."""
        return await _model_list(service.engine)

    @router.get("/v1/models/{model:path}", responses=error_responses(404, 422, 500, 502, 504))
    async def retrieve_model(model: Annotated[Name, Path()]) -> Model:
        """Tells what one name stands for."""
        models = (await _model_list(service.engine)).data
        found = next((each for each in models if each.id == model), None)
        if found is None:
            raise UnknownVersionError(model, [each.id for each in models])
        return found

    return router


class EventStream(StreamingResponse):
    """
    A streamed reply as server-sent events.

    Args:
        first (`bytes`):
            First piece: there is an answer, so that the status can be 200.
        reply ([`~online_trl.serving.completions.Reply`]):
            Gives the other pieces; closed with the connection, however that ends.
        headers (`dict[str, str]`):
            Headers of the reply.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, reply: Reply, headers: dict[str, str]) -> None:
        super().__init__(_events(first, reply), headers=headers | {"Cache-Control": "no-cache"})
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._reply.wire):
            await super().__call__(scope, receive, send)


async def _events(first: bytes, reply: Reply) -> AsyncGenerator[bytes, None]:
    yield first
    try:
        async for piece in reply.wire:
            yield piece
    except (EngineError, StoreError) as error:
        yield event(error_reply(error))


async def _whole(first: bytes, reply: Reply, headers: dict[str, str]) -> Response:
    async with aclosing(reply.wire):
        return Response(first, media_type="application/json", headers=headers)


async def _begun(replying: Coroutine[Any, Any, Reply], request: Request) -> tuple[Reply, bytes] | None:
    """Returns a reply and its first piece, or `None`, with the answers taken back, once the client has hung up."""
    begun = asyncio.ensure_future(_with_first_piece(replying))
    hung_up = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({begun, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        return await begun if begun.done() else None
    finally:
        for task in (begun, hung_up):
            task.cancel()
        await asyncio.wait({begun, hung_up})


async def _with_first_piece(replying: Coroutine[Any, Any, Reply]) -> tuple[Reply, bytes]:
    reply = await replying
    return reply, await anext(reply.wire)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _occasion(
    x_session_id: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=256,
            description="The conversation. Without it, that of the same `user` which the messages go on with, else a "
            "new one; requests without a `user` then always begin a new one.",
        ),
    ] = None,
    x_purpose: Annotated[Purpose, Header()] = Purpose.CHAT,
    x_comparison: Annotated[
        Literal["welcome"] | None,
        Header(
            description="Says that the client can show two answers where it asks for one, and have them compared: "
            "now and then the reply then has two choices, and the header `X-Comparison: asked`."
        ),
    ] = None,
) -> Occasion:
    return Occasion(session_id=x_session_id, purpose=x_purpose, welcomes_comparison=x_comparison is not None)


async def _model_list(engine: Engine) -> ModelList:
    live, canary = engine.default_version, await engine.resolve(CANARY_MODEL)
    newest_first = sorted(
        await engine.versions(), key=lambda version: (version.name == live, version.created_at), reverse=True
    )
    models = {
        version.name: Model(id=version.name, created=int(version.created_at.timestamp()), root=version.name)
        for version in newest_first
    }
    aliases = {DEFAULT_MODEL: live, CANARY_MODEL: canary}
    return ModelList(
        data=[
            *(models[version].model_copy(update={"id": alias}) for alias, version in aliases.items()),
            *models.values(),
        ]
    )
