"""
Clients that send feedback as fast as they are answered, each over a connection of its own.

Run as a process of its own, so that it takes nothing from the server's: reads a [`Load`] as JSON from standard input,
writes a [`Replies`] to standard output. It speaks just enough HTTP to cost less than what it measures.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from pathlib import Path

_WARM_UP = 0.5


@dataclass(frozen=True)
class Load:
    """What to send: batches of so many rows (1: a single statement) from so many clients for so many seconds."""

    port: int
    clients: int
    batch: int
    seconds: float
    interaction_ids: list[str]
    first_user: int


@dataclass(frozen=True)
class Replies:
    """What came back: acknowledged rows per second, and how long requests took, in milliseconds."""

    rows_per_second: float
    p50_ms: float
    p99_ms: float


class BadReplyError(RuntimeError):
    """The server did not acknowledge what it was sent."""


class _Client(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], deadline: float, done: asyncio.Future[None]) -> None:
        self.replies: list[tuple[float, float]] = []
        self._requests = requests
        self._deadline = deadline
        self._done = done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        now = time.perf_counter()
        if not head.startswith(b"HTTP/1.1 201"):
            self._done.set_exception(BadReplyError(self._buffer.decode()))
            return
        self.replies.append((now, now - self._sent))
        self._buffer = b""
        if now < self._deadline:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None) if self.replies else self._done.set_exception(BadReplyError("no reply"))

    def _send(self) -> None:
        request = next(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(request)


def run_load(load: Load) -> Replies:
    """Sends the load from another process."""
    process = subprocess.run(
        [sys.executable, str(Path(__file__))],
        input=json.dumps(asdict(load)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return Replies(**json.loads(process.stdout))


async def _send(load: Load) -> Replies:
    loop = asyncio.get_running_loop()
    requests = _requests(load)
    begin = time.perf_counter() + _WARM_UP
    clients = []
    for _ in range(load.clients):
        done: asyncio.Future[None] = loop.create_future()
        client = _Client(requests, begin + load.seconds, done)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", load.port)
        clients.append((client, done))
    await asyncio.gather(*(done for _, done in clients))
    # What was under way at the deadline counts with the time that it took, however long.
    replies = [(now, seconds) for client, _ in clients for now, seconds in client.replies if now >= begin]
    p50_ms, p99_ms = percentiles_ms(seconds for _, seconds in replies)
    return Replies(
        rows_per_second=len(replies) * load.batch / (max(now for now, _ in replies) - begin),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def percentiles_ms(seconds: Iterable[float]) -> tuple[float, float]:
    """Returns the median of times and their 99th percentile, in milliseconds."""
    taken = sorted(seconds)
    return 1000 * taken[len(taken) // 2], 1000 * taken[len(taken) * 99 // 100]


def _requests(load: Load) -> Iterator[bytes]:
    rows = (
        f'{{"kind": "binary", "interaction_id": "{name}", "value": true, "user_id": "user-{user}"}}'
        for name, user in zip(cycle(load.interaction_ids), count(load.first_user))
    )
    while True:
        some = list(islice(rows, load.batch))
        body = some[0] if load.batch == 1 else f"[{', '.join(some)}]"
        head = (
            f"POST /v1/feedback HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        yield f"{head}{body}".encode()


def _content_length(head: bytes) -> int:
    return int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_send(Load(**json.load(sys.stdin)))))))
