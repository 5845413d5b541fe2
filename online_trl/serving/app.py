"""The HTTP interface: OpenAI-compatible chat completions and models, and feedback on what was answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..store import FeedbackStore, StoreError
from ..types import Feedback, Purpose, new_id
from .completions import Completions, Occasion
from .engine import Engine, EngineError
from .errors import add_error_handlers, error_reply
from .schemas import (
    DEFAULT_MODEL,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ErrorReply,
    FeedbackBody,
    FeedbackReceipt,
    FeedbackRequest,
    Health,
    Model,
    ModelList,
)


def create_app(*, store: FeedbackStore, engine: Engine) -> FastAPI:
    """
    Returns the HTTP interface over a store and a started engine. Whoever passes them in also closes them.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log that answers and feedback go to.
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.

    Example:

    ```python
    app = create_app(store=FeedbackStore("sqlite:///feedback.db"), engine=engine)
    ```
    """
    app = FastAPI(title="online-trl", summary="Chat with a deployed policy, and say what you think of its answers.")
    add_error_handlers(app)
    completions = Completions(store, engine)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=_errors(400, 404))
    async def create_chat_completion(
        body: ChatCompletionRequest, occasion: Annotated[Occasion, Depends(_occasion)]
    ) -> ChatCompletion | EventStream:
        """Answers a conversation, whole or as a stream of events."""
        if not body.stream:
            return await completions.complete(body, occasion)
        chunks = completions.stream(body, occasion)
        return EventStream(await anext(chunks), chunks)

    @app.get("/v1/models")
    def list_models() -> ModelList:
        """Lists what `model` may be."""
        return _model_list(engine)

    @app.post("/v1/feedback", status_code=201, responses=_errors(404, 409, 422))
    def create_feedback(
        body: FeedbackBody, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=256)] = None
    ) -> FeedbackReceipt | list[FeedbackReceipt]:
        """Takes one statement or a list of them, all or none."""
        stored = store.add_feedback_batch(_feedback(body, idempotency_key))
        receipts = [FeedbackReceipt.of(row) for row in stored]
        return receipts if isinstance(body, list) else receipts[0]

    @app.get("/healthz")
    def check_health() -> Health:
        """Tells that requests are answered, by which version, and how long the log is."""
        return Health(policy_version=engine.default_version, latest_seq=store.latest_seq())

    return app


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


def _feedback(body: FeedbackRequest | list[FeedbackRequest], idempotency_key: str | None) -> list[Feedback]:
    if idempotency_key is None:
        return [request.feedback() for request in (body if isinstance(body, list) else [body])]
    if isinstance(body, list):
        raise _bad_header("the header is for a single statement; give each of a list its own `idempotency_key`")
    if body.idempotency_key not in (None, idempotency_key):
        raise _bad_header("the header and the body's `idempotency_key` are not the same")
    return [body.model_copy(update={"idempotency_key": idempotency_key}).feedback()]


def _bad_header(reason: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("Idempotency-Key",), "msg": reason, "type": "value_error"}])


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


def _errors(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: {"model": ErrorReply} for status in statuses}
