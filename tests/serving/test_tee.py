from __future__ import annotations

import json
from typing import Any

import pytest

from online_trl.serving.engine import UpstreamError
from online_trl.serving.generation import ChatRequest, Generation, GenerationRequest
from online_trl.serving.tee import Tee

DONE = b"data: [DONE]\n\n"
SAID = {"choices": [{"index": 0, "delta": {"content": "Good"}}]}


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def tee() -> Tee:
    asked = GenerationRequest(messages=[{"role": "user", "content": "How?"}], policy_version="big")
    return Tee(ChatRequest(generation=asked, interaction_ids=("answer",), body={}, stream=True))


def read(*events: bytes) -> Generation:
    """Returns the answer that a stream carries, of which every byte has to be passed on."""
    reader = tee()
    pieces = [reader.event(each) for each in events]
    assert [piece.wire for piece in pieces] == list(events)
    return Generation.joined([stretch for piece in pieces for stretch in piece.stretches])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": None, "usage": {}}, "Good"),
        ({"choices": [{"index": 0, "delta": None}]}, "Good"),
        ({"choices": [{"index": None, "delta": {"content": " day"}}]}, "Good day"),
        ({"choices": [{"delta": {"content": [{"type": "text", "text": " day"}, {"type": "image"}]}}]}, "Good day"),
        ({"choices": [{"delta": {"content": " day"}, "logprobs": {"content": [{"logprob": None}]}}]}, "Good day"),
        ({"choices": [{"delta": {"content": " day"}, "token_ids": "none"}], "model": [], "id": {}}, "Good day"),
    ],
)
def test_what_servers_send_differently_is_passed_on_and_read(
    body: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
):
    answer = read(event(SAID), event(body), DONE)
    assert (answer.text, answer.finish_reason, answer.logprobs) == (text, "stop", None)
    assert caplog.records == []


def test_number_as_an_id_is_a_name():
    assert read(event({"id": 7} | SAID), DONE).origin.upstream_id == "7"


@pytest.mark.parametrize("body", [b"data: <secret>\n\n", event({"choices": [{"index": -1, "delta": "secret"}]})])
def test_event_that_cannot_be_read_is_passed_on_once_the_reply_has_begun(
    body: bytes, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(UpstreamError, match="is no chat completion"):
        tee().event(body)
    assert read(event(SAID), body, DONE).text == "Good"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "passed on" in record.getMessage()
    assert "secret" not in record.getMessage()


@pytest.mark.parametrize(
    ("message", "text"),
    [(None, ""), ({"content": [{"type": "text", "text": "Good"}, {"type": "text", "text": " day"}]}, "Good day")],
)
def test_whole_reply_is_read_whatever_its_message_is(message: dict[str, Any] | None, text: str):
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    piece = tee().whole(body)
    assert (piece.wire, [stretch.text for stretch in piece.stretches]) == (body, [text])


@pytest.mark.parametrize("choices", [None, []])
def test_whole_reply_without_a_choice_is_none(choices: list[Any] | None):
    with pytest.raises(UpstreamError, match="without an answer"):
        tee().whole(json.dumps({"choices": choices}).encode())
