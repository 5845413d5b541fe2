"""Who gets in: every route of the app by every kind of key. A route that has no row here fails."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from online_trl.types import Scope
from serving.small_app import SmallApp, small_app

PUBLIC = None

# The scope that each route asks for.
TABLE: dict[tuple[str, str], Scope | None] = {
    ("GET", "/"): PUBLIC,
    ("GET", "/page/{name}"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): Scope.ADMIN,
    ("GET", "/dashboard"): Scope.ADMIN,
    ("GET", "/dashboard.json"): Scope.ADMIN,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/oauth2-redirect"): PUBLIC,
    ("GET", "/redoc"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("POST", "/v1/chat/completions"): Scope.CHAT,
    ("GET", "/v1/models"): Scope.CHAT,
    ("GET", "/v1/models/{model}"): Scope.CHAT,
    ("GET", "/v1/chat/completions/{completion_id}"): Scope.CHAT,
    ("POST", "/v1/chat/completions/{completion_id}"): Scope.FEEDBACK,
    ("DELETE", "/v1/chat/completions/{completion_id}"): Scope.ADMIN,
    ("POST", "/v1/feedback"): Scope.FEEDBACK,
    ("POST", "/api/public/scores"): Scope.FEEDBACK,
    ("POST", "/api/public/ingestion"): Scope.FEEDBACK,
    ("POST", "/v1/signed-feedback"): PUBLIC,
    ("GET", "/v1/log/latest-seq"): Scope.TRAIN,
    ("GET", "/v1/log/summary"): Scope.TRAIN,
    ("GET", "/v1/log/interactions"): Scope.TRAIN,
    ("GET", "/v1/log/feedback"): Scope.TRAIN,
    ("GET", "/v1/log/admitted-feedback"): Scope.TRAIN,
    ("GET", "/v1/log/tombstones"): Scope.TRAIN,
    ("GET", "/v1/log/related-feedback"): Scope.TRAIN,
    ("GET", "/v1/log/related-regenerations"): Scope.TRAIN,
    ("POST", "/v1/log/get-interactions"): Scope.TRAIN,
    ("POST", "/v1/log/session-interactions"): Scope.TRAIN,
    ("POST", "/v1/log/erased-among"): Scope.TRAIN,
    ("POST", "/v1/log/trace"): Scope.TRAIN,
    ("GET", "/v1/quarantine"): Scope.ADMIN,
    ("POST", "/v1/quarantine/release"): Scope.ADMIN,
    ("DELETE", "/v1/users/{user_id}"): Scope.ADMIN,
    ("DELETE", "/v1/interactions/{interaction_id}"): Scope.ADMIN,
}

# The scopes of each caller's key; those without one hold what opens nothing.
CALLERS: dict[str, tuple[Scope, ...]] = {
    "no key": (),
    "wrong key": (),
    "revoked key": (),
    **{scope.value: (scope,) for scope in Scope},
    "chat and feedback": (Scope.CHAT, Scope.FEEDBACK),
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path_factory.mktemp("access"), policy_folders[0]) as app:
        yield app


@pytest.fixture(scope="module")
def headers(app: SmallApp) -> dict[str, dict[str, str]]:
    """What each caller sends."""
    keys = {name: app.store.keys.create(scopes)[0] for name, scopes in CALLERS.items() if scopes}
    keys["wrong key"] = "sk-" + "0" * 43
    keys["revoked key"], row = app.store.keys.create([Scope.ADMIN])
    app.store.keys.revoke(row.key_id)
    while app.request("GET", "/v1/models").status_code != 401:
        time.sleep(0.05)
    return {name: {"Authorization": f"Bearer {keys[name]}"} if name in keys else {} for name in CALLERS}


def routes(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for route in found:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router.routes)
        else:
            yield from ((method, route.path_format) for method in (route.methods or {"GET"}) - {"HEAD"})


def outcome(app: SmallApp, method: str, path: str, headers: dict[str, str]) -> str:
    """Sends a request that no route can make anything of, and tells how far it came."""
    reply = app.request(method, re.sub(r"\{[^}]+\}", "unknown", path), headers=headers)
    if reply.status_code == 401:
        return "who are you"
    if reply.status_code == 403 and reply.json()["error"]["code"] == "insufficient_scope":
        return "not you"
    return "in"


def expected(required: Scope | None, caller: str) -> str:
    if required is PUBLIC:
        return "in"
    if not CALLERS[caller]:
        return "who are you"
    return "in" if {required, Scope.ADMIN} & set(CALLERS[caller]) else "not you"


def test_table_names_every_route_and_no_other(app: SmallApp):
    assert sorted(routes(app.app.routes)) == sorted(TABLE)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path"), TABLE)
def test_who_gets_in(app: SmallApp, headers: dict[str, dict[str, str]], method: str, path: str, caller: str):
    assert outcome(app, method, path, headers[caller]) == expected(TABLE[method, path], caller)


@pytest.mark.parametrize("caller", CALLERS)
def test_what_is_no_route_is_closed_too(app: SmallApp, headers: dict[str, dict[str, str]], caller: str):
    reply = app.request("GET", "/no/such/route", headers=headers[caller])
    assert reply.status_code == (404 if CALLERS[caller] else 401)


def test_nothing_was_stored_by_all_this(app: SmallApp):
    assert app.store.latest_seq() == 0
