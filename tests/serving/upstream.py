"""Servers for the tests to stand behind ours: `transformers serve`, and one that says what it is told to say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """Serves a model with `transformers serve` and gives the base URL."""
    program = str(Path(sys.executable).with_name("transformers"))
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with served([program, "serve", str(model), "--device", "cpu"], log, environment) as url:
        yield url


@contextmanager
def served(command: Sequence[str], log: Path, environment: dict[str, str]) -> Iterator[str]:
    """Runs the command of a server on a free port of loopback, and gives the base URL once the server is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment)
    try:
        while True:
            assert process.poll() is None, log.read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@dataclass
class Script:
    """
    What a scripted upstream server replies, and what it was asked.

    Between the parts of a reply, and after the last, it waits until `go_on` is set. Where `breaks_off`, it then closes
    the connection in the middle of the reply.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON})
    parts: Sequence[bytes] = ()
    breaks_off: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def says(self, *parts: bytes, status: int = 200, breaks_off: bool = False, **headers: str) -> None:
        self.status, self.parts, self.breaks_off = status, parts, breaks_off
        self.headers = {"Content-Type": JSON} | {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests.clear()
        self.hung_up.clear()
        self.go_on.set()

    def streams(self, *parts: bytes, breaks_off: bool = False) -> None:
        self.says(*parts, breaks_off=breaks_off, Content_Type=STREAM)


@contextmanager
def scripted_upstream() -> Iterator[tuple[str, Script]]:
    """Runs a server that follows a script and gives its base URL, and the script to write in."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            models = b'{"object": "list", "data": [{"id": "big", "created": 1700000000}, {"id": "small"}]}'
            self._begin(200, {"Content-Type": JSON})
            self._chunk(models)
            self._chunk(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            script.requests.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
            self._begin(script.status, script.headers)
            try:
                for part in script.parts:
                    self._chunk(part)
                    script.go_on.wait()
                if script.breaks_off:
                    self.close_connection = True
                else:
                    self._chunk(b"")
            except OSError:
                script.hung_up.set()

        def _begin(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", script
    finally:
        script.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
