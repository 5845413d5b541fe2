from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from starlette.requests import Request

from online_trl.serving.row_stream import RowStream
from online_trl.types import Interaction

BLOCK = 65536


def answers(count: int) -> list[Interaction]:
    message = [{"role": "user", "content": "x" * 1000}]
    fields: dict[str, Any] = {"policy_version": "policy", "session_id": "session", "user_id": "ada"}
    return [Interaction(prompt=message, completion=message, **fields) for _ in range(count)]


def sent(rows: list[Interaction], accept: str | None = None) -> tuple[RowStream, list[bytes]]:
    """Returns the reply to a client that understands an encoding, and the pieces of its body."""
    headers = [] if accept is None else [(b"accept-encoding", accept.encode())]
    reply = RowStream(rows, Request({"type": "http", "headers": headers}))

    async def read() -> list[bytes]:
        return [bytes(piece) async for piece in reply.body_iterator]

    return reply, asyncio.run(read())


def test_rows_are_sent_in_blocks_that_end_with_a_line():
    rows = answers(100)
    reply, (*blocks, last) = sent(rows)
    assert "Content-Encoding" not in reply.headers
    assert [BLOCK <= len(block) < BLOCK + 4096 for block in blocks] == [True] * 3
    assert all(block.endswith(b"\n") for block in [*blocks, last])
    *lines, end = b"".join([*blocks, last]).splitlines()
    assert [json.loads(line)["interaction_id"] for line in lines] == [row.interaction_id for row in rows]
    assert end == b"100"


def test_no_rows_are_their_number_alone():
    assert sent([])[1] == [b"0\n"]


@pytest.mark.parametrize("accept", ["gzip", "gzip, deflate, br"])
def test_client_that_understands_gzip_gets_the_same_rows_compressed(accept: str):
    rows = answers(100)
    (plain, pieces), (reply, compressed) = sent(rows), sent(rows, accept)
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(b"".join(compressed)) == b"".join(pieces)
    assert sum(map(len, compressed)) < BLOCK
