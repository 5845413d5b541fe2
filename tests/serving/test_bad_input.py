"""Bodies that are no request: every route refuses each with a reason, and nothing of it is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from online_trl.serving.feedback_url import FeedbackUrls
from online_trl.serving.settings import ServerSettings
from serving.small_app import LOCAL, SmallApp, small_app

JSON = "application/json"
ANSWER = "the id of an answer"
THUMB = f'{{"kind": "binary", "interaction_id": "{ANSWER}", "value": true}}'
NESTED = 100_000
PATHS = (
    "/v1/feedback",
    "/v1/signed-feedback",
    "/v1/chat/completions",
    "/v1/chat/completions/{completion_id}",
    "/v1/quarantine/release",
    "/api/public/scores",
    "/api/public/ingestion",
    "/v1/log/get-interactions",
    "/v1/log/session-interactions",
    "/v1/log/erased-among",
    "/v1/log/trace",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path_factory.mktemp("bad-input"), policy_folders[0]) as app:
        yield app


def lists(depth: int) -> str:
    return "[" * depth + "]" * depth


def objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", JSON),
    "not JSON": (b"thumb up", JSON),
    "cut JSON": (b'{"kind": "binary", "interaction_id"', JSON),
    "a number": (b"5", JSON),
    "a number of many digits": (b"9" * 5000, JSON),
    "null": (b"null", JSON),
    "not UTF-8": (THUMB.encode() + b'"\xff\xfe"', JSON),
    "Latin-1": ('{"kind": "binary", "comment": "für"}'.encode("latin-1"), f"{JSON}; charset=latin-1"),
    "bytes that are compressed": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", JSON),
    "lists in lists": (lists(NESTED).encode(), JSON),
    "objects in objects": (objects(NESTED).encode(), JSON),
    "lists that are never closed": (b"[" * NESTED, JSON),
    "deep value": (f'{{"kind": "binary", "value": {lists(NESTED)}}}'.encode(), JSON),
    "deep value that can be parsed": (f'{{"kind": "binary", "value": {lists(900)}}}'.encode(), JSON),
    "deep message that can be parsed": (f'{{"messages": {objects(900)}}}'.encode(), JSON),
    "no content type": (THUMB.encode(), None),
    "text, as pages may send to any site": (THUMB.encode(), "text/plain"),
    "form": (b"kind=binary&value=true", "application/x-www-form-urlencoded"),
    "broken content type": (THUMB.encode(), "application"),
}


def address(app: SmallApp, path: str) -> str:
    """Returns where to send a request for a path, as one that only its body can be wrong with."""
    answer = app.add_answer()
    if path == "/v1/signed-feedback":
        url = urlsplit(FeedbackUrls(app.store.keys, ServerSettings()).url([answer], base_url=LOCAL))
        return f"{url.path}?{url.query}"
    return path.replace("{completion_id}", answer)


def test_every_route_that_takes_a_body_is_tested(app: SmallApp):
    described = app.request("GET", "/openapi.json").json()["paths"]
    takes_a_body = {path for path, methods in described.items() for it in methods.values() if "requestBody" in it}
    assert takes_a_body == set(PATHS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("body", "content_type"), BODIES.values(), ids=BODIES.keys())
def test_body_that_is_no_request_is_refused(app: SmallApp, path: str, body: bytes, content_type: str | None):
    body = body.replace(ANSWER.encode(), app.add_answer().encode())
    target = address(app, path)
    before = app.store.latest_seq()
    headers = {} if content_type is None else {"Content-Type": content_type}
    reply = app.request("POST", target, content=body, headers=headers)
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["error"]["message"]
    assert app.store.latest_seq() == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions/%00"),
        ("POST", "/v1/chat/completions/a%00b"),
        ("DELETE", "/v1/chat/completions/%00"),
        ("DELETE", "/v1/users/%00"),
        ("DELETE", "/v1/interactions/%00"),
        ("GET", "/dashboard?before=%00"),
        ("GET", "/dashboard.json?lineage=%00"),
    ],
)
def test_nul_in_an_address_is_refused_before_a_database_refuses_it(app: SmallApp, method: str, path: str):
    reply = app.request(method, path, json={"metadata": {"feedback": "up"}} if method == "POST" else None)
    assert reply.status_code in (400, 422)
    assert "NUL" in reply.json()["error"]["message"]


TEXTS = {"NUL": "a\x00b", "half of a surrogate pair": "a\ud800b"}
PLACES = ("comment", "user_id", "interaction_id", "idempotency_key", "supersedes", "session_id")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("place", PLACES)
def test_text_that_cannot_be_stored_is_refused_wherever_it_stands(app: SmallApp, place: str, text: str):
    body = {"kind": "binary", "interaction_id": app.add_answer(), "value": True} | {place: text}
    before = app.store.latest_seq()
    reply = app.request("POST", "/v1/feedback", content=json.dumps(body), headers={"Content-Type": JSON})
    assert reply.status_code == 422
    assert app.store.latest_seq() == before


def test_refusal_does_not_repeat_what_was_sent(app: SmallApp):
    body = {"kind": "binary", "value": {"secret": "sesame"}, "interaction_id": app.add_answer(), "unknown": "sesame"}
    reply = app.request("POST", "/v1/feedback", json=body)
    assert reply.status_code == 422
    assert "sesame" not in reply.text
