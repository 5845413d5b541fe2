from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from feedback import add_comparisons
from online_trl.cli import main
from online_trl.migrations import REVISIONS
from online_trl.store import FeedbackStore, RemoteStore, StoreError, open_store, remote
from online_trl.store.wire import REVISION_HEADER
from online_trl.types import Scope
from served_log import make_app, served

URL = "http://chat.example.org"
KEY = "sk-secret"
REVISION = {REVISION_HEADER: REVISIONS[-1]}


class Server:
    """Replies with one thing after the other, and again with the last."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


def reader(server: Callable[[httpx.Request], httpx.Response], **options: Any) -> RemoteStore:
    return RemoteStore(URL, transport=httpx.MockTransport(server), **options)


def says(seq: int) -> httpx.Response:
    return httpx.Response(200, json=seq, headers=REVISION)


def refusal(status: int, message: str = "not you", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}}, headers=headers)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, on a clock that only waiting moves."""
    waited: list[float] = []
    monkeypatch.setattr(remote, "sleep", waited.append)
    monkeypatch.setattr(remote, "monotonic", lambda: sum(waited))
    monkeypatch.delenv(remote.KEY_VARIABLE, raising=False)
    return waited


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("timed out"),
        httpx.RemoteProtocolError("peer closed connection"),
        httpx.Response(502, text="Bad Gateway"),
        refusal(503, "the log cannot be read"),
        httpx.Response(504),
        refusal(429, "too often"),
    ],
    ids=lambda failure: getattr(failure, "status_code", type(failure).__name__),
)
def test_a_server_that_has_answered_is_waited_for(failure, pauses, caplog):
    store = reader(Server(says(1), failure, failure, failure, says(2)))
    assert store.latest_seq() == 1
    with caplog.at_level(logging.WARNING):
        assert store.latest_seq() == 2
    assert pauses == [0.1, 0.2, 0.4]
    assert next(record.message for record in caplog.records).startswith(f"{URL} cannot be read: ")


def test_the_first_read_fails_at_once(pauses):
    server = Server(httpx.ConnectError("Connection refused"))
    with pytest.raises(StoreError, match=f"{URL} cannot be read: Connection refused"):
        reader(server).latest_seq()
    assert (pauses, len(server.requests)) == ([], 1)


def test_patience_has_an_end(pauses):
    store = reader(Server(says(1), httpx.ConnectError("Connection refused")), patience=20.0)
    store.latest_seq()
    with pytest.raises(StoreError, match="Connection refused"):
        store.latest_seq()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_server_says_when_to_ask_again(pauses):
    store = reader(Server(says(1), refusal(429, "too often", **{"Retry-After": "7"}), says(2)))
    assert [store.latest_seq(), store.latest_seq()] == [1, 2]
    assert pauses == [7.0]


@pytest.mark.parametrize("body", [b"", b'{"a"', b'{"kind":"binary"}\n', b"{}\n" * 12 + b"1"])
def test_a_reply_that_was_cut_off_is_asked_for_again(body, pauses):
    cut_off = httpx.Response(200, content=body, headers=REVISION)
    whole = httpx.Response(200, content=b"0\n", headers=REVISION)
    store = reader(Server(says(5), cut_off, whole))
    store.latest_seq()
    assert store.tombstones(upto=5) == []
    assert pauses == [0.1]


@pytest.mark.parametrize("status", [401, 403])
def test_a_closed_door_names_the_key_that_opens_it(status, pauses):
    server = Server(refusal(status, "this key does not have the scope `train`"))
    with pytest.raises(StoreError, match=r"scope `train`.*ONLINE_TRL_API_KEY; `online-trl keys create --scope train`"):
        reader(server, key=KEY).latest_seq()
    assert pauses == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (httpx.Response(404, text="Not Found"), "status 404 Not Found"),
        (httpx.Response(307, headers={"Location": "https://chat.example.org/"}), "status 307 Temporary Redirect"),
        (refusal(422, "runs backwards"), r"runs backwards \(status 422\)"),
        (httpx.Response(200, text="<html>"), "not as an online-trl server"),
        (httpx.Response(200, json=1, headers={REVISION_HEADER: "0001"}), "revision 0001, and this online-trl reads"),
    ],
)
def test_what_waiting_does_not_mend_fails_at_once(reply, message, pauses):
    store = reader(Server(says(1), reply), key=KEY)
    store.latest_seq()
    with pytest.raises(StoreError, match=message) as caught:
        store.latest_seq()
    assert pauses == []
    assert KEY not in str(caught.value)


