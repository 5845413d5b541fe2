"""The HTTP interface: OpenAI-compatible chat completions and models, and feedback on what was answered."""

from __future__ import annotations

from fastapi import FastAPI

from ..store import FeedbackStore
from .engine import Engine
from .errors import add_error_handlers
from .routes.chat import chat_router
from .routes.feedback import feedback_router
from .routes.operations import operations_router
from .service import Service
from .settings import ServerSettings


def create_app(*, store: FeedbackStore, engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """
    Returns the HTTP interface over a store and a started engine. Whoever passes them in also closes them.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log that answers and feedback go to.
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.
        settings ([`~online_trl.serving.settings.ServerSettings`], *optional*):
            How to behave towards those who call.

    Example:

    ```python
    app = create_app(store=FeedbackStore("sqlite:///feedback.db"), engine=engine)
    ```
    """
    app = FastAPI(title="online-trl", summary="Chat with a deployed policy, and say what you think of its answers.")
    service = Service(store, engine, settings or ServerSettings())
    add_error_handlers(app)
    for make_router in (chat_router, feedback_router, operations_router):
        app.include_router(make_router(service))
    return app
