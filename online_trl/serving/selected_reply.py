"""
A reply with some of the answers of another: the engine gave candidates, and the client gets one or two of them.

What the engine wrote about the answers goes on as it is, whichever engine it was; a stream has each answer in one
event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .generation import ChatRequest, Generation, Piece, TokenCount
from .schemas import Usage

ASKED = "asked"
"""Marks a reply whose answers are there to be compared."""


def selected_reply(
    request: ChatRequest,
    wire: bytes,
    answers: Sequence[Generation],
    *,
    is_comparison: bool,
    stream: bool,
    include_usage: bool,
    token_count: TokenCount | None = None,
) -> tuple[Piece, ...]:
    """
    Returns the pieces of the reply.

    Args:
        request ([`~online_trl.serving.generation.ChatRequest`]):
            What the engine was asked for.
        wire (`bytes`):
            Its reply, with all candidates, as one JSON object.
        answers (`Sequence[Generation]`):
            The whole answers that the client gets, in their order.
        is_comparison (`bool`):
            Whether they are there to be compared.
        stream (`bool`), include_usage (`bool`):
            How the reply is written.
        token_count ([`~online_trl.serving.generation.TokenCount`], *optional*):
            That of the engine's reply.
    """
    completion = _completion(request, json.loads(wire), answers)
    if is_comparison:
        completion["comparison"] = ASKED
    selected = tuple(replace(answer, index=place) for place, answer in enumerate(answers))
    if stream:
        return (*_events(completion, selected, include_usage), Piece(b"data: [DONE]\n\n", token_count=token_count))
    return (Piece(json.dumps(completion).encode(), selected, token_count),)


def _completion(request: ChatRequest, completion: Mapping[str, Any], answers: Sequence[Generation]) -> dict[str, Any]:
    candidates = {choice.get("index") or 0: choice for choice in completion["choices"]}
    choices = [candidates[answer.index] | {"index": place} for place, answer in enumerate(answers)]
    selected = {**completion, "choices": choices}
    if completion.get("id") == request.interaction_ids[0]:
        selected["id"] = request.interaction_ids[answers[0].index]
    if all(answer.prompt_ids and answer.completion_ids for answer in answers):
        selected["usage"] = Usage.of(answers).model_dump()
    return selected


def _events(completion: Mapping[str, Any], answers: Sequence[Generation], include_usage: bool) -> Iterator[Piece]:
    common = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    common["object"] = "chat.completion.chunk"
    for choice, answer in zip(completion["choices"], answers, strict=True):
        grown = {name: value for name, value in choice.items() if name != "message"} | {"delta": choice["message"]}
        yield Piece(_event({**common, "choices": [grown]}), (answer,))
    if include_usage:
        yield Piece(_event({**common, "choices": [], "usage": completion.get("usage")}))


def _event(content: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
