from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_trl.store import FeedbackStore
from served_log import make_app, served

INTERVALS = (
    "interactions",
    "feedback",
    "admitted-feedback",
    "tombstones",
    "related-feedback",
    "related-regenerations",
)
BAD_CURSORS: dict[str, tuple[dict[str, Any], str]] = {
    "backwards": ({"after": 5, "upto": 3}, "(5, 3] runs backwards: is `after` the cursor of another log?"),
    "negative": ({"after": -1, "upto": 3}, "after: Input should be greater than or equal to 0"),
    "beyond any log": ({"after": 0, "upto": 2**63}, "upto: Input should be less than or equal to 9223372036854775807"),
    "no number": ({"after": "start", "upto": 3}, "after: Input should be a valid integer"),
    "missing": ({"after": 0}, "upto: Field required"),
    "unknown": ({"after": 0, "upto": 3, "cursor": 1}, "cursor: Extra inputs are not permitted"),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file: Path = tmp_path_factory.mktemp("log") / "feedback.db"
    with FeedbackStore(f"sqlite:///{file}") as store, served(make_app(store)) as url:
        yield f"{url}/v1/log"


@pytest.mark.parametrize(("query", "message"), BAD_CURSORS.values(), ids=BAD_CURSORS.keys())
def test_bad_cursor_is_refused_and_named(url: str, query: dict[str, Any], message: str):
    for interval in INTERVALS:
        reply = httpx.get(f"{url}/{interval}", params=query)
        assert reply.status_code == 422
        assert reply.json()["error"]["type"] == "invalid_request_error"
        assert message in reply.json()["error"]["message"]


def test_page_has_a_largest_size(url: str):
    page = {"after": 0, "upto": 0}
    for limit, status in ((0, 422), (1, 200), (1000, 200), (1001, 422)):
        assert httpx.get(f"{url}/feedback", params=page | {"limit": limit}).status_code == status


def test_what_a_body_says_is_of_the_type_that_the_description_names(url: str):
    for name, body in (
        ("get-interactions", {"ids": [], "tokens": 0}),
        ("session-interactions", {"session_ids": [], "upto": "0"}),
    ):
        assert httpx.post(f"{url}/{name}", json=body).status_code == 422
    assert httpx.post(f"{url}/get-interactions", json={"ids": [], "tokens": False}).status_code == 200
