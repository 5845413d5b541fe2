from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.small_app import SmallApp, small_app

LIMIT = 2000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path_factory.mktemp("bodies"), policy_folders[0], max_body_bytes=LIMIT) as app:
        yield app


def thumb(app: SmallApp, size: int) -> bytes:
    """A thumb, padded to `size` bytes."""
    body = json.dumps({"kind": "binary", "interaction_id": app.add_answer(), "value": True}).encode()
    return body + b" " * (size - len(body))


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status", "rows"), [(LIMIT, 201, 1), (LIMIT + 1, 413, 0), (50 * LIMIT, 413, 0)])
def test_body_beyond_the_limit_is_refused(app: SmallApp, size: int, status: int, rows: int, chunked: bool):
    body: Any = thumb(app, size)
    before = app.store.latest_seq()
    reply = app.request(
        "POST",
        "/v1/feedback",
        content=in_chunks(body) if chunked else body,
        headers={"Content-Type": "application/json"},
    )
    assert reply.status_code == status
    assert app.store.latest_seq() - before == rows
    if status == 413:
        assert reply.json()["error"]["code"] == "body_too_large"
        assert reply.json()["error"]["message"] == "the body is larger than 2000 bytes; send less at once"
