from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.small_app import SmallApp, small_app

ALLOWED = "https://chat.example.org"
PUBLIC = "https://api.example.org"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    folder = tmp_path_factory.mktemp("origins")
    with small_app(folder, policy_folders[0], allowed_origins=[ALLOWED], public_url=PUBLIC) as app:
        yield app


def thumb(app: SmallApp, origin: str | None) -> tuple[int, int]:
    """Sends a thumb and returns the status and how many rows came of it."""
    body = {"kind": "binary", "interaction_id": app.add_answer(), "value": True}
    before = app.store.latest_seq()
    headers = {} if origin is None else {"Origin": origin}
    return app.request("POST", "/v1/feedback", json=body, headers=headers).status_code, app.store.latest_seq() - before


@pytest.mark.parametrize("origin", [None, "http://localhost", ALLOWED, PUBLIC])
def test_own_and_allowed_pages_may_write(app: SmallApp, origin: str | None):
    assert thumb(app, origin) == (201, 1)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "https://localhost",
        "http://localhost:1",
        "http://chat.example.org",
        "https://chat.example.org.evil.example",
        "https://CHAT.example.org",
    ],
)
def test_foreign_page_may_not_write_and_nothing_is_stored(app: SmallApp, origin: str):
    assert thumb(app, origin) == (403, 0)


def test_refusal_says_what_to_set(app: SmallApp):
    reply = app.request("POST", "/v1/feedback", json={}, headers={"Origin": "https://evil.example"})
    assert reply.json()["error"]["code"] == "origin_not_allowed"
    assert "`allowed_origins`" in reply.json()["error"]["message"]


def test_only_an_allowed_page_may_read_the_reply_and_its_headers(app: SmallApp):
    allowed = app.request("GET", "/v1/models", headers={"Origin": ALLOWED})
    assert allowed.headers["Access-Control-Allow-Origin"] == ALLOWED
    assert "X-Feedback-Url" in allowed.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    foreign = app.request("GET", "/v1/models", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 200
    assert "Access-Control-Allow-Origin" not in foreign.headers


def test_errors_can_be_read_by_an_allowed_page(app: SmallApp):
    reply = app.request("POST", "/v1/feedback", json={}, headers={"Origin": ALLOWED})
    assert reply.status_code == 422
    assert reply.headers["Access-Control-Allow-Origin"] == ALLOWED


@pytest.mark.parametrize(("origin", "status"), [(ALLOWED, 200), ("https://evil.example", 400)])
def test_browser_asks_beforehand(app: SmallApp, origin: str, status: int):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-stainless-lang",
    }
    reply = app.request("OPTIONS", "/v1/feedback", headers=headers)
    assert reply.status_code == status
    assert reply.headers.get("Access-Control-Allow-Origin") == (ALLOWED if status == 200 else None)
