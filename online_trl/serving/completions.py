"""
Chat completions: the engine's answers, each in the log before its reply is complete.

So feedback about a complete answer never arrives before the answer itself. A stream that the client cuts is kept as
what was sent.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.to_thread import run_sync

from ..store import FeedbackStore
from ..types import Interaction, Purpose, new_id
from .engine import Engine, Generation, GenerationRequest
from .schemas import (
    ANONYMOUS,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChunkChoice,
    Usage,
)

CANCELLED = "cancelled"
"""Stands in the log as the finish reason of an answer that the client did not wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """
    What an answer is part of.

    Args:
        session_id (`str`):
            Conversation the answer belongs to.
        purpose ([`~online_trl.types.Purpose`]):
            Why the answer is asked for.
    """

    session_id: str
    purpose: Purpose


class Completions:
    """
    Answers chat completion requests and records what was answered.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log.
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.
    """

    def __init__(self, store: FeedbackStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    async def complete(self, body: ChatCompletionRequest, occasion: Occasion) -> ChatCompletion:
        """
        Returns the whole reply, after its answers are in the log.

        Raises:
            [`~online_trl.serving.engine.EngineError`]: if there is no answer.
        """
        request, user_id = body.generation_request(self._engine.default_version), body.user or ANONYMOUS
        generations = await self._engine.generate(request)
        answers = [_Answer(request, user_id, occasion, [generation]) for generation in generations]
        await self._record(answers)
        return ChatCompletion(
            id=answers[0].interaction_id,
            model=request.policy_version,
            choices=[answer.choice() for answer in answers],
            usage=Usage.of(generations),
        )

    async def stream(
        self, body: ChatCompletionRequest, occasion: Occasion
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        """
        Yields the reply chunk by chunk; the last chunk of each answer comes after the answer is in the log. When the
        generator is closed or cancelled before, what was yielded is put into the log.

        Raises:
            [`~online_trl.serving.engine.EngineError`]: before the first chunk if there is no answer, later if it
                breaks off.
        """
        request, user_id = body.generation_request(self._engine.default_version), body.user or ANONYMOUS
        answers = [_Answer(request, user_id, occasion) for _ in range(request.n)]
        created = int(time.time())
        try:
            async with aclosing(self._engine.stream(request)) as stretches:
                async for stretch in stretches:
                    answer = answers[stretch.index]
                    delta = answer.take(stretch)
                    if stretch.finish_reason is not None:
                        await self._record([answer])
                    yield ChatCompletionChunk(
                        id=answers[0].interaction_id, created=created, model=request.policy_version, choices=[delta]
                    )
        finally:
            with anyio.CancelScope(shield=True):
                await self._record([answer for answer in answers if answer.is_cut])

    async def _record(self, answers: Sequence[_Answer]) -> None:
        if answers:
            await run_sync(self._store.add_interactions, [answer.interaction() for answer in answers])
            for answer in answers:
                answer.recorded = True


@dataclass(eq=False)
class _Answer:
    """One answer on its way to the client and into the log."""

    request: GenerationRequest
    user_id: str
    occasion: Occasion
    stretches: list[Generation] = field(default_factory=list)
    interaction_id: str = field(default_factory=new_id)
    recorded: bool = False

    @property
    def is_cut(self) -> bool:
        return bool(self.stretches) and not self.recorded

    def take(self, stretch: Generation) -> ChunkChoice:
        delta = {"content": stretch.text} if self.stretches else {"role": "assistant", "content": stretch.text}
        self.stretches.append(stretch)
        return ChunkChoice(
            index=stretch.index,
            delta=delta,
            finish_reason=stretch.finish_reason,
            interaction_id=self.interaction_id,
        )

    def choice(self) -> Choice:
        generation = Generation.joined(self.stretches)
        return Choice(
            index=generation.index,
            message={"role": "assistant", "content": generation.text},
            finish_reason=generation.finish_reason,
            interaction_id=self.interaction_id,
        )

    def interaction(self) -> Interaction:
        generation = Generation.joined(self.stretches)
        return Interaction(
            prompt=self.request.messages,
            completion=[{"role": "assistant", "content": generation.text}],
            policy_version=self.request.policy_version,
            session_id=self.occasion.session_id,
            user_id=self.user_id,
            purpose=self.occasion.purpose,
            sampling=self._sampling(generation),
            prompt_ids=generation.prompt_ids,
            completion_ids=generation.completion_ids,
            logprobs=generation.logprobs,
            interaction_id=self.interaction_id,
        )

    def _sampling(self, generation: Generation) -> dict[str, Any]:
        sampling = self.request.sampling
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": self.request.seed_of(generation.index),
            "stop": list(sampling.stop),
            "finish_reason": generation.finish_reason or CANCELLED,
        }
