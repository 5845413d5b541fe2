from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from online_trl.serving.access import is_loopback, sent_key
from online_trl.serving.app import create_app
from online_trl.store import FeedbackStore
from online_trl.types import Scope
from serving.small_app import SmallApp, small_app


@pytest.fixture
def app(tmp_path: Path, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path, policy_folders[0]) as app:
        yield app


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def wait_until(app: SmallApp, status: int, headers: dict[str, str]) -> None:
    """Returns once models are answered with this status: what servers know about keys is up to a second old."""
    while app.request("GET", "/v1/models", headers=headers).status_code != status:
        time.sleep(0.05)


SENT_KEYS: dict[str, tuple[dict[str, str], str | None]] = {
    "none": ({}, None),
    "bearer": ({"Authorization": "Bearer sk-1"}, "sk-1"),
    "scheme in capitals, space": ({"Authorization": "BEARER  sk-1 "}, "sk-1"),
    "basic password": ({"Authorization": basic("pk-9", "sk-1")}, "sk-1"),
    "basic without a user": ({"Authorization": basic("", "sk-1")}, "sk-1"),
    "basic, not base64": ({"Authorization": "Basic ~~~"}, None),
    "basic, not UTF-8": ({"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()}, None),
    "header of its own": ({"X-Api-Key": "sk-1", "Authorization": "Bearer sk-2"}, "sk-1"),
    "other scheme": ({"Authorization": "Digest sk-1"}, None),
}


@pytest.mark.parametrize(("headers", "key"), SENT_KEYS.values(), ids=SENT_KEYS.keys())
def test_key_is_found_in_each_place_that_clients_put_it(headers: dict[str, str], key: str | None):
    assert sent_key(Headers(headers)) == key


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.8.9.1", "::1")),
        *((host, False) for host in ("0.0.0.0", "10.0.0.1", "example.org", "localhost.example.org", "")),
    ],
)
def test_loopback_hosts(host: str, expected: bool):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "this server asks for a key: send it as `Authorization: Bearer KEY`"),
        ("", "this server asks for a key: send it as `Authorization: Bearer KEY`"),
        ("sk-wrong", "this key is not known here, or was revoked"),
        ("schlüssel", "this key is not known here, or was revoked"),
    ],
)
def test_who_has_no_key_is_refused_as_openai_refuses(app: SmallApp, key: str | None, message: str):
    app.store.keys.create([Scope.CHAT])
    headers = [] if key is None else [(b"Authorization", b"Bearer " + key.encode("latin-1"))]
    reply = app.request("GET", "/v1/models", headers=headers)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="online-trl"'
    detail = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert reply.json() == {"error": detail}


def test_key_without_the_scope_is_refused_and_told_which_it_lacks(app: SmallApp):
    key, _ = app.store.keys.create([Scope.FEEDBACK])
    reply = app.request("GET", "/v1/models", headers=bearer(key))
    assert reply.status_code == 403
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="online-trl", error="insufficient_scope", scope="chat"'
    assert reply.json()["error"]["code"] == "insufficient_scope"
    assert reply.json()["error"]["message"] == "this key does not have the scope `chat`"


def test_every_way_to_send_a_key_opens_the_route(app: SmallApp):
    key, _ = app.store.keys.create([Scope.CHAT])
    for headers in (bearer(key), {"X-Api-Key": key}, {"Authorization": basic("anything", key)}):
        assert app.request("GET", "/v1/models", headers=headers).status_code == 200


def test_keys_made_and_revoked_while_the_server_runs_take_effect(app: SmallApp):
    assert app.request("GET", "/v1/models").status_code == 200
    key, row = app.store.keys.create([Scope.CHAT])
    wait_until(app, 401, {})
    assert app.request("GET", "/v1/models", headers=bearer(key)).status_code == 200
    other, _ = app.store.keys.create([Scope.CHAT])
    wait_until(app, 200, bearer(other))
    app.store.keys.revoke(row.key_id)
    wait_until(app, 401, bearer(key))
    assert app.request("GET", "/v1/models", headers=bearer(other)).status_code == 200


