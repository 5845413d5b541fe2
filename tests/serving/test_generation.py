from __future__ import annotations

from typing import Any

from online_trl.serving.generation import Generation, GenerationRequest, Origin, Sampling, merge_fields

MESSAGES = [{"role": "user", "content": "Hi"}]
ORIGIN = Origin(policy_version="policy-0001", sampling={"seed": 3})


def test_stretches_join_to_the_answer():
    first = Generation(
        text="Good ", origin=ORIGIN, prompt_ids=[1, 2], completion_ids=[7, 8], logprobs=[-0.5, -1.0], index=3
    )
    last = Generation(text="day", origin=ORIGIN, completion_ids=[9], logprobs=[-2.0], finish_reason="stop", index=3)
    assert Generation.joined([first, last]) == Generation(
        text="Good day",
        origin=ORIGIN,
        prompt_ids=[1, 2],
        completion_ids=[7, 8, 9],
        logprobs=[-0.5, -1.0, -2.0],
        finish_reason="stop",
        index=3,
    )
    assert Generation.joined([first]).finish_reason is None


def test_each_answer_has_its_own_seed():
    request = GenerationRequest(messages=MESSAGES, policy_version="policy-0001", sampling=Sampling(seed=5), n=3)
    assert [request.seed_of(index) for index in range(3)] == [5, 6, 7]
    assert GenerationRequest(messages=MESSAGES, policy_version="policy-0001").seed_of(2) is None


def test_what_is_not_known_of_any_stretch_is_not_known_of_the_answer():
    role = Generation(text="", origin=ORIGIN, prompt_ids=[1, 2])
    rest = Generation(text="Good day", origin=ORIGIN, finish_reason="stop")
    joined = Generation.joined([role, rest])
    assert (joined.prompt_ids, joined.completion_ids, joined.logprobs, joined.tokens) == ([1, 2], None, None, None)


def test_fields_of_a_message_grow_with_its_stream():
    fields: dict[str, Any] = {}
    for delta in (
        {"reasoning_content": "Let me "},
        {"reasoning_content": "see.", "refusal": None},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "1"}}]},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"arguments": "}"}}]},
    ):
        merge_fields(fields, delta)
    assert fields == {
        "reasoning_content": "Let me see.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "1"}},
        ],
    }
