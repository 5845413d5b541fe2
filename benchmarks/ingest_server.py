"""
The server under load, in a process of its own: the real app over a log, or an app with nothing but an empty handler.

`python benchmarks/ingest_server.py [STORE_URL]` listens on a free port, which it prints.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import httpx
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from online_trl.serving.app import create_app
from online_trl.serving.engine import Engine
from online_trl.serving.logs import start_logging
from online_trl.serving.server import SWITCH_SECONDS
from online_trl.store import FeedbackStore


class _NoEngine:
    """Nobody asks it for an answer."""

    default_version = "policy-0001"


@contextmanager
def running_server(store_url: str | None = None) -> Iterator[int]:
    """Starts a server on the log, or one with an empty handler, and gives its port."""
    command = [sys.executable, str(Path(__file__)), *([] if store_url is None else [store_url])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield int(line)
        finally:
            process.send_signal(signal.SIGTERM)


def commits(port: int) -> int:
    """Returns how many transactions the server on this port has committed."""
    return int(httpx.get(f"http://127.0.0.1:{port}/commits").text)


def _empty_app() -> FastAPI:
    app = FastAPI()

    @app.post("/v1/feedback", status_code=201)
    async def take_nothing() -> None:
        pass

    return app


def _log_app(store: FeedbackStore, lines: TextIO) -> FastAPI:
    engine: Engine = _NoEngine()  # type: ignore[assignment]
    app = create_app(store=store, engine=engine, log=start_logging(lines, log_messages=False))
    counted = 0

    @sa.event.listens_for(sa.Engine, "commit")
    def count(connection: sa.Connection) -> None:
        nonlocal counted
        counted += bool(connection.get_execution_options().get("writes"))

    @app.get("/commits")
    async def read_commits() -> int:
        return counted

    return app


def main(store_url: str | None) -> None:
    # Only where the protocol is given, asyncio turns off Nagle's algorithm.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    sys.setswitchinterval(SWITCH_SECONDS)
    if store_url is None:
        _run(_empty_app(), listener)
    else:
        with FeedbackStore(store_url) as store, store.claimed(), Path(os.devnull).open("w") as lines:
            _run(_log_app(store, lines), listener)


def _run(app: FastAPI, listener: socket.socket) -> None:
    config = uvicorn.Config(app, lifespan="off", log_config=None, log_level="warning", access_log=False)
    print(json.dumps(listener.getsockname()[1]), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else None)
