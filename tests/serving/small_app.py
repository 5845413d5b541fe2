"""The real app over a real log and the real in-process engine, called without a socket or a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from online_trl.serving.app import create_app
from online_trl.serving.engine import Engine
from online_trl.serving.live_scores import AnswerScores
from online_trl.serving.policy_source import SinglePolicy
from online_trl.serving.settings import ServerSettings
from online_trl.serving.transformers_engine import TransformersEngine
from online_trl.store import FeedbackStore
from online_trl.types import Interaction

Result = TypeVar("Result")

LOCAL = "http://localhost"


@dataclass(frozen=True)
class SmallApp:
    """The app, its log and its engine, and the loop that they live on."""

    app: Any
    store: FeedbackStore
    engine: Engine
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(work)

    def request(self, method: str, path: str, *, base_url: str = LOCAL, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                return await client.request(method, path, **options)

        return self.run(send())

    def add_answer(self, **fields: Any) -> str:
        """Puts an answer into the log and returns its id."""
        answer = Interaction(
            **{
                "prompt": [{"role": "user", "content": "question"}],
                "completion": [{"role": "assistant", "content": "answer"}],
                "policy_version": "policy",
                "session_id": "session",
                "user_id": "ada",
            }
            | fields
        )
        return self.store.add_interaction(answer).interaction_id


@contextmanager
def small_app(folder: Path, policy: Path, **options: Any) -> Iterator[SmallApp]:
    """Serves a policy in this process; the options are those of `app_before`."""
    with app_before(TransformersEngine(SinglePolicy(str(policy)), device="cpu"), folder, **options) as app:
        yield app


@contextmanager
def app_before(
    engine: Engine, folder: Path, *, log: Any = None, scores: AnswerScores | None = None, **settings: Any
) -> Iterator[SmallApp]:
    """Serves what an engine answers."""
    loop = asyncio.new_event_loop()
    with FeedbackStore(f"sqlite:///{folder}/feedback.db") as store:
        loop.run_until_complete(engine.start())
        try:
            app = create_app(store=store, engine=engine, settings=ServerSettings(**settings), log=log, scores=scores)
            yield SmallApp(app, store, engine, loop)
        finally:
            loop.run_until_complete(engine.stop())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
