from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from online_trl.serving.logs import start_logging
from online_trl.serving.upstream_engine import UpstreamEngine
from online_trl.store import StoreError
from online_trl.types import Scope, new_id
from serving.deployment import Deployment, deployed
from serving.small_app import SmallApp, app_before, small_app
from serving.upstream import scripted_upstream

SECRET = "xyzzy-plugh"
QUESTION = [{"role": "user", "content": f"What is {SECRET}?"}]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where a test's server logs to; afterwards this process logs as before."""
    loggers = [logging.getLogger(name) for name in (None, "httpx", "httpx2")]
    handlers, levels = loggers[0].handlers, [logger.level for logger in loggers]
    yield io.StringIO()
    loggers[0].handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def requests(stream: io.StringIO) -> list[dict[str, Any]]:
    return [entry for entry in entries(stream) if entry["event"] == "request"]


def test_requests_of_the_server_itself_are_not_told(stream: io.StringIO):
    start_logging(stream, log_messages=False)
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).info("HTTP Request: GET ...")
        logging.getLogger(client).warning("it broke")
    assert [(entry["logger"], entry["event"]) for entry in entries(stream)] == [
        ("httpx", "it broke"),
        ("httpx2", "it broke"),
    ]


def ask(app: SmallApp, **fields: Any) -> str:
    body = {"messages": QUESTION, "max_tokens": 4} | fields
    reply = app.request("POST", "/v1/chat/completions", json=body)
    assert reply.status_code == 200
    return reply.headers["X-Interaction-Id"]


def correct(app: SmallApp, answer: str) -> str:
    body = {"kind": "correction", "interaction_id": answer, "value": f"It is {SECRET}.", "comment": SECRET}
    return app.request("POST", "/v1/feedback", json=body).json()["feedback_id"]


def test_each_request_is_one_line(tmp_path: Path, policy_folders: list[Path], stream: io.StringIO):
    with small_app(tmp_path, policy_folders[0], log=start_logging(stream, log_messages=False)) as app:
        answer = ask(app)
        version = app.store.policy_versions([answer])[answer]
        feedback = correct(app, answer)
        app.request("DELETE", f"/v1/interactions/{new_id()}")
        app.request("GET", f"/nowhere/{SECRET}")
    lines = requests(stream)
    assert all(line.pop("seconds") > 0 and line.pop("timestamp").endswith("Z") for line in lines)
    assert lines[0] == {
        "event": "request",
        "level": "info",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "interaction_ids": [answer],
        "policy_version": version,
    }
    assert lines[1] == {
        "event": "request",
        "level": "info",
        "method": "POST",
        "route": "/v1/feedback",
        "status": 201,
        "interaction_ids": [answer],
        "feedback_ids": [feedback],
    }
    assert (lines[2]["route"], lines[2]["status"]) == ("/v1/interactions/{interaction_id}", 404)
    assert (lines[3]["route"], lines[3]["status"]) == ("none", 404)


def test_line_names_the_key_by_its_id(tmp_path: Path, policy_folders: list[Path], stream: io.StringIO):
    with small_app(tmp_path, policy_folders[0], log=start_logging(stream, log_messages=False)) as app:
        key, row = app.store.keys.create([Scope.CHAT])
        app.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        app.request("GET", "/v1/models", headers={"Authorization": "Bearer sk-wrong"})
    lines = requests(stream)
    assert [(line.get("key_id"), line["status"]) for line in lines] == [(row.key_id, 200), (None, 401)]
    assert key not in stream.getvalue()


@pytest.mark.parametrize("log_messages", [False, True])
def test_words_are_in_the_log_only_if_the_settings_say_so(
    tmp_path: Path, policy_folders: list[Path], stream: io.StringIO, log_messages: bool
):
    log = start_logging(stream, log_messages=log_messages)
    with small_app(tmp_path, policy_folders[0], log=log, log_messages=log_messages) as app:
        correct(app, ask(app))
    answered, said = requests(stream)
    if log_messages:
        assert answered["rows"][0]["prompt"] == QUESTION
        assert said["rows"] == [
            {"kind": "correction", "value": f"It is {SECRET}.", "comment": SECRET, "tags": {}},
        ]
    else:
        assert SECRET not in stream.getvalue()


def test_log_of_a_running_server_holds_nobodys_words(tmp_path: Path, policy_folders: list[Path]):
    with deployed(tmp_path, policy_folders) as deployment:
        send_secrets(deployment)
    log = (tmp_path / "server.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines if line["event"] == "request" and line["method"] == "POST"] == [
        200,
        200,
        *[201] * 3,
        *[422] * 6,
        400,
        400,
        404,
        409,
    ]
    assert SECRET not in log


