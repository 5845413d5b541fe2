"""A server before a log, without a policy: in a thread, or as a process to be killed: `served_log.py STORE PORT`."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from online_trl.serving.app import create_app
from online_trl.serving.settings import ServerSettings
from online_trl.store import FeedbackStore


def make_app(store: FeedbackStore, **settings: Any) -> Any:
    # Nobody asks the engine for an answer here.
    return create_app(store=store, engine=None, settings=ServerSettings(**settings))


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serves an app from a thread; gives its URL."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def server_process(store_url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serves a log from a process of its own, until it is killed or the block ends."""
    process = subprocess.Popen([sys.executable, str(Path(__file__)), store_url, str(port)])
    try:
        while True:
            assert process.poll() is None
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/log/latest-seq").raise_for_status()
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                break
        yield process
    finally:
        process.kill()
        process.wait()


def _config(app: Any, **options: Any) -> uvicorn.Config:
    # The server's own logging would stay behind in the process of the tests.
    quiet: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False}
    # A client that does not read its reply to the end would keep the server for ever.
    limits: dict[str, Any] = {"timeout_keep_alive": 75, "timeout_graceful_shutdown": 1}
    return uvicorn.Config(app, lifespan="off", ws="none", **limits, **quiet, **options)


if __name__ == "__main__":
    with FeedbackStore(sys.argv[1]) as opened:
        uvicorn.Server(_config(make_app(opened), port=int(sys.argv[2]))).run()
