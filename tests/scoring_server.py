"""A scorer and a judge to ask over HTTP, in a thread, which say what they are told to say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response

from served_log import served

Reply = Callable[[Any], "Any | Response"]


def length(body: Any) -> Any:
    """Scores each conversation by the length of its last message; as a judge, says how long the question is."""
    if "conversations" in body:
        return {"scores": [float(len(conversation[-1]["content"])) for conversation in body["conversations"]]}
    return says(f"Fair enough. Score: {len(body['messages'][0]['content'])}")


def says(text: str) -> Any:
    """A chat completion of this text."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@dataclass
class Scripted:
    """
    What the server has been asked and what it says: each of `replies` once, then those of `always`.

    Before each reply it waits for `seconds`.
    """

    always: Reply = length
    replies: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    open_now: int = 0
    open_at_most: int = 0


@contextmanager
def scoring_server() -> Iterator[tuple[str, Scripted]]:
    """Serves on loopback; gives the URL, and what to say and to look at."""
    script = Scripted()
    app = FastAPI()

    @app.post("/{path:path}")
    async def answer(path: str, request: Request) -> Any:
        script.open_now += 1
        script.open_at_most = max(script.open_at_most, script.open_now)
        body = await request.json()
        script.bodies.append(body)
        script.headers.append(dict(request.headers))
        script.paths.append(f"/{path}")
        reply = script.replies.pop(0) if script.replies else script.always(body)
        await asyncio.sleep(script.seconds)
        script.open_now -= 1
        return reply

    with served(app) as url:
        yield url, script