def send_secrets(deployment: Deployment) -> None:
    """Sends a secret wherever a server can be told one: in what it takes, in what it refuses, and as a stream."""

    def say(**fields: Any) -> None:
        deployment.http.post("/v1/feedback", json={"interaction_id": answer} | fields)

    def chat(**fields: Any) -> Any:
        body = {"messages": QUESTION, "max_tokens": 4} | fields
        return deployment.http.post("/v1/chat/completions", json=body)

    answer = chat().json()["id"]
    chat(stream=True)
    key = new_id()
    say(kind="correction", value=SECRET, comment=SECRET, tags={"note": SECRET}, idempotency_key=key)
    deployment.http.post("/v1/feedback", json={"metric_name": "comment", "inference_id": answer, "value": SECRET})
    say(kind="implicit", value=SECRET)
    say(kind="binary", value=SECRET)
    say(kind=SECRET, value=True)
    say(kind="rating", value={"score": 1, SECRET: SECRET})
    say(kind="binary", value=True, **{SECRET: SECRET})
    say(kind="binary", value=True, comment={"text": SECRET})
    deployment.http.post("/v1/feedback", content=SECRET, headers={"Content-Type": "application/json"})
    chat(messages=[{"role": "king", "content": SECRET}])
    chat(messages=[{"role": "tool", "content": SECRET}])
    deployment.http.post("/v1/feedback", json={"kind": "binary", "interaction_id": SECRET, "value": True})
    say(kind="correction", value=f"not {SECRET}", idempotency_key=key)


@pytest.mark.parametrize("body", [{"choices": [{"message": SECRET}]}, {"error": SECRET}], ids=["message", "no answer"])
def test_what_an_upstream_said_is_told_to_the_client_alone(tmp_path: Path, stream: io.StringIO, body: dict[str, Any]):
    log = start_logging(stream, log_messages=False)
    asking = {"comparison_strategy": "random", "comparison_share": 1.0}
    with (
        scripted_upstream() as (url, script),
        app_before(UpstreamEngine(url, model="big"), tmp_path, log=log, **asking) as app,
    ):
        script.says(json.dumps(body).encode())
        question = {"messages": [{"role": "user", "content": "Hi"}]}
        reply = app.request("POST", "/v1/chat/completions", json=question, headers={"X-Comparison": "welcome"})
    assert (reply.status_code, SECRET in reply.text) == (502, True)
    assert "no 2 answers at once to compare" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def fail_with_a_secret() -> None:
    try:
        raise ValueError(f"cannot read {SECRET}")
    except ValueError as error:
        error.__notes__ = [SECRET]
        raise StoreError(f"cannot store {SECRET}") from error


@pytest.mark.parametrize("log_messages", [False, True])
def test_traceback_is_told_by_types_and_places(stream: io.StringIO, log_messages: bool):
    start_logging(stream, log_messages=log_messages)
    try:
        fail_with_a_secret()
    except StoreError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    (entry,) = entries(stream)
    assert (entry["level"], entry["logger"]) == ("error", "uvicorn.error")
    assert [each["exc_type"] for each in entry["exception"]] == ["StoreError", "ValueError"]
    assert entry["exception"][0]["frames"][-1]["name"] == "fail_with_a_secret"
    assert (SECRET in stream.getvalue()) is log_messages


def test_error_that_nobody_waited_for_is_told_without_its_words(stream: io.StringIO):
    start_logging(stream, log_messages=False)

    async def fail() -> None:
        raise StoreError(SECRET)

    async def main() -> None:
        task = asyncio.create_task(fail(), name=SECRET)
        await asyncio.sleep(0)
        del task

    asyncio.run(main())
    (entry,) = entries(stream)
    assert entry["event"] == "Task exception was never retrieved"
    assert entry["exception"][0]["exc_type"] == "StoreError"
    assert SECRET not in stream.getvalue()


def test_handler_that_fails_is_a_line_with_a_traceback_and_no_words(
    tmp_path: Path, policy_folders: list[Path], stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    log = start_logging(stream, log_messages=False)
    with small_app(tmp_path, policy_folders[0], log=log) as app:
        monkeypatch.setattr(app.store, "submit_feedback", lambda rows, **_: 1 / 0)
        body = {"kind": "correction", "interaction_id": app.add_answer(), "value": SECRET}
        with pytest.raises(ZeroDivisionError):
            app.request("POST", "/v1/feedback", json=body)
    (line,) = requests(stream)
    assert (line["level"], line["status"], line["route"]) == ("error", 500, "/v1/feedback")
    assert SECRET not in stream.getvalue()