def test_the_key_comes_from_the_argument_or_the_environment(monkeypatch):
    server = Server(says(1))
    reader(server).latest_seq()
    reader(server, key=KEY).latest_seq()
    monkeypatch.setenv(remote.KEY_VARIABLE, "sk-environment")
    reader(server).latest_seq()
    assert [request.headers.get("Authorization") for request in server.requests] == [
        None,
        f"Bearer {KEY}",
        "Bearer sk-environment",
    ]


@pytest.mark.parametrize("key", ["sk-\n", "sk secret", "sk-geheimnißvoll"])
def test_a_key_that_cannot_be_one_is_refused_unseen(key):
    with pytest.raises(StoreError, match="holds a space or what is not ASCII") as caught:
        RemoteStore(URL, key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["http://:sk-secret@chat.example.org", "https://ada:sk-secret@chat.example.org:x/"])
def test_a_key_in_the_url_is_refused_unseen(url):
    with pytest.raises(StoreError, match="pass the key in ONLINE_TRL_API_KEY") as caught:
        open_store(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "http:///log", "https://chat.example.org?key=1", "http://host:port"])
def test_what_is_no_url_of_a_server_is_refused(url):
    with pytest.raises(StoreError, match="is not the URL of a server"):
        open_store(url)


def test_a_server_may_live_below_a_path():
    server = Server(says(1))
    RemoteStore(f"{URL}/feedback/", transport=httpx.MockTransport(server)).latest_seq()
    assert str(server.requests[0].url) == f"{URL}/feedback/v1/log/latest-seq"


def test_the_url_says_which_store_it_is(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/feedback.db") as store:
        assert isinstance(store, FeedbackStore)
    with open_store("HTTPS://chat.example.org", patience=5.0) as store:
        assert isinstance(store, RemoteStore)
        assert store.patience == 5.0


def test_a_forked_process_reads_over_a_connection_of_its_own(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        add_comparisons(store, 3)
        clients = []
        app = make_app(store)

        async def recording(scope, receive, send):
            clients.append(scope["client"])
            await app(scope, receive, send)

        with served(recording) as url, RemoteStore(url) as remote_store:
            assert remote_store.latest_seq() == remote_store.latest_seq() == 9
            child = os.fork()
            if child == 0:
                found = 0
                try:
                    found = len(remote_store.feedback())
                finally:
                    os._exit(0 if found == 3 else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert remote_store.latest_seq() == 9
    assert len(set(clients)) == 2


def test_the_commands_that_read_take_a_server_and_those_that_write_say_why_not(tmp_path, capsys, monkeypatch):
    database = f"sqlite:///{tmp_path}/feedback.db"
    with FeedbackStore(database) as store:
        add_comparisons(store, 3)
        key, _ = store.keys.create([Scope.TRAIN])
        with served(make_app(store)) as url:
            assert main(["status", "--store", url]) == 2
            assert "ONLINE_TRL_API_KEY" in capsys.readouterr().err
            monkeypatch.setenv(remote.KEY_VARIABLE, key)
            assert main(["status", "--store", url]) == 0
            assert "comparison" in capsys.readouterr().out
            files = [tmp_path / "direct.jsonl", tmp_path / "remote.jsonl"]
            for source, file in zip((database, url), files, strict=True):
                command = ["export", "--store", source, "--output", str(file), "--provenance"]
                assert main(command) == 0
            assert files[0].read_bytes() == files[1].read_bytes() != b""
    for command in (["import", str(files[0])], ["keys", "list"], ["db", "upgrade"]):
        assert main([*command, "--store", URL]) == 2
        assert "through a server a log can only be read" in capsys.readouterr().err
