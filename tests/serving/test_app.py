from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from online_trl.serving.client_keys import client_key
from online_trl.types import FeedbackKind, FeedbackSource, Purpose, new_id
from serving.deployment import Deployment

QUESTION = [{"role": "user", "content": "How do I reset my password?"}]
GREEDY: dict[str, Any] = {"messages": QUESTION, "temperature": 0, "max_tokens": 16}


def complete(deployment: Deployment, **fields: Any) -> dict[str, Any]:
    reply = deployment.http.post("/v1/chat/completions", json=GREEDY | fields)
    assert reply.status_code == 200, reply.text
    return reply.json()


def text_of(completion: dict[str, Any]) -> str:
    return completion["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def answers(deployment: Deployment) -> list[str]:
    """Interactions to give feedback on."""
    return [complete(deployment)["id"] for _ in range(4)]


# Chat completions


def test_openai_client_gets_an_answer_that_is_already_in_the_log(deployment: Deployment):
    completion = deployment.openai.chat.completions.create(
        model="default",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        temperature=0.7,
        top_p=0.9,
        max_completion_tokens=12,
        max_tokens=99,
        seed=11,
        stop=["zzz"],
        user="ada",
        frequency_penalty=0,
        response_format={"type": "text"},
        extra_headers={"X-Session-Id": "session-1", "X-Purpose": "evaluation"},
        extra_body={"unheard_of": True},
    )
    row = deployment.store.get_interactions([completion.id])[completion.id]
    choice = completion.choices[0]
    assert row.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert row.completion == [{"role": "assistant", "content": choice.message.content}]
    assert row.policy_version == completion.model == "policy-0001"
    assert (row.user_id, row.session_id, row.purpose) == ("ada", "session-1", Purpose.EVALUATION)
    assert row.sampling == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 12,
        "seed": 11,
        "stop": ["zzz"],
        "finish_reason": choice.finish_reason,
    }
    assert completion.usage is not None
    assert len(row.prompt_ids or []) == completion.usage.prompt_tokens
    assert len(row.completion_ids or []) == len(row.logprobs or []) == completion.usage.completion_tokens
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert choice.model_extra == {"interaction_id": completion.id}


