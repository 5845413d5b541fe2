from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from online_trl.serving import metrics
from online_trl.serving.upstream_engine import UpstreamEngine
from online_trl.store import StoreError
from online_trl.types import Scope
from serving.deployment import Deployment
from serving.small_app import SmallApp, app_before, small_app
from serving.upstream import scripted_upstream


@pytest.fixture
def app(tmp_path: Path, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path, policy_folders[0]) as app:
        yield app


def samples(text: str) -> dict[tuple[Any, ...], float]:
    """Every sample but those of the buckets, by its name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def read(app: SmallApp) -> dict[tuple[Any, ...], float]:
    reply = app.request("GET", "/metrics")
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    return samples(reply.text)


def say(app: SmallApp, **fields: Any) -> str:
    reply = app.request("POST", "/v1/feedback", json={"user_id": "ada"} | fields)
    assert reply.status_code == 201
    return reply.json()["feedback_id"]


def test_requests_are_counted_by_method_route_and_status(app: SmallApp):
    for name in ("a", "b"):
        app.request("GET", f"/v1/chat/completions/{name}")
    app.request("GET", "/healthz")
    app.request("GET", "/no/such/route")
    found = read(app)
    count = "online_trl_request_seconds_count"
    assert found[count, "GET", "/v1/chat/completions/{completion_id}", "404"] == 2
    assert found[count, "GET", "/healthz", "200"] == 1
    assert found[count, "GET", "none", "404"] == 1
    assert found["online_trl_request_seconds_sum", "GET", "/healthz", "200"] > 0
    assert read(app)[count, "GET", "/metrics", "200"] == 1


def test_methods_that_somebody_makes_up_are_counted_as_one(app: SmallApp):
    for number in range(3):
        app.request(f"MADE{number}", "/v1/feedback")
    found = read(app)
    assert found["online_trl_request_seconds_count", "other", "/v1/feedback", "405"] == 3
    assert not any("MADE" in str(part) for name in found for part in name)


def test_who_is_turned_away_is_counted_too(app: SmallApp):
    key, _ = app.store.keys.create([Scope.ADMIN])
    app.request("POST", "/v1/feedback", json={})
    text = app.request("GET", "/metrics", headers={"X-Api-Key": key}).text
    assert samples(text)["online_trl_request_seconds_count", "POST", "none", "401"] == 1


def test_feedback_is_counted_by_kind_and_version(app: SmallApp):
    first, second = app.add_answer(policy_version="policy-1"), app.add_answer(policy_version="policy-2")
    thumb = say(app, kind="binary", interaction_id=first, value=True)
    say(app, kind="binary", interaction_id=second, value=True)
    say(app, kind="binary", interaction_id=second, value=False)
    say(app, kind="comparison", interaction_ids=[first, second], value="tie")
    say(app, kind="binary", supersedes=thumb)
    for found in (read(app), read(app)):
        assert {key[1:]: value for key, value in found.items() if key[0] == "online_trl_feedback_total"} == {
            ("binary", "policy-1"): 1,
            ("binary", "policy-2"): 2,
            ("comparison", "policy-1"): 1,
            ("binary", "unknown"): 1,
        }


def test_versions_are_looked_up_now_and_then_if_nobody_reads(app: SmallApp, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_MOST_UNSETTLED", 3)
    looked_up: list[int] = []
    policy_versions = app.store.policy_versions

    def look_up(ids: Any) -> dict[str, str]:
        names = list(ids)
        looked_up.append(len(names))
        return policy_versions(names)

    monkeypatch.setattr(app.store, "policy_versions", look_up)
    answer = app.add_answer()
    for _ in range(7):
        say(app, kind="binary", interaction_id=answer, value=True)
    assert looked_up == [3, 3]
    assert read(app)["online_trl_feedback_total", "binary", "policy"] == 7


def fail_to_read(ids: Any) -> dict[str, str]:
    raise StoreError("the log cannot be read")


def feedback_counts(app: SmallApp) -> dict[str, float]:
    return {key[2]: value for key, value in read(app).items() if key[0] == "online_trl_feedback_total"}


def test_feedback_is_counted_later_if_the_log_cannot_be_read_now(app: SmallApp, monkeypatch: pytest.MonkeyPatch):
    answer = app.add_answer()
    with monkeypatch.context() as patch:
        patch.setattr(app.store, "policy_versions", fail_to_read)
        say(app, kind="binary", interaction_id=answer, value=True)
        assert feedback_counts(app) == {}
    say(app, kind="binary", interaction_id=answer, value=False)
    assert feedback_counts(app) == {"policy": 2}


def test_much_feedback_is_counted_without_its_version_if_the_log_cannot_be_read(
    app: SmallApp, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(metrics, "_MOST_UNSETTLED", 3)
    answer = app.add_answer()
    with monkeypatch.context() as patch:
        patch.setattr(app.store, "policy_versions", fail_to_read)
        for _ in range(4):
            say(app, kind="binary", interaction_id=answer, value=True)
    assert feedback_counts(app) == {"unknown": 3, "policy": 1}


def test_tokens_are_counted_by_version(app: SmallApp):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "n": 2}
    completion = app.request("POST", "/v1/chat/completions", json=body).json()
    app.request("POST", "/v1/chat/completions", json=body | {"n": 1, "stream": True})
    found, version, usage = read(app), completion["model"], completion["usage"]
    rows = app.store.interactions()
    assert len(rows) == 3
    assert found["online_trl_tokens_total", "prompt", version] == 3 * usage["prompt_tokens"]
    assert found["online_trl_tokens_total", "completion", version] == sum(len(row.completion_ids) for row in rows)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_those_that_an_upstream_tells(tmp_path: Path, stream: bool, with_ids: bool):
    def part(name: str, usage: int) -> dict[str, Any]:
        prompt_ids, ids = ({"prompt_token_ids": [1, 2, 3]}, {"token_ids": [4, 5]}) if with_ids else ({}, {})
        answer = {name: {"content": "Hi"}, "finish_reason": "stop"} | ids
        counts = {"prompt_tokens": 3, "completion_tokens": usage}
        return {"model": "big", "choices": [answer], "usage": counts} | prompt_ids

    with scripted_upstream() as (url, script), app_before(UpstreamEngine(url, model="big"), tmp_path) as app:
        if stream:  # each event tells how many there are so far
            last = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
            events = [f"data: {json.dumps(each)}\n\n".encode() for each in (part("delta", 1), last)]
            script.streams(*events, b"data: [DONE]\n\n")
        else:
            script.says(json.dumps(part("message", 2)).encode())
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        assert app.request("POST", "/v1/chat/completions", json=body).status_code == 200
        found = read(app)
    assert [found["online_trl_tokens_total", part, "big"] for part in ("prompt", "completion")] == [3, 2]


def test_queues_are_measured(app: SmallApp):
    found = read(app)
    assert found["online_trl_waiting_writes",] == 0
    assert found["online_trl_waiting_answers",] == 0


def test_swaps_are_timed(deployment: Deployment):
    def swaps() -> dict[tuple[Any, ...], float]:
        return samples(deployment.http.get("/metrics").text)

    assert swaps()["online_trl_swap_seconds_count",] == 0
    deployment.registry.promote("policy-0002", "for a test")
    while deployment.http.get("/healthz").json()["policy_version"] != "policy-0002":
        pass
    assert swaps()["online_trl_swap_seconds_count",] == 1
    assert swaps()["online_trl_swap_seconds_sum",] > 0
