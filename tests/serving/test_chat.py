"""Chat completions of the in-process engine, asked for by OpenAI's own clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from online_trl.types import Interaction
from serving.deployment import Deployment

QUESTION: list[Any] = [{"role": "user", "content": "Grüße aus München, how do I reset my password?"}]
DRAWN: dict[str, Any] = {
    "model": "default",
    "messages": QUESTION,
    "max_tokens": 24,
    "temperature": 0.7,
    "top_p": 0.8,
    "seed": 11,
}


def row_of(deployment: Deployment, name: str) -> Interaction:
    return deployment.store.get_interactions([name])[name]


def aclient(deployment: Deployment) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=deployment.openai.base_url, api_key="unused", max_retries=0, timeout=60)


# Log-probabilities


def test_logprobs_are_those_in_the_log_token_for_token(deployment: Deployment):
    completion = deployment.openai.chat.completions.create(**DRAWN, logprobs=True, top_logprobs=3)
    (choice,) = completion.choices
    row = row_of(deployment, completion.id)
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert [token.logprob for token in tokens] == row.logprobs
    assert len(tokens) == 24
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode(errors="replace") == (
        choice.message.content
    )
    for token in tokens:
        candidates = [candidate.logprob for candidate in token.top_logprobs]
        assert 1 <= len(candidates) <= 3
        assert candidates == sorted(candidates, reverse=True)
        assert sum(map(math.exp, candidates)) <= 1 + 1e-5
        assert token.logprob <= candidates[0]


def test_candidates_of_a_greedy_answer_begin_with_the_token_that_was_taken(deployment: Deployment):
    completion = deployment.openai.chat.completions.create(
        **DRAWN | {"temperature": 0, "n": 2}, logprobs=True, top_logprobs=20
    )
    for choice in completion.choices:
        assert choice.logprobs is not None
        for token in choice.logprobs.content or []:
            first = token.top_logprobs[0]
            assert (first.token, first.logprob, first.bytes) == (token.token, token.logprob, token.bytes)
            assert len(token.top_logprobs) == 20


def test_logprobs_without_candidates_and_no_logprobs(deployment: Deployment):
    with_tokens = deployment.openai.chat.completions.create(**DRAWN, logprobs=True).choices[0]
    assert with_tokens.logprobs is not None
    assert [token.top_logprobs for token in with_tokens.logprobs.content or []] == [[]] * 24
    assert deployment.openai.chat.completions.create(**DRAWN, logprobs=False).choices[0].logprobs is None
    with pytest.raises(openai.BadRequestError, match="`top_logprobs` needs `logprobs`"):
        deployment.openai.chat.completions.create(**DRAWN, top_logprobs=2)


def test_stream_has_the_logprobs_of_the_whole_reply(deployment: Deployment):
    whole = deployment.openai.chat.completions.create(**DRAWN, logprobs=True, top_logprobs=2).choices[0]
    with deployment.openai.chat.completions.create(**DRAWN, logprobs=True, top_logprobs=2, stream=True) as stream:
        chunks = list(stream)
    assert whole.logprobs is not None
    streamed = [
        token
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
        for token in chunk.choices[0].logprobs.content or []
    ]
    expected = whole.logprobs.content or []
    assert [token.token for token in streamed] == [token.token for token in expected]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in expected], abs=1e-4)


# The other parameters


def test_stream_ends_with_the_usage_if_asked(deployment: Deployment):
    whole = deployment.openai.chat.completions.create(**DRAWN, n=2)
    with deployment.openai.chat.completions.create(
        **DRAWN, n=2, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = stream
    assert (last.choices, last.usage) == ([], whole.usage)
    assert {chunk.usage for chunk in chunks} == {None}
    assert {chunk.system_fingerprint for chunk in [*chunks, last]} == {whole.system_fingerprint}
    with deployment.openai.chat.completions.create(**DRAWN, stream=True) as stream:
        assert all(chunk.choices for chunk in stream)


def test_async_client_gets_the_same_answers(deployment: Deployment):
    async def ask() -> tuple[str | None, str]:
        async with aclient(deployment) as client:
            whole = await client.chat.completions.create(**DRAWN, stop=["zzz"], logprobs=True, n=1, user="ada")
            stream = await client.chat.completions.create(**DRAWN, stream=True, user="ada")
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(texts)

    expected = deployment.openai.chat.completions.create(**DRAWN).choices[0].message.content
    assert asyncio.run(ask()) == (expected, expected)


def test_helper_of_the_openai_client_for_streams_puts_the_completion_together(deployment: Deployment):
    text = deployment.openai.chat.completions.create(**DRAWN).choices[0].message.content or ""
    with deployment.openai.chat.completions.stream(**DRAWN, stop=text[8:10]) as stream:
        final = stream.get_final_completion()
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (text[:8], "stop")
    assert row_of(deployment, final.id).completion == [{"role": "assistant", "content": text[:8]}]


@pytest.mark.parametrize("stream", [False, True])
def test_ids_of_all_answers_come_with_the_headers(deployment: Deployment, stream: bool):
    with deployment.openai.chat.completions.with_streaming_response.create(**DRAWN, n=3, stream=stream) as reply:
        ids = reply.headers["X-Interaction-Id"].split(", ")
        reply.read()
    rows = deployment.store.get_interactions(ids)
    assert len(rows) == 3
    assert [rows[name].sampling["seed"] for name in ids] == [11, 12, 13]


def test_aliases_are_answered_by_the_version_behind_them(deployment: Deployment):
    replies = {
        model: deployment.openai.chat.completions.create(**DRAWN | {"model": model})
        for model in ("default", "canary", "policy-0001", "policy-0002")
    }
    assert {model: reply.model for model, reply in replies.items()} == {
        "default": "policy-0001",
        "canary": "policy-0002",
        "policy-0001": "policy-0001",
        "policy-0002": "policy-0002",
    }
    prints = {reply.system_fingerprint for reply in replies.values()}
    assert len(prints) == 2
    for reply in replies.values():
        row = row_of(deployment, reply.id)
        assert row.policy_version == reply.model
        assert f"fp_{(row.weights_hash or '')[:16]}" == reply.system_fingerprint


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"messages": [{"role": "user", "content": "half \\ud800"}]}', "half of a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "Hi"}], "extra": {"half \\ud800": 1}}', "half of a surrogate"),
        (b'{"messages": [{"role": "user", "content": "Hi"}], "extra": [NaN]}', "not finite"),
        (
            b'{"messages": [{"role": "user", "content": "Hi"}], "extra": ' + b"[" * 70 + b"]" * 70 + b"}",
            "64 levels deep",
        ),
    ],
)
def test_what_nobody_could_take_is_refused_wherever_it_stands(deployment: Deployment, body: bytes, reason: str):
    before = deployment.store.latest_seq()
    reply = deployment.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]
    assert deployment.store.latest_seq() == before


# What a trainer needs


@pytest.mark.parametrize("stream", [False, True])
def test_log_holds_what_a_forward_pass_gives(deployment: Deployment, policy_folders: list[Path], stream: bool):
    body = DRAWN | {"model": "policy-0001", "n": 2, "stream": stream}
    reply = deployment.http.post("/v1/chat/completions", json=body)
    tokenizer = AutoTokenizer.from_pretrained(policy_folders[0])
    model = AutoModelForCausalLM.from_pretrained(policy_folders[0])
    for name in reply.headers["X-Interaction-Id"].split(", "):
        row = row_of(deployment, name)
        assert row.prompt_ids is not None
        assert row.completion_ids is not None
        text = tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, tokenize=False)
        assert row.prompt_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert row.logprobs == pytest.approx(_forced_logprobs(model, row), abs=1e-4)
        assert (row.sampling["temperature"], row.sampling["top_p"]) == (0.7, 0.8)
        assert row.template_hash == hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()
        assert len(row.weights_hash or "") == 64


def _forced_logprobs(model: Any, row: Interaction) -> list[float]:
    prompt, completion = row.prompt_ids or [], row.completion_ids or []
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
    probabilities = (logits / row.sampling["temperature"]).softmax(-1)
    for place in probabilities:
        likeliest = place.sort(descending=True)
        size = int((likeliest.values.cumsum(0) < row.sampling["top_p"]).sum()) + 1
        place[likeliest.indices[size:]] = 0.0
    probabilities /= probabilities.sum(-1, keepdim=True)
    return [probabilities[place, token].log().item() for place, token in enumerate(completion)]


# Conversations


def test_conversation_is_followed_by_what_was_said(deployment: Deployment):
    def ask(messages: list[Any], **fields: Any) -> tuple[Interaction, Any]:
        completion = deployment.openai.chat.completions.create(
            **DRAWN | {"messages": messages, "user": "ada"} | fields
        )
        return row_of(deployment, completion.id), completion.choices[0].message

    first, answer = ask(QUESTION)
    # As clients often do, the answer goes back with all the fields that it came with.
    messages = [*QUESTION, answer.model_dump(), {"role": "user", "content": "And then?"}]
    second, _ = ask(messages)
    again, _ = ask(messages, seed=12)
    stranger, _ = ask(messages, user="eve")
    titled, _ = ask(messages, extra_headers={"X-Purpose": "background"})
    assert (first.parent_id, first.regenerates) == (None, None)
    assert (second.session_id, second.parent_id) == (first.session_id, first.interaction_id)
    assert (again.session_id, again.parent_id) == (first.session_id, first.interaction_id)
    assert (second.regenerates, again.regenerates) == (None, second.interaction_id)
    for other in (stranger, titled):
        assert other.session_id != first.session_id
        assert (other.parent_id, other.regenerates) == (None, None)


def test_any_of_several_answers_can_be_gone_on_from(deployment: Deployment):
    several = deployment.openai.chat.completions.create(**DRAWN, n=3, user="bob")
    rows = [row_of(deployment, (choice.model_extra or {})["interaction_id"]) for choice in several.choices]
    assert [row.regenerates for row in rows] == [None] * 3
    messages = [*QUESTION, rows[1].completion[0], {"role": "user", "content": "And then?"}]
    after = deployment.openai.chat.completions.create(**DRAWN | {"messages": messages}, user="bob")
    assert row_of(deployment, after.id).parent_id == rows[1].interaction_id


def test_first_turn_is_regenerated_in_a_named_conversation(deployment: Deployment):
    ask = {"extra_headers": {"X-Session-Id": "named"}, "user": "carol"}
    first, second = (deployment.openai.chat.completions.create(**DRAWN, **ask) for _ in range(2))
    assert row_of(deployment, second.id).regenerates == first.id
    assert row_of(deployment, second.id).session_id == "named"


# The event loop


def test_health_is_told_while_an_answer_is_generated(deployment: Deployment):
    before = deployment.store.latest_seq()
    with deployment.http.stream(
        "POST", "/v1/chat/completions", json=DRAWN | {"max_tokens": 900, "stream": True, "temperature": 0}
    ) as reply:
        lines = filter(None, reply.iter_lines())
        first = json.loads(next(lines).removeprefix("data: "))
        assert deployment.http.get("/healthz").json()["policy_version"] == "policy-0001"
        # The answer is in the log once it is complete: it was not when that was told.
        assert deployment.store.latest_seq() == before
        assert list(lines)[-1] == "data: [DONE]"
    assert len(row_of(deployment, first["id"]).completion_ids or []) == 900


def test_description_tells_both_forms_of_the_reply_and_the_errors(deployment: Deployment):
    operation = deployment.http.get("/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]
    success = operation["responses"]["200"]
    assert set(success["content"]) == {"application/json", "text/event-stream"}
    assert success["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatCompletion"}
    assert "X-Interaction-Id" in success["headers"]
    assert {"400", "404", "500", "502", "503", "504"} <= set(operation["responses"])
