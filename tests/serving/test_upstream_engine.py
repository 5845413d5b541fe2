from __future__ import annotations

import asyncio
import functools
import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from online_trl.config import ConfigError
from online_trl.serving.app import create_app
from online_trl.serving.process import ServerProcess, ServerStartError
from online_trl.serving.upstream_engine import UpstreamEngine
from online_trl.store import FeedbackStore
from online_trl.types import Interaction, Purpose
from serving.upstream import STREAM, Script, scripted_upstream

QUESTION = [{"role": "user", "content": "How do I reset my password?"}]
ASK: dict[str, Any] = {"messages": QUESTION}


@dataclass(frozen=True)
class Front:
    """Our server before another one."""

    store: FeedbackStore
    server: ServerProcess
    http: httpx.Client
    openai: openai.OpenAI
    script: Script

    def rows(self, reply: httpx.Response) -> list[Interaction]:
        """Returns what was stored of a reply, in the order of its answers."""
        ids = reply.headers["X-Interaction-Id"].split(", ")
        stored = self.store.get_interactions(ids)
        return [stored[name] for name in ids]

    def ask(self, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=ASK | fields)


def front(stack: ExitStack, folder: Path, script: Script, **options: Any) -> Front:
    store_url = f"sqlite:///{folder}/feedback.db"
    server = stack.enter_context(ServerProcess(store_url=store_url, log=folder / "server.log", **options))
    return Front(
        store=stack.enter_context(FeedbackStore(store_url)),
        server=server,
        http=stack.enter_context(httpx.Client(base_url=server.url, timeout=60)),
        openai=stack.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key="the client's", max_retries=0)),
        script=script,
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, real_upstream: dict[str, str]) -> Iterator[Front]:
    """Our server before `transformers serve`."""
    with ExitStack() as stack:
        yield front(stack, tmp_path_factory.mktemp("real"), Script(), **real_upstream)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Our server before a scripted one, which is asked for token ids as vLLM is."""
    with ExitStack() as stack:
        url, script = stack.enter_context(scripted_upstream())
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("ONLINE_TRL_UPSTREAM_API_KEY", "the server's")
        yield front(stack, tmp_path_factory.mktemp("scripted"), script, upstream=url, upstream_token_ids=True)


# `transformers serve` behind it


def test_answer_of_transformers_serve_goes_through_and_into_the_log(real: Front, policy_folders: list[Path]):
    raw = real.openai.chat.completions.with_raw_response.create(
        model="default",
        messages=QUESTION,
        max_tokens=12,
        temperature=0.7,
        seed=5,
        user="ada",
        extra_headers={"X-Session-Id": "session-1"},
    )
    completion = raw.parse()
    name = raw.headers["X-Interaction-Id"]
    row = real.store.get_interactions([name])[name]
    assert row.completion == [{"role": "assistant", "content": completion.choices[0].message.content}]
    assert (row.prompt, row.user_id, row.session_id) == (QUESTION, "ada", "session-1")
    assert row.upstream_id == completion.id != name
    assert row.policy_version == completion.model == f"{policy_folders[0]}@main"
    assert row.sampling == {"temperature": 0.7, "max_tokens": 12, "seed": 5, "finish_reason": "length"}
    assert (row.prompt_ids, row.completion_ids, row.logprobs, row.weights_hash) == (None, None, None, None)


def test_stream_of_transformers_serve_is_in_the_log_before_it_ends(real: Front):
    for purpose in Purpose:
        with real.http.stream(
            "POST",
            "/v1/chat/completions",
            json=ASK | {"stream": True, "max_tokens": 12},
            headers={"X-Purpose": purpose.value},
        ) as reply:
            text = ""
            for line in filter(None, reply.iter_lines()):
                chunk = json.loads(line.removeprefix("data: "))
                text += chunk["choices"][0]["delta"].get("content") or ""
                if chunk["choices"][0].get("finish_reason") is not None:
                    (row,) = real.rows(reply)
        assert row.completion == [{"role": "assistant", "content": text}]
        assert (row.upstream_id, row.purpose) == (chunk["id"], purpose)
        assert row.sampling == {"max_tokens": 12, "finish_reason": "length"}


def test_openai_client_streams_through_to_transformers_serve(real: Front):
    with real.openai.chat.completions.create(
        model="canary", messages=QUESTION, max_tokens=8, stream=True, user="bob"
    ) as stream:
        chunks = list(stream)
    (row,) = [row for row in real.store.interactions(newest_first=True, limit=1) if row.user_id == "bob"]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text
    assert row.completion[0]["content"] == text


def test_conversation_with_transformers_serve_is_followed(real: Front):
    first = real.ask(max_tokens=6, user="eve")
    reply = first.json()["choices"][0]["message"]
    second = real.ask(max_tokens=6, user="eve", messages=[*QUESTION, reply, {"role": "user", "content": "And?"}])
    (one,), (two,) = real.rows(first), real.rows(second)
    assert (two.session_id, two.parent_id) == (one.session_id, one.interaction_id)


def test_what_transformers_serve_refuses_is_refused_in_its_words(real: Front):
    before = real.store.latest_seq()
    reply = real.ask(model="another")
    assert reply.status_code == 400
    assert "requested 'another'" in reply.json()["detail"]
    assert real.store.latest_seq() == before


def test_server_before_another_needs_no_torch(real: Front):
    maps = Path(f"/proc/{real.server.process.pid}/maps").read_text()
    assert "sqlite" in maps
    assert "libtorch" not in maps


def test_health_and_models_name_the_upstream_model(real: Front, scripted: Front, policy_folders: list[Path]):
    assert real.http.get("/healthz").json()["policy_version"] == str(policy_folders[0])
    assert [model.id for model in real.openai.models.list()] == ["default", "canary", str(policy_folders[0])]
    models = scripted.openai.models.list().data
    assert [model.id for model in models] == ["default", "canary", "big", "small"]
    assert [model.created for model in models] == [1700000000, 1700000000, 1700000000, 0]


# Bytes unchanged, and read beside it


def chunk(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "big-2026"} | fields).encode() + b"\n\n"


def delta(content: str | None = None, *, index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": {"content": content}, "finish_reason": finish} | fields


def token(logprob: float) -> dict[str, Any]:
    return {"token": "t", "logprob": logprob, "bytes": None, "top_logprobs": []}


ROLE = b'data: {"id":"chatcmpl-1","model":"big-2026","choices":[{"index":0,"delta":{"role":"assistant"}}]}\r\n\r\n'
COMMENT = b": keep-alive\n\n"
SPLIT = b'data: {"id": "chatcmpl-1", "model": "big-2026",\ndata: "choices": [{"delta": {"content": "G\\u00fc"}}]}\n\n'
REST = 'event: message\ndata:{"choices":[{"index":0,"delta":{"content":"ltig\u2028 ✓"}}]}\n\n'.encode()
FINISH = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "x": 1.50}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_stream_goes_through_unchanged_and_is_read(scripted: Front, size: int):
    whole = ROLE + COMMENT + SPLIT + REST + FINISH + USAGE + DONE
    scripted.script.streams(*(whole[start : start + size] for start in range(0, len(whole), size)))
    reply = scripted.ask(stream=True)
    assert reply.content == whole
    assert reply.headers["Content-Type"] == STREAM
    (row,) = scripted.rows(reply)
    assert row.completion == [{"role": "assistant", "content": "Gültig\u2028 ✓"}]
    assert (row.upstream_id, row.policy_version) == ("chatcmpl-1", "big-2026")
    assert row.sampling == {"finish_reason": "stop"}


def test_whole_reply_goes_through_unchanged_and_is_read(scripted: Front):
    body = (
        b'{ "id":"c-1", "choices":[{"message":{"role":"assistant","content":"Gut"},"finish_reason":null}], "x": 1.50}'
    )
    scripted.script.says(body)
    reply = scripted.ask(temperature=0.5)
    assert reply.content == body
    (row,) = scripted.rows(reply)
    assert row.completion == [{"role": "assistant", "content": "Gut"}]
    assert (row.upstream_id, row.policy_version) == ("c-1", "big")
    assert row.sampling == {"temperature": 0.5, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": [{"message": {"content": "Hi", "score": math.nan}}]},
        {"choices": [{"message": {"content": "Hi"}, "token_ids": [7], "logprobs": {"content": [token(-math.inf)]}}]},
        {"choices": [{"message": {"content": "Hi"}}], "model": "a\x00", "id": "b\x00"},
        {"choices": [{"message": {"content": "Hi", "refusal": "\ud83d"}}]},
        {
            "choices": [
                {"message": {"content": "Hi", "deep": functools.reduce(lambda inner, _: [inner], range(300), 1)}}
            ]
        },
        {"choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 10**400}},
    ],
    ids=["no number", "no finite logprob", "NUL in a name", "half of a pair", "too deep", "too many tokens"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_log_cannot_keep_does_not_cost_the_client_its_reply(
    scripted: Front, fields: dict[str, Any], stream: bool
):
    body = json.dumps(fields).encode()
    if stream:
        body = b"data: " + body.replace(b'"message"', b'"delta"') + b"\n\n"
        scripted.script.streams(body, DONE)
    else:
        scripted.script.says(body)
    reply = scripted.ask(stream=stream)
    assert reply.content == body + (DONE if stream else b"")
    (row,) = scripted.rows(reply)
    assert (row.completion[0]["content"], row.policy_version) == ("Hi", "big")
    assert row.logprobs is row.upstream_id is None


def test_only_the_answers_that_an_upstream_gave_are_named(scripted: Front):
    scripted.script.says(b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}')
    whole = scripted.ask(n=2)
    assert len(scripted.rows(whole)) == 1
    scripted.script.streams(chunk(choices=[delta("Hi", finish="stop")]), DONE)
    streamed = scripted.ask(n=2, stream=True)
    answer, never = streamed.headers["X-Interaction-Id"].split(", ")
    for reply, name in ((whole, whole.headers["X-Interaction-Id"]), (streamed, answer)):
        thumb = {"kind": "binary", "interaction_id": name, "value": True}
        assert scripted.http.post(reply.headers["X-Feedback-Url"], json=thumb).status_code == 201
    assert never not in scripted.store.get_interactions([never])


def test_end_that_is_not_told_is_known_by_the_end_of_the_stream(scripted: Front):
    scripted.script.streams(ROLE, SPLIT, DONE)
    reply = scripted.ask(stream=True)
    (row,) = scripted.rows(reply)
    assert (row.completion[0]["content"], row.sampling) == ("Gü", {"finish_reason": "stop"})


@pytest.mark.parametrize("ending", [FINISH, DONE])
def test_end_is_held_back_until_the_answer_is_in_the_log(scripted: Front, ending: bytes):
    for _ in range(5):
        scripted.script.streams(ROLE + SPLIT + ending)
        with scripted.http.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply:
            received = b""
            for part in reply.iter_raw():
                received += part
                if ending in received:
                    assert len(scripted.rows(reply)) == 1
        assert received.endswith(ending)


def test_token_ids_of_vllm_are_kept_as_they_were_sampled(scripted: Front):
    scripted.script.says(
        json.dumps(
            {
                "id": "chatcmpl-9",
                "model": "big",
                "prompt_token_ids": [1, 2, 3],
                "choices": [
                    {
                        "index": index,
                        "message": {"role": "assistant", "content": text, "tool_calls": []},
                        "logprobs": {"content": [token(-0.5), token(-0.25)]},
                        "finish_reason": "stop",
                        "token_ids": [7 + index, 8],
                    }
                    for index, text in enumerate(["Good", "Fine"])
                ],
            }
        ).encode()
    )
    rows = scripted.rows(scripted.ask(n=2))
    assert [row.prompt_ids for row in rows] == [[1, 2, 3]] * 2
    assert [row.completion_ids for row in rows] == [[7, 8], [8, 8]]
    assert [row.logprobs for row in rows] == [[-0.5, -0.25]] * 2
    assert [row.completion[0]["content"] for row in rows] == ["Good", "Fine"]
    assert {row.upstream_id for row in rows} == {"chatcmpl-9"}
    assert len({row.session_id for row in rows}) == 1


def test_token_ids_of_a_stream_of_vllm_are_kept_as_they_were_sampled(scripted: Front):
    scripted.script.streams(
        chunk(choices=[delta("", index=0), delta("", index=1)], prompt_token_ids=[1, 2, 3]),
        chunk(choices=[delta("Go", token_ids=[7], logprobs={"content": [token(-0.5)]})]),
        chunk(choices=[delta("Fine", index=1, token_ids=[5], logprobs={"content": [token(-2.0)]}, finish="length")]),
        chunk(choices=[delta("od", token_ids=[8, 9], logprobs={"content": [token(-1.0), token(-0.125)]})]),
        chunk(choices=[delta("", token_ids=[2], logprobs={"content": [token(-0.0625)]}, finish="stop")]),
        DONE,
    )
    rows = scripted.rows(scripted.ask(n=2, stream=True))
    assert [row.prompt_ids for row in rows] == [[1, 2, 3]] * 2
    assert [row.completion_ids for row in rows] == [[7, 8, 9, 2], [5]]
    assert [row.logprobs for row in rows] == [[-0.5, -1.0, -0.125, -0.0625], [-2.0]]
    assert [row.completion[0]["content"] for row in rows] == ["Good", "Fine"]
    assert [row.sampling["finish_reason"] for row in rows] == ["stop", "length"]


def test_logprobs_without_their_tokens_are_not_kept(scripted: Front):
    scripted.script.streams(
        chunk(choices=[delta("Go", token_ids=[7, 8], logprobs={"content": [token(-0.5)]}, finish="stop")]), DONE
    )
    (row,) = scripted.rows(scripted.ask(stream=True))
    assert (row.completion_ids, row.logprobs) == ([7, 8], None)


def test_tool_calls_are_kept_from_a_stream_and_from_a_whole_reply(scripted: Front):
    call = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    first, second = '{"at"', ": 1}"
    begin = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "look", "arguments": first}}
    go_on = {"index": 0, "function": {"arguments": second}}
    tools = [{"type": "function", "function": {"name": "look"}}]
    scripted.script.streams(
        chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": None, "tool_calls": [begin]}}]),
        chunk(choices=[{"index": 0, "delta": {"tool_calls": [go_on]}, "finish_reason": "tool_calls"}]),
        DONE,
    )
    (streamed,) = scripted.rows(scripted.ask(stream=True, tools=tools, user="tool user"))
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    scripted.script.says(json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode())
    (whole,) = scripted.rows(scripted.ask(tools=tools))
    assert streamed.completion == whole.completion == [{"role": "assistant", "content": "", "tool_calls": [call]}]
    result = {"role": "tool", "tool_call_id": "call-1", "content": "seen"}
    (after,) = scripted.rows(scripted.ask(messages=[*QUESTION, message, result], user="tool user"))
    assert after.parent_id == streamed.interaction_id
    assert after.prompt == [*QUESTION, message | {"content": ""}, result]


# What goes to the upstream server


def test_request_goes_on_as_it_came_with_the_model_and_our_own_key(scripted: Front):
    body = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        "model": "default",
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "stop": "end",
        "temperature": None,
        "max_completion_tokens": 9,
        "unheard_of": [1, {"a": None}],
    }
    scripted.script.says(b'{"choices": [{"message": {"content": "A cat"}}]}')
    reply = scripted.http.post(
        "/v1/chat/completions", json=body, headers={"Authorization": "Bearer client", "X-Other": "1"}
    )
    ((path, headers, sent),) = scripted.script.requests
    assert path == "/v1/chat/completions"
    assert json.loads(sent) == body | {"model": "big", "return_token_ids": True, "logprobs": True}
    assert headers["authorization"] == "Bearer the server's"
    assert "x-other" not in headers
    (row,) = scripted.rows(reply)
    assert row.prompt == body["messages"]
    assert row.sampling == {"max_completion_tokens": 9, "stop": "end", "finish_reason": "stop"}


def test_model_that_is_no_alias_goes_on_as_it_came(scripted: Front):
    scripted.script.says(b'{"choices": [{"message": {"content": "Hi"}}]}')
    (row,) = scripted.rows(scripted.ask(model="small"))
    ((_, _, sent),) = scripted.script.requests
    assert json.loads(sent)["model"] == row.policy_version == "small"


def test_client_that_hangs_up_cancels_the_request_and_leaves_what_was_sent(scripted: Front):
    scripted.script.streams(ROLE + SPLIT, *[COMMENT * 1000] * 1000)
    scripted.script.go_on.clear()
    with scripted.http.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply:
        received = b""
        for part in reply.iter_raw():
            received += part
            if SPLIT in received:
                break
    scripted.script.go_on.set()
    assert scripted.script.hung_up.wait(60)
    name = reply.headers["X-Interaction-Id"]
    deadline = time.monotonic() + 60
    while not (rows := scripted.store.get_interactions([name])) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert rows[name].completion[0]["content"] == "Gü"
    assert rows[name].sampling == {"finish_reason": "cancelled"}


def test_client_that_hangs_up_before_a_whole_reply_cancels_the_request(scripted: Front):
    before = scripted.store.latest_seq()
    scripted.script.says(b"{", *[b" " * 100_000] * 1000)
    scripted.script.go_on.clear()
    connection = HTTPConnection(scripted.http.base_url.host, scripted.http.base_url.port)
    connection.request("POST", "/v1/chat/completions", json.dumps(ASK), {"Content-Type": "application/json"})
    while not scripted.script.requests:
        time.sleep(0.02)
    connection.close()
    scripted.script.go_on.set()
    assert scripted.script.hung_up.wait(60)
    assert scripted.store.latest_seq() == before


# What can go wrong


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "headers"), [(400, {}), (404, {}), (429, {"Retry_After": "7"}), (500, {}), (503, {})]
)
def test_refusal_goes_through(scripted: Front, status: int, headers: dict[str, str], stream: bool):
    before = scripted.store.latest_seq()
    scripted.script.says(b'{"error":  "no"}', status=status, **headers)
    reply = scripted.ask(stream=stream)
    assert (reply.status_code, reply.content) == (status, b'{"error":  "no"}')
    assert reply.headers.get("Retry-After") == headers.get("Retry_After")
    assert scripted.store.latest_seq() == before


BROKEN: dict[str, tuple[bytes, int, str]] = {
    "our key": (b"{}", 401, "does not accept this server's key for it; set ONLINE_TRL_UPSTREAM_API_KEY"),
    "no JSON": (b"<html>", 200, "is no chat completion: b'<html>'"),
    "another JSON": (b'{"choices": "none"}', 200, "is no chat completion"),
    "no choices": (b'{"choices": []}', 200, "without an answer"),
}


@pytest.mark.parametrize(("body", "status", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_reply_that_is_none_is_a_bad_gateway(scripted: Front, body: bytes, status: int, reason: str):
    before = scripted.store.latest_seq()
    scripted.script.says(body, status=status)
    reply = scripted.ask()
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_failed"
    assert reason in reply.json()["error"]["message"]
    assert scripted.store.latest_seq() == before


def test_reply_that_is_no_stream_is_a_bad_gateway(scripted: Front):
    scripted.script.says(b'{"choices": [{"message": {"content": "Hi"}}]}')
    reply = scripted.ask(stream=True)
    assert reply.status_code == 502
    assert "request for a stream with something else" in reply.json()["error"]["message"]


def test_stream_that_breaks_off_ends_in_an_error_and_is_kept(scripted: Front):
    scripted.script.streams(ROLE, SPLIT, breaks_off=True)
    reply = scripted.ask(stream=True)
    assert reply.content.startswith(ROLE + SPLIT)
    error = json.loads(reply.content.removeprefix(ROLE + SPLIT).removeprefix(b"data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "upstream_failed")
    assert "peer closed connection" in error["message"]
    (row,) = scripted.rows(reply)
    assert row.completion[0]["content"] == "Gü"
    assert row.sampling == {"finish_reason": "cancelled"}


def test_whole_reply_that_breaks_off_is_a_bad_gateway(scripted: Front):
    before = scripted.store.latest_seq()
    scripted.script.says(b'{"choices": [', breaks_off=True)
    assert scripted.ask().status_code == 502
    assert scripted.store.latest_seq() == before


def test_silent_upstream_is_a_gateway_timeout_and_an_absent_one_a_bad_gateway(tmp_path: Path):
    async def ask(url: str, store: FeedbackStore) -> httpx.Response:
        engine = UpstreamEngine(url, model="big", read_seconds=0.2)
        await engine.start()
        transport = httpx.ASGITransport(create_app(store=store, engine=engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            reply = await client.post("/v1/chat/completions", json=ASK)
        await engine.stop()
        return reply

    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        with scripted_upstream() as (url, script):
            script.says(b"{", b"}")
            script.go_on.clear()
            silent = asyncio.run(ask(url, store))
        absent = asyncio.run(ask(url, store))
        assert store.latest_seq() == 0
    assert (silent.status_code, silent.json()["error"]["code"]) == (504, "upstream_timeout")
    assert silent.json()["error"]["message"] == f"the upstream server {url} did not answer in time"
    assert (absent.status_code, absent.json()["error"]["code"]) == (502, "upstream_failed")
    assert "All connection attempts failed" in absent.json()["error"]["message"]


def test_server_whose_upstream_cannot_be_asked_for_its_model_does_not_start(tmp_path: Path):
    with scripted_upstream() as (url, _):
        pass
    server = ServerProcess(store_url=f"sqlite:///{tmp_path}/feedback.db", log=tmp_path / "log", upstream=url)
    with pytest.raises(ServerStartError, match=f"error: the upstream server {url} failed"):
        server.start()


def test_upstream_that_is_no_url_is_refused():
    with pytest.raises(ConfigError, match="localhost:8001 is not the URL of a server"):
        UpstreamEngine("localhost:8001")
