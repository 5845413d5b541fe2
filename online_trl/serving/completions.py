"""
Chat completions: the engine's answers, each in the log before its reply is complete.

So feedback about a complete answer never arrives before the answer itself. A stream that the client cuts is kept as
what was sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from anyio.to_thread import run_sync

from ..store import FeedbackStore, Turn
from ..types import ANONYMOUS, CANCELLED, COMPARISON, Interaction, Message, Purpose, new_id
from .arrivals import Arrivals
from .comparisons import Comparisons, Offer
from .engine import DEFAULT_MODEL, Engine
from .generation import Generation
from .observation import see
from .schemas import ChatCompletionRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """
    What an answer is part of.

    Args:
        session_id (`str`, *optional*):
            Conversation that the client names.
        purpose ([`~online_trl.types.Purpose`]):
            Why the answer is asked for.
        welcomes_comparison (`bool`, *optional*, defaults to `False`):
            Whether the client can show two answers where it asks for one, and have them compared.
    """

    session_id: str | None
    purpose: Purpose
    welcomes_comparison: bool = False

    @property
    def may_be_asked(self) -> bool:
        """Whether there is somebody who may be asked which of two answers is better."""
        return self.welcomes_comparison and self.purpose is Purpose.CHAT


@dataclass(frozen=True, slots=True)
class Reply:
    """
    A reply that has not begun yet.

    Args:
        wire (`AsyncGenerator[bytes, None]`):
            What the client gets, piece by piece. The last piece of each answer comes after the answer is in the log.
            When the generator is closed or cancelled before, what was yielded is put into the log.
        answers (`Sequence[_Answer]`):
            What comes of each of the answers that were asked for.
        is_comparison (`bool`, *optional*, defaults to `False`):
            Whether the answers are there to be compared.
    """

    wire: AsyncGenerator[bytes, None]
    answers: Sequence[_Answer]
    is_comparison: bool = False

    @property
    def interaction_ids(self) -> tuple[str, ...]:
        """Id of each of the answers that were asked for."""
        return tuple(answer.interaction_id for answer in self.answers)

    @property
    def begun_ids(self) -> tuple[str, ...]:
        """Id of each answer of which something has come; not every upstream server gives as many as are asked for."""
        return tuple(answer.interaction_id for answer in self.answers if answer.stretches)


class Completions:
    """
    Answers chat completion requests and records what was answered.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log.
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.
        arrivals ([`~online_trl.serving.arrivals.Arrivals`]):
            Waits for what is on its way into the log.
        comparisons ([`~online_trl.serving.comparisons.Comparisons`]):
            Decides which requests are answered with two answers to compare.
        pin_sessions (`bool`, *optional*, defaults to `False`):
            Whether a conversation stays with the policy version that answered it first.
    """

    def __init__(
        self,
        store: FeedbackStore,
        engine: Engine,
        arrivals: Arrivals,
        comparisons: Comparisons,
        *,
        pin_sessions: bool = False,
    ) -> None:
        self._store = store
        self._engine = engine
        self._arrivals = arrivals
        self._comparisons = comparisons
        self._pin_sessions = pin_sessions

    async def reply(self, request: ChatCompletionRequest, body: Mapping[str, Any], occasion: Occasion) -> Reply:
        """
        Returns the reply to a request; to read it is to have the answers generated, unless they had to be there
        before it could be said whether they are to be compared.

        Args:
            request ([`~online_trl.serving.schemas.ChatCompletionRequest`]):
                The request.
            body (`Mapping[str, Any]`):
                The request as it came.
            occasion ([`Occasion`]):
                What the answers are part of.

        Raises:
            [`~online_trl.serving.engine.EngineError`], [`~online_trl.store.StoreError`]: here or when the reply is
                read; before the first piece if there is no answer, later if it breaks off.
        """
        user_id = request.user or ANONYMOUS
        turn = await run_sync(self._find_turn, request, user_id, occasion)
        version = await self._version(request.model, turn, request.user or turn.session_id)
        offer = await self._comparisons.offer(request, body, version) if occasion.may_be_asked else None
        offer = offer or self._plain_offer(request, body, version)
        answers = [_Answer(offer, name, user_id, occasion.purpose, turn) for name in offer.interaction_ids]
        return Reply(self._recorded(offer, answers), answers, is_comparison=bool(offer.comparison))

    def _plain_offer(self, request: ChatCompletionRequest, body: Mapping[str, Any], version: str) -> Offer:
        asked = request.chat_request(
            policy_version=version, interaction_ids=[new_id() for _ in range(request.n or 1)], body=body
        )
        return Offer(asked.generation.messages, asked.interaction_ids, self._engine.answer(asked))

    def _find_turn(self, request: ChatCompletionRequest, user_id: str, occasion: Occasion) -> Turn:
        return self._store.find_turn(
            [message.message() for message in request.messages],
            user_id=user_id,
            purpose=occasion.purpose,
            session_id=occasion.session_id,
        )

    async def _version(self, model: str, turn: Turn, asker: str) -> str:
        pinned = turn.first_version if self._pin_sessions and model == DEFAULT_MODEL else None
        # A version that is gone cannot hold on to its conversations, and one that was taken back must not.
        if pinned is not None and pinned in [
            each.name for each in await self._engine.versions() if not each.withdrawn
        ]:
            return pinned
        return await self._engine.resolve(model, asker=asker)

    async def _recorded(self, offer: Offer, answers: Sequence[_Answer]) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(offer.pieces) as pieces:
                async for piece in pieces:
                    for stretch in piece.stretches:
                        answers[stretch.index].stretches.append(stretch)
                    await self._record([answer for answer in answers if answer.is_finished])
                    if piece.token_count is not None:
                        see([piece.token_count])
                    yield piece.wire
        finally:
            with anyio.CancelScope(shield=True):
                await self._record([answer for answer in answers if answer.stretches])

    async def _record(self, answers: Sequence[_Answer]) -> None:
        due = [answer for answer in answers if not answer.settled]
        if due:
            for answer in due:
                answer.settled = True
            rows = self._store.submit_interactions([answer.interaction() for answer in due])
            # A client that hangs up now takes back nothing that has been sent.
            stored = await self._arrivals.wait(rows)
            see(stored)


@dataclass(eq=False)
class _Answer:
    """One answer on its way to the client and into the log."""

    offer: Offer
    interaction_id: str
    user_id: str
    purpose: Purpose
    turn: Turn
    stretches: list[Generation] = field(default_factory=list)
    settled: bool = False
    """Whether it has been handed to the log, however that ended."""

    @property
    def is_finished(self) -> bool:
        return bool(self.stretches) and self.stretches[-1].finish_reason is not None

    def interaction(self) -> Interaction:
        generation = Generation.joined(self.stretches)
        origin = generation.origin
        chosen = {COMPARISON: dict(self.offer.comparison)} if self.offer.comparison else {}
        return Interaction(
            prompt=self.offer.messages,
            completion=[cast(Message, {"role": "assistant", "content": generation.text, **generation.fields})],
            policy_version=origin.policy_version,
            session_id=self.turn.session_id,
            user_id=self.user_id,
            purpose=self.purpose,
            sampling={**origin.sampling, "finish_reason": generation.finish_reason or CANCELLED, **chosen},
            prompt_ids=generation.prompt_ids,
            completion_ids=generation.completion_ids,
            logprobs=generation.logprobs,
            template_hash=origin.template_hash,
            weights_hash=origin.weights_hash,
            upstream_id=origin.upstream_id,
            parent_id=self.turn.parent_id,
            regenerates=self.turn.regenerates,
            interaction_id=self.interaction_id,
        )
