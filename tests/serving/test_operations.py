from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.small_app import SmallApp, small_app


@pytest.fixture
def app(tmp_path: Path, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path, policy_folders[0]) as app:
        yield app


def test_server_that_can_answer_and_store_is_alive_and_ready(app: SmallApp):
    version = app.request("GET", "/v1/models").json()["data"][0]["root"]
    assert app.request("GET", "/healthz").json() == {"status": "ok", "policy_version": version}
    app.add_answer()
    assert app.request("GET", "/readyz").json() == {"status": "ready", "policy_version": version, "latest_seq": 1}
    assert app.store.latest_seq() == 1


def test_server_whose_log_takes_nothing_is_alive_but_not_ready(app: SmallApp, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("online_trl.serving.routes.operations._PATIENCE_SECONDS", 0.2)
    path = app.store.url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    reply = app.request("GET", "/readyz")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "not_ready"
    assert reply.json()["error"]["message"] == "not ready: the log has taken nothing for 0.2 seconds"
    assert app.request("GET", "/healthz").status_code == 200
    other.execute("ROLLBACK")
    other.close()
    assert app.request("GET", "/readyz").status_code == 200


def test_server_whose_log_is_closed_is_not_ready(app: SmallApp):
    app.request("GET", "/healthz")
    app.store._writer.close()
    reply = app.request("GET", "/readyz")
    assert reply.status_code == 503
    assert "not ready" in reply.json()["error"]["message"]
