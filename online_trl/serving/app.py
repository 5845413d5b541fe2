"""The HTTP interface: OpenAI-compatible chat completions and models, and feedback on what was answered."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from structlog.typing import FilteringBoundLogger

from ..registry import ModelRegistry
from ..store import FeedbackStore
from .access import KeyCheck
from .body_limit import BodyLimit
from .engine import Engine
from .errors import GUARD_STATUSES, add_error_handlers, error_responses
from .key_ring import KeyRing
from .live_scores import AnswerScores
from .observation import Observation
from .origins import READ_HEADERS, OriginCheck
from .routes.chat import chat_router
from .routes.dashboard import dashboard_router
from .routes.feedback import add_feedback_route
from .routes.langfuse import langfuse_router
from .routes.log import log_router
from .routes.operations import operations_router
from .routes.page import page_router
from .routes.signed_feedback import signed_feedback_router
from .routes.stored_completions import stored_completions_router
from .routes.trust import trust_router
from .service import Service
from .settings import ServerSettings

_ROUTERS = (
    chat_router,
    stored_completions_router,
    signed_feedback_router,
    langfuse_router,
    log_router,
    trust_router,
    operations_router,
    dashboard_router,
    page_router,
)


def create_app(
    *,
    store: FeedbackStore,
    engine: Engine,
    settings: ServerSettings | None = None,
    log: FilteringBoundLogger | None = None,
    scores: AnswerScores | None = None,
    registry: ModelRegistry | None = None,
) -> FastAPI:
    """
    Returns the HTTP interface over a store and a started engine. Whoever passes them in also closes them.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log that answers and feedback go to.
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.
        settings ([`~online_trl.serving.settings.ServerSettings`], *optional*):
            How to behave towards those who call.
        log (`FilteringBoundLogger`, *optional*):
            Where each request is logged, as [`~online_trl.serving.logs.start_logging`] returns it. Nowhere by default.
        scores ([`~online_trl.serving.live_scores.AnswerScores`], *optional*):
            What answers to compare are chosen by. Without it, they are random.
        registry ([`~online_trl.registry.ModelRegistry`], *optional*):
            The versions that the dashboard tells of. Without it, it tells what is in the log.

    Example:

    ```python
    app = create_app(store=FeedbackStore("sqlite:///feedback.db"), engine=engine)
    ```
    """
    app = FastAPI(
        title="online-trl",
        summary="Chat with a deployed policy, and say what you think of its answers.",
        generate_unique_id_function=lambda route: route.name,
    )
    service = Service(store, engine, settings or ServerSettings(), scores, registry)
    add_error_handlers(app)
    _add_guards(app, service)
    app.add_middleware(Observation, metrics=service.metrics, log=log, log_messages=service.settings.log_messages)
    # Routes are tried in their order: what comes most often comes first.
    add_feedback_route(app.router, service)
    for make_router in _ROUTERS:
        app.include_router(make_router(service), responses=error_responses(*GUARD_STATUSES))
    return app


def _add_guards(app: FastAPI, service: Service) -> None:
    """Adds what a request passes before it comes to a route; the last one added is the first passed."""
    settings = service.settings
    own = [] if settings.public_url is None else [settings.public_url]
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(KeyCheck, key_ring=KeyRing(service.store.keys), rate_limits=service.rate_limits)
    app.add_middleware(OriginCheck, allowed_origins=[*settings.allowed_origins, *own])
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            # OpenAI's client sends a dozen of its own.
            allow_headers=["*"],
            expose_headers=READ_HEADERS,
        )