def test_openai_client_streams_the_same_answer(deployment: Deployment):
    whole = complete(deployment)
    with deployment.openai.chat.completions.create(
        model="policy-0001", messages=QUESTION, temperature=0, max_tokens=16, stream=True, user="bob"
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text_of(whole)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {(chunk.id, chunk.model, chunk.object) for chunk in chunks} == {
        (chunks[0].id, "policy-0001", "chat.completion.chunk")
    }
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    rows = deployment.store.get_interactions([whole["id"], chunks[0].id])
    streamed, row = rows[chunks[0].id], rows[whole["id"]]
    assert streamed.completion == row.completion
    assert streamed.completion_ids == row.completion_ids
    assert streamed.logprobs == pytest.approx(row.logprobs, abs=1e-4)
    assert streamed.user_id == "bob"


def test_row_is_in_the_log_when_the_last_chunk_arrives(deployment: Deployment):
    for _ in range(5):
        with deployment.openai.chat.completions.create(
            model="default", messages=QUESTION, max_tokens=4, stream=True
        ) as stream:
            for chunk in stream:
                if chunk.choices[0].finish_reason is not None:
                    assert chunk.id in deployment.store.get_interactions([chunk.id])
                    break


def test_defaults_are_those_of_the_model_and_the_seed_is_kept(deployment: Deployment):
    completion = complete(deployment, temperature=None, max_tokens=8)
    sampling = deployment.store.get_interactions([completion["id"]])[completion["id"]].sampling
    assert (sampling["temperature"], sampling["top_p"], sampling["stop"]) == (1.0, 1.0, [])
    again = complete(deployment, temperature=1, max_tokens=8, seed=sampling["seed"])
    assert text_of(again) == text_of(completion)
    row = deployment.store.get_interactions([again["id"]])[again["id"]]
    assert (row.user_id, row.purpose) == ("anonymous", Purpose.CHAT)


def test_each_of_several_answers_is_an_interaction(deployment: Deployment):
    completion = complete(deployment, n=3, temperature=1, seed=5)
    ids = [choice["interaction_id"] for choice in completion["choices"]]
    rows = deployment.store.get_interactions(ids)
    assert len(set(ids)) == 3
    assert completion["id"] == ids[0]
    for index, choice in enumerate(completion["choices"]):
        assert choice["index"] == index
        assert rows[ids[index]].completion == [choice["message"]]
        assert rows[ids[index]].sampling["seed"] == 5 + index
    assert len({rows[name].session_id for name in ids}) == 1
    assert completion["usage"]["completion_tokens"] == sum(len(rows[name].completion_ids or []) for name in ids)


def test_several_answers_can_be_streamed(deployment: Deployment):
    whole = complete(deployment, n=3, temperature=1, seed=5)
    texts, ids = ["", "", ""], ["", "", ""]
    with deployment.openai.chat.completions.create(
        model="default", messages=QUESTION, max_tokens=16, n=3, temperature=1, seed=5, stream=True
    ) as stream:
        for chunk in stream:
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            ids[choice.index] = (choice.model_extra or {})["interaction_id"]
            assert ids[0] in ("", chunk.id)
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    rows = deployment.store.get_interactions(ids)
    assert [rows[name].completion[0]["content"] for name in ids] == texts


def test_content_parts_are_one_text(deployment: Deployment):
    parts = [{"type": "text", "text": "How do I "}, {"type": "text", "text": "reset my password?"}]
    completion = complete(deployment, messages=[{"role": "user", "content": parts}])
    assert deployment.store.get_interactions([completion["id"]])[completion["id"]].prompt == QUESTION
    assert text_of(completion) == text_of(complete(deployment))


def test_stop_may_be_one_text_or_several(deployment: Deployment):
    whole = text_of(complete(deployment))
    stopped = complete(deployment, stop=whole[4:6])
    assert text_of(stopped) == whole[: whole.index(whole[4:6])]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert text_of(complete(deployment, stop=["zzz", whole[4:6]])) == text_of(stopped)


def test_clients_at_the_same_time_get_the_answers_of_one_after_the_other(deployment: Deployment):
    questions = [[{"role": "user", "content": f"Question {number}?"}] for number in range(12)]
    one_by_one = [text_of(complete(deployment, messages=question)) for question in questions]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(lambda question: text_of(complete(deployment, messages=question)), questions))
    assert together == one_by_one


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "Hi"}, "messages", "valid list"),
        ({"messages": None}, "messages", "valid list"),
        ({"messages": [{"role": "user"}]}, "messages.0", "`content` is required"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "messages.0.role", "'system'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
            "the policy reads only text",
        ),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages", "no tools here"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages", "context of 1024 tokens"),
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "greater than or equal to 1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"user": ""}, "user", "at least 1 character"),
        ({"tools": [{"type": "function"}]}, "tools", "nothing that the built-in engine can do"),
        ({"response_format": {"type": "json_object"}}, "response_format", "as the upstream"),
        ({"logit_bias": {"5": 10}}, "logit_bias", "leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "leave it out"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_chat_request_is_refused_and_not_stored(
    deployment: Deployment, fields: dict[str, Any], param: str, reason: str, stream: bool
):
    before = deployment.store.latest_seq()
    reply = deployment.http.post("/v1/chat/completions", json=GREEDY | {"stream": stream} | fields)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param)
    assert reason in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert deployment.store.latest_seq() == before


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"messages": NaN}', b"\xff", b'"text"', b'{"messages": [{"role": "\\ud800"}]}'],
)
def test_what_is_no_chat_request_is_refused(deployment: Deployment, body: bytes):
    reply = deployment.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_lengths_of_a_prompt_that_is_too_long_are_told(deployment: Deployment):
    with pytest.raises(openai.BadRequestError) as refusal:
        deployment.openai.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "word " * 2000}], stream=True
        )
    assert refusal.value.code == "context_length_exceeded"
    assert "tokens; prompt and answer share the model's context of 1024 tokens" in refusal.value.message


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt-4", "../policy-0001", "policy-0001/", "reward-0001"])
def test_unknown_model_is_not_found_and_the_known_are_told(deployment: Deployment, model: str, stream: bool):
    reply = deployment.http.post("/v1/chat/completions", json=GREEDY | {"model": model, "stream": stream})
    assert reply.status_code == 404
    assert reply.json()["error"] == {
        "message": f"there is no model `{model}`; available: policy-0001, policy-0002",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_unknown_purpose_is_refused(deployment: Deployment):
    reply = deployment.http.post("/v1/chat/completions", json=GREEDY, headers={"X-Purpose": "fun"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "header.x-purpose"


def test_client_that_hangs_up_leaves_what_was_sent(deployment: Deployment):
    whole = text_of(complete(deployment, max_tokens=900))
    request = GREEDY | {"max_tokens": 900, "n": 4, "stream": True, "user": "impatient"}
    received: dict[str, str] = {}
    with deployment.http.stream("POST", "/v1/chat/completions", json=request) as reply:
        for line in filter(None, reply.iter_lines()):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            name = choice["interaction_id"]
            received[name] = received.get(name, "") + choice["delta"]["content"]
            if len(received) == 4 and all(len(text) > 20 for text in received.values()):
                break
    deadline = time.monotonic() + 60
    while len(rows := deployment.store.get_interactions(received)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    for name, text in received.items():
        kept = rows[name].completion[0]["content"]
        assert kept.startswith(text)
        assert whole.startswith(kept)
        assert len(kept) < len(whole)
        assert rows[name].sampling["finish_reason"] == "cancelled"
        assert rows[name].prompt_ids
        assert 0 < len(rows[name].completion_ids or []) == len(rows[name].logprobs or []) < 900
    assert text_of(complete(deployment)) == whole[: len(text_of(complete(deployment)))]


@contextmanager
def _broken_log(deployment: Deployment) -> Iterator[None]:
    path = deployment.store.url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON interactions BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    try:
        yield
    finally:
        connection.execute("DROP TRIGGER full")
        connection.close()


def test_answer_that_cannot_be_stored_is_not_given(deployment: Deployment):
    with _broken_log(deployment):
        reply = deployment.http.post("/v1/chat/completions", json=GREEDY)
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "server_error"
    assert complete(deployment)


def test_stream_that_cannot_be_stored_ends_in_an_error(deployment: Deployment):
    with (
        _broken_log(deployment),
        deployment.openai.chat.completions.create(
            model="default", messages=QUESTION, max_tokens=8, stream=True
        ) as stream,
        pytest.raises(openai.APIError, match="the disk is full"),
    ):
        assert {chunk.choices[0].finish_reason for chunk in stream} == {None}


# Models and health


def test_models_are_listed_with_the_live_one_first(deployment: Deployment):
    models = deployment.openai.models.list().data
    assert [(model.id, (model.model_extra or {})["root"]) for model in models] == [
        ("default", "policy-0001"),
        ("canary", "policy-0002"),
        ("policy-0001", "policy-0001"),
        ("policy-0002", "policy-0002"),
    ]
    assert models[2].created == int(deployment.registry.get("policy-0001").created_at.timestamp())


def test_one_model_is_told(deployment: Deployment):
    assert deployment.openai.models.retrieve("default").model_extra == {"root": "policy-0001"}
    assert deployment.openai.models.retrieve("policy-0002").id == "policy-0002"
    with pytest.raises(openai.NotFoundError, match="there is no model `some/other`"):
        deployment.openai.models.retrieve("some/other")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/feedback", 405)])
def test_errors_of_routing_have_the_same_shape(deployment: Deployment, method: str, path: str, status: int):
    reply = deployment.http.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


# Feedback


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        ("binary", 1, True),
        ("binary", 1, False),
        ("rating", 1, {"score": 4, "low": 1, "high": 5}),
        ("rating", 1, {"score": 0.25, "low": 0, "high": 1.0}),
        ("comparison", 2, "second"),
        ("comparison", 2, "tie"),
        ("ranking", 4, [2, 1, 3, 3]),
        ("correction", 1, "Press the button – für fünf Sekunden."),
        ("implicit", 1, "regenerate"),
    ],
)
def test_every_kind_is_stored_as_it_was_said(
    deployment: Deployment, answers: list[str], kind: str, count: int, value: Any
):
    reply = deployment.http.post(
        "/v1/feedback",
        json={
            "kind": kind,
            "interaction_ids": answers[:count],
            "value": value,
            "user_id": "ada",
            "comment": "as asked",
            "tags": {"page": "help"},
            "source": "synthetic",
            "created_at": "2026-01-02T03:04:05+02:00",
        },
    )
    assert reply.status_code == 201
    receipt = reply.json()
    (row,) = deployment.store.feedback(after=receipt["seq"] - 1, upto=receipt["seq"])
    assert (row.feedback_id, row.seq) == (receipt["feedback_id"], receipt["seq"])
    assert (row.kind, row.interaction_ids, row.value) == (FeedbackKind(kind), answers[:count], value)
    assert (row.user_id, row.comment, row.tags) == ("ada", "as asked", {"page": "help"})
    assert row.source is FeedbackSource.SYNTHETIC
    assert row.created_at.isoformat() == "2026-01-02T01:04:05+00:00"
    assert receipt["interaction_ids"] == answers[:count]


def test_least_that_feedback_needs(deployment: Deployment, answers: list[str]):
    body = {"kind": "binary", "interaction_id": answers[0], "value": True, "user": "eve"}
    receipt = deployment.http.post("/v1/feedback", json=body).json()
    (row,) = deployment.store.feedback(after=receipt["seq"] - 1)
    assert (row.user_id, row.source, row.tags, row.comment) == ("eve", FeedbackSource.HUMAN, {}, None)
    assert client_key(row) == receipt["idempotency_key"] == row.feedback_id


def test_feedback_can_be_replaced_and_taken_back(deployment: Deployment, answers: list[str]):
    def post(**fields: Any) -> dict[str, Any]:
        reply = deployment.http.post("/v1/feedback", json={"kind": "binary", "user_id": "ada"} | fields)
        assert reply.status_code == 201, reply.text
        return reply.json()

    first = post(interaction_id=answers[0], value=True)
    second = post(interaction_id=answers[0], value=False, supersedes=first["feedback_id"])
    third = post(supersedes=second["feedback_id"])
    rows = deployment.store.feedback(after=first["seq"] - 1)
    assert [(row.value, row.supersedes) for row in rows] == [
        (True, None),
        (False, first["feedback_id"]),
        (None, second["feedback_id"]),
    ]
    assert rows[2].feedback_id == third["feedback_id"]


def test_list_is_stored_in_order(deployment: Deployment, answers: list[str]):
    before = deployment.store.latest_seq()
    body = [{"kind": "binary", "interaction_id": name, "value": True} for name in answers]
    reply = deployment.http.post("/v1/feedback", json=body)
    assert reply.status_code == 201
    assert [receipt["seq"] for receipt in reply.json()] == list(range(before + 1, before + 5))
    assert [row.interaction_ids for row in deployment.store.feedback(after=before)] == [[name] for name in answers]


@pytest.mark.parametrize("where", ["header", "body"])
def test_same_key_and_statement_is_one_row(deployment: Deployment, answers: list[str], where: str):
    key = new_id()
    body = {"kind": "binary", "interaction_id": answers[0], "value": True}
    headers = {"Idempotency-Key": key} if where == "header" else {}
    body |= {"idempotency_key": key} if where == "body" else {}
    first, second = (deployment.http.post("/v1/feedback", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first.json()["idempotency_key"] == key
    assert deployment.store.latest_seq() == first.json()["seq"]
    other = deployment.http.post("/v1/feedback", json=body | {"value": False}, headers=headers)
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_conflict"
    assert deployment.store.latest_seq() == first.json()["seq"]


def test_same_key_from_many_clients_is_one_row(deployment: Deployment, answers: list[str]):
    body = {"kind": "binary", "interaction_id": answers[0], "value": True, "idempotency_key": new_id()}
    before = deployment.store.latest_seq()
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: deployment.http.post("/v1/feedback", json=body).json(), range(16)))
    assert all(reply == replies[0] for reply in replies)
    assert deployment.store.latest_seq() == before + 1


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no kind": ({"kind": None}, "kind"),
    "unknown kind": ({"kind": "star"}, "'binary'"),
    "no value": ({"value": None}, "supersedes"),
    "text for a thumb": ({"value": "up"}, "true or false"),
    "number for a thumb": ({"value": 1}, "true or false"),
    "no interaction": ({"interaction_id": None}, "names 0 interactions; it needs 1"),
    "empty interaction": ({"interaction_id": ""}, "interaction_id"),
    "number as interaction": ({"interaction_id": 5}, "interaction_id"),
    "interaction said twice": ({"interaction_ids": ["a"]}, "exclude each other"),
    "thumb about two": ({"interaction_id": None, "interaction_ids": ["a", "b"]}, "names 2 interactions"),
    "comparison with one": ({"kind": "comparison", "value": "first"}, "names 1 interactions; it needs 2"),
    "comparison with itself": (
        {"kind": "comparison", "interaction_id": None, "interaction_ids": ["a", "a"], "value": "first"},
        "the same interaction twice",
    ),
    "unknown side": (
        {"kind": "comparison", "interaction_id": None, "interaction_ids": ["a", "b"], "value": "third"},
        "'first', 'second' or 'tie'",
    ),
    "too few ranks": (
        {"kind": "ranking", "interaction_id": None, "interaction_ids": ["a", "b"], "value": [1]},
        "one rank per interaction",
    ),
    "rank zero": (
        {"kind": "ranking", "interaction_id": None, "interaction_ids": ["a", "b"], "value": [0, 1]},
        "from 1 (best)",
    ),
    "half a rank": (
        {"kind": "ranking", "interaction_id": None, "interaction_ids": ["a", "b"], "value": [1.5, 1]},
        "whole number",
    ),
    "rating without bounds": ({"kind": "rating", "value": 4}, "'low'"),
    "rating out of bounds": ({"kind": "rating", "value": {"score": 6, "low": 1, "high": 5}}, "low <= score <= high"),
    "rating without room": ({"kind": "rating", "value": {"score": 1, "low": 1, "high": 1}}, "low < high"),
    "huge rating": ({"kind": "rating", "value": {"score": 10**400, "low": 1, "high": 5}}, "too large"),
    "rating of text": ({"kind": "rating", "value": {"score": "4", "low": 1, "high": 5}}, "finite numbers"),
    "empty correction": ({"kind": "correction", "value": "  "}, "non-empty text"),
    "correction with NUL": ({"kind": "correction", "value": "a\x00"}, "cannot be stored"),
    "correction with half a pair": ({"kind": "correction", "value": "\ud800"}, "cannot be stored"),
    "misspelt field": ({"users": "ada"}, "users"),
    "own seq": ({"seq": 1}, "seq"),
    "unknown source": ({"source": "alien"}, "source"),
    "empty user": ({"user_id": ""}, "user_id"),
    "list of tags": ({"tags": ["a"]}, "tags"),
    "number as tag": ({"tags": {"a": 1}}, "tags.a"),
    "number as comment": ({"comment": 5}, "comment"),
    "time without zone": ({"created_at": "2026-01-01T00:00:00"}, "timezone"),
    "time that is none": ({"created_at": "yesterday"}, "created_at"),
    "time beyond reach": ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at"),
    "endless key": ({"idempotency_key": "k" * 300}, "idempotency_key"),
}


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(("change", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_feedback_is_refused_with_a_reason_and_nothing_is_stored(
    deployment: Deployment, answers: list[str], change: dict[str, Any], reason: str, as_list: bool
):
    good = {"kind": "binary", "interaction_id": answers[0], "value": True}
    bad = {name: value for name, value in (good | change).items() if value is not None}
    before = deployment.store.latest_seq()
    content = json.dumps([good, bad, good] if as_list else bad)
    reply = deployment.http.post("/v1/feedback", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422, reply.text
    assert reason in reply.json()["error"]["message"]
    assert deployment.store.latest_seq() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b"null", 422),
        (b'"up"', 422),
        (b"[1]", 422),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"kind": "rating", "value": {"score": NaN, "low": 0, "high": 1}, "interaction_id": "a"}', 422),
        (b'{"kind": "binary", "value": ' + b"[" * 5000 + b"]" * 5000 + b', "interaction_id": "a"}', 400),
    ],
)
def test_what_is_no_feedback_is_refused(deployment: Deployment, body: bytes, status: int):
    before = deployment.store.latest_seq()
    reply = deployment.http.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"]
    assert deployment.store.latest_seq() == before


@pytest.mark.parametrize("as_list", [False, True])
def test_feedback_about_nothing_known_is_not_found(deployment: Deployment, answers: list[str], as_list: bool):
    good = {"kind": "binary", "interaction_id": answers[0], "value": True}
    unknown = good | {"interaction_id": "never-answered"}
    before = deployment.store.latest_seq()
    reply = deployment.http.post("/v1/feedback", json=[good, unknown] if as_list else unknown)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "interaction_not_found"
    assert "never-answered" in reply.json()["error"]["message"]
    superseding = deployment.http.post("/v1/feedback", json=good | {"supersedes": "never-said"})
    assert superseding.status_code == 404
    assert superseding.json()["error"]["param"] == "supersedes"
    assert deployment.store.latest_seq() == before


def test_key_in_the_header_is_for_one_statement(deployment: Deployment, answers: list[str]):
    good = {"kind": "binary", "interaction_id": answers[0], "value": True}
    before = deployment.store.latest_seq()
    for body in ([good], good | {"idempotency_key": "another"}):
        reply = deployment.http.post("/v1/feedback", json=body, headers={"Idempotency-Key": "key"})
        assert reply.status_code == 422
        assert "header" in reply.json()["error"]["message"]
    assert deployment.store.latest_seq() == before
