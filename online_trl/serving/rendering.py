"""Answers as OpenAI's clients read them: one JSON object, or a stream of events that ends with `[DONE]`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..types import Interaction
from .generation import ChatRequest, Generation, Origin, Piece
from .schemas import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    ErrorReply,
    Usage,
)

_DONE = b"data: [DONE]\n\n"


def event(content: ChatCompletionChunk | ErrorReply) -> bytes:
    """Returns one event of a stream."""
    return f"data: {content.model_dump_json()}\n\n".encode()


async def whole_reply(request: ChatRequest, answers: AsyncGenerator[Generation, None]) -> AsyncGenerator[Piece, None]:
    """
    Yields the one piece that a reply without a stream has.

    Args:
        request ([`ChatRequest`]):
            What was asked.
        answers (`AsyncGenerator[Generation, None]`):
            The whole answers, in any order.
    """
    async with aclosing(answers):
        generations = sorted([answer async for answer in answers], key=lambda answer: answer.index)
    origin = generations[0].origin
    completion = ChatCompletion(
        id=request.interaction_ids[0],
        model=origin.policy_version,
        system_fingerprint=_fingerprint(origin.weights_hash),
        choices=[
            Choice(
                index=each.index,
                message={"role": "assistant", "content": each.text},
                finish_reason=each.finish_reason,
                logprobs=_logprobs(each),
                interaction_id=request.interaction_ids[each.index],
            )
            for each in generations
        ],
        usage=Usage.of(generations),
    )
    yield Piece(completion.model_dump_json().encode(), tuple(generations))


def stored_reply(
    interaction: Interaction, *, with_text: bool = True, metadata: dict[str, str] | None = None
) -> ChatCompletion:
    """
    Returns an answer of the log as a completion with one choice.

    Args:
        interaction ([`~online_trl.types.Interaction`]):
            The answer.
        with_text (`bool`, *optional*, defaults to `True`):
            Whether to tell what was answered.
        metadata (`dict[str, str]`, *optional*):
            What was last said about it.
    """
    message = interaction.completion[0] if with_text else {"role": "assistant", "content": None}
    return ChatCompletion(
        id=interaction.interaction_id,
        created=int(interaction.created_at.timestamp()),
        model=interaction.policy_version,
        system_fingerprint=interaction.weights_hash and _fingerprint(interaction.weights_hash),
        choices=[
            Choice(
                index=0,
                message=dict(message),
                finish_reason=interaction.sampling.get("finish_reason"),
                interaction_id=interaction.interaction_id,
            )
        ],
        usage=Usage.of([interaction]),
        metadata=metadata,
    )


async def streamed_reply(
    request: ChatRequest, stretches: AsyncGenerator[Generation, None]
) -> AsyncGenerator[Piece, None]:
    """
    Yields the events of a streamed reply.

    Args:
        request ([`ChatRequest`]):
            What was asked.
        stretches (`AsyncGenerator[Generation, None]`):
            The answers stretch by stretch.
    """
    seen: list[Generation] = []
    begun: set[int] = set()
    created = int(time.time())
    async with aclosing(stretches):
        async for stretch in stretches:
            choice = _chunk_choice(request, stretch, begins=stretch.index not in begun)
            seen.append(stretch)
            begun.add(stretch.index)
            yield Piece(event(_chunk(request, stretch.origin, created, [choice])), (stretch,))
    if request.include_usage:
        yield Piece(event(_chunk(request, seen[0].origin, created, [], Usage.of(seen))))
    yield Piece(_DONE)


def _chunk(
    request: ChatRequest, origin: Origin, created: int, choices: list[ChunkChoice], usage: Usage | None = None
) -> ChatCompletionChunk:
    return ChatCompletionChunk(
        id=request.interaction_ids[0],
        created=created,
        model=origin.policy_version,
        system_fingerprint=_fingerprint(origin.weights_hash),
        choices=choices,
        usage=usage,
    )


def _chunk_choice(request: ChatRequest, stretch: Generation, *, begins: bool) -> ChunkChoice:
    return ChunkChoice(
        index=stretch.index,
        delta={"role": "assistant", "content": stretch.text} if begins else {"content": stretch.text},
        finish_reason=stretch.finish_reason,
        logprobs=_logprobs(stretch),
        interaction_id=request.interaction_ids[stretch.index],
    )


def _logprobs(stretch: Generation) -> ChoiceLogprobs | None:
    return None if stretch.tokens is None else ChoiceLogprobs(content=stretch.tokens)


def _fingerprint(weights_hash: str | None) -> str:
    assert weights_hash is not None, "an engine in this process knows its weights"
    return f"fp_{weights_hash[:16]}"