def test_revoked_key_opens_no_other_server_on_the_log_either(app: SmallApp):
    key, row = app.store.keys.create([Scope.CHAT])
    app.store.keys.create([Scope.CHAT])
    with FeedbackStore(app.store.url) as store:
        other = replace(app, app=create_app(store=store, engine=app.engine), store=store)
        for server in (app, other):
            wait_until(server, 200, bearer(key))
        store.keys.revoke(row.key_id)
        for server in (app, other):
            wait_until(server, 401, bearer(key))


def test_unauthorised_request_is_refused_before_its_body_is_read(app: SmallApp):
    app.store.keys.create([Scope.CHAT])
    read: list[str] = []

    async def receive() -> Any:
        read.append("body")
        return {"type": "http.request", "body": b"{}", "more_body": False}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/feedback",
        "scheme": "http",
        "server": ("10.0.0.1", 80),
        "client": ("10.0.0.2", 4000),
        "query_string": b"",
        "headers": [(b"host", b"chat.example.org"), (b"content-type", b"application/json")],
    }
    app.run(app.app(scope, receive, send))
    assert sent[0]["status"] == 401
    assert read == []


@pytest.mark.parametrize(
    ("base_url", "status"),
    [
        ("http://localhost:8000", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:8000", 200),
        ("http://LOCALHOST", 200),
        ("http://10.0.0.1", 401),
        ("http://chat.example.org", 401),
        ("http://localhost.example.org", 401),
    ],
)
def test_server_without_keys_answers_its_own_machine_only(app: SmallApp, base_url: str, status: int):
    assert app.request("GET", "/v1/models", base_url=base_url).status_code == status


def test_server_without_keys_does_not_answer_those_behind_a_proxy(app: SmallApp):
    proxied = replace(app, app=ProxyHeadersMiddleware(app.app))
    assert proxied.request("GET", "/v1/models").status_code == 200
    assert proxied.request("GET", "/v1/models", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401


def test_name_that_was_made_to_resolve_to_this_machine_is_refused(app: SmallApp):
    reply = app.request("POST", "/v1/feedback", headers={"Host": "evil.example", "Origin": "http://evil.example"})
    assert reply.status_code == 401
    assert "answers its own machine only" in reply.json()["error"]["message"]


def test_any_name_will_do_once_there_is_a_key(app: SmallApp):
    key, _ = app.store.keys.create([Scope.CHAT])
    reply = app.request("GET", "/v1/models", base_url="https://chat.example.org", headers=bearer(key))
    assert reply.status_code == 200


def break_log(app: SmallApp) -> None:
    app.store.close()
    folder = Path(app.store.url.removeprefix("sqlite:///")).parent
    for file in folder.glob("feedback.db*"):
        file.unlink()
    (folder / "feedback.db").mkdir()


def test_log_that_cannot_be_read_lets_nobody_in(app: SmallApp):
    break_log(app)
    reply = app.request("GET", "/v1/models")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "store_unavailable"


def test_what_is_public_is_answered_while_the_log_cannot_be_read(app: SmallApp):
    break_log(app)
    for path in ("/", "/healthz", "/openapi.json"):
        assert app.request("GET", path, base_url="https://chat.example.org").status_code == 200
    assert "not ready" in app.request("GET", "/readyz").json()["error"]["message"]


def test_server_known_to_have_no_keys_answers_its_own_machine_only_without_its_log_too(
    app: SmallApp, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("online_trl.serving.key_ring._FRESH_SECONDS", 0)
    monkeypatch.setattr("online_trl.serving.key_ring._TRUSTED_SECONDS", 0.2)
    assert app.request("GET", "/healthz").status_code == 200
    break_log(app)
    while app.request("GET", "/v1/models").status_code != 503:
        time.sleep(0.05)
    assert app.request("GET", "/healthz").status_code == 200
    assert app.request("GET", "/healthz", base_url="https://chat.example.org").status_code == 401


def test_last_known_keys_open_the_server_while_its_log_cannot_be_read(app: SmallApp, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("online_trl.serving.key_ring._FRESH_SECONDS", 0)
    key, _ = app.store.keys.create([Scope.CHAT])
    assert app.request("GET", "/v1/models", headers=bearer(key)).status_code == 200
    break_log(app)
    assert app.request("GET", "/v1/models", headers=bearer(key)).status_code == 200
    assert app.request("GET", "/v1/models", headers=bearer("sk-wrong")).status_code == 401
