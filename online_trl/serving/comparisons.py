"""
Asking for comparisons: now and then, a client that can show two answers gets two where it asked for one.

Of the requests that welcome it, a configured share is answered so. Where a reward model is in service, some more are
looked at: several answers are generated, and only those conversations are asked about whose answers its heads disagree
about most. Whatever goes wrong on the way costs the client nothing but the second answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..rewards.asking import AskedPair, WorthSelection, double_thompson, presentable, random_pair, worth_asking
from ..types import ANONYMOUS, Message, new_id
from .engine import Engine, EngineError
from .generation import ChatRequest, Generation, Piece
from .live_scores import AnswerScores, ScoringError
from .metrics import Metrics
from .rate_limits import RateLimits
from .schemas import ChatCompletionRequest
from .selected_reply import selected_reply
from .settings import ServerSettings

DOUBLE_THOMPSON, RANDOM, OFF = "double_thompson", "random", "off"

_OF_STREAMS = ("stream", "stream_options")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """
    What a request is going to be answered with.

    Args:
        messages (`list[Message]`):
            What is answered.
        interaction_ids (`tuple[str, ...]`):
            Id of each answer in the reply.
        pieces (`AsyncGenerator[Piece, None]`):
            The reply.
        comparison (`Mapping[str, Any]`, *optional*):
            How the two answers were chosen, if they are there to be compared; empty otherwise.
    """

    messages: list[Message]
    interaction_ids: tuple[str, ...]
    pieces: AsyncGenerator[Piece, None]
    comparison: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Look:
    """What chooses from how many candidates."""

    strategy: str
    candidates: int


class Comparisons:
    """
    Decides which requests are answered with two answers to compare, and with which. To be used on one event loop.

    Args:
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.
        settings ([`~online_trl.serving.settings.ServerSettings`]):
            How often, and how they are chosen.
        rate_limits ([`~online_trl.serving.rate_limits.RateLimits`]):
            How often a user may be asked.
        metrics ([`~online_trl.serving.metrics.Metrics`]):
            Where it is counted.
        scores ([`~online_trl.serving.live_scores.AnswerScores`], *optional*):
            What the answers are chosen by. Without it, they are random.
        rng (`np.random.Generator`, *optional*):
            Draws which requests are looked at, and what is shown.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        rate_limits: RateLimits,
        metrics: Metrics,
        scores: AnswerScores | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._engine = engine
        self._rate_limits = rate_limits
        self._metrics = metrics
        self._scores = scores if settings.comparison_strategy == DOUBLE_THOMPSON else None
        self._rng = rng or np.random.default_rng()
        self._candidates = settings.comparison_candidates
        self._share = 0.0 if settings.comparison_strategy == OFF else settings.comparison_share
        self._looked_share = min(1.0, self._share * settings.comparison_looks)
        self._selection = WorthSelection(self._share / self._looked_share if self._share else 0.0, self._rng)
        self._reported = ""

    async def offer(
        self, request: ChatCompletionRequest, body: Mapping[str, Any], policy_version: str
    ) -> Offer | None:
        """
        Returns the reply to a request that was looked at, with two answers or with one; `None` if the engine is to
        answer it as any other.

        Args:
            request ([`~online_trl.serving.schemas.ChatCompletionRequest`]), body (`Mapping[str, Any]`):
                A request that welcomes a comparison, and as it came.
            policy_version (`str`):
                The version that answers.
        """
        user_id = request.user or ANONYMOUS
        look = await self._look(request, user_id)
        if look is None:
            return None
        asked = _whole(request).chat_request(
            policy_version=policy_version,
            interaction_ids=[new_id() for _ in range(look.candidates)],
            body={name: value for name, value in body.items() if name not in _OF_STREAMS} | {"n": look.candidates},
        )
        reply = await self._generate(asked, look)
        if reply is None:
            return None
        candidates = _distinct(reply.stretches)
        choice = await self._choice(look, asked, candidates)
        if choice is not None and not self._rate_limits.count_comparison(user_id):
            choice = None
        if choice is None:
            return _offer(request, asked, reply, candidates[:1])
        self._metrics.count_comparison(look.strategy, "asked")
        pair, how = choice
        return _offer(request, asked, reply, [candidates[pair.first], candidates[pair.second]], how)

    async def _look(self, request: ChatCompletionRequest, user_id: str) -> _Look | None:
        """Decides whether to look at a request, by lot, and how."""
        drawn = self._rng.random()
        if drawn >= self._looked_share or not _is_fit(request) or not self._rate_limits.may_compare(user_id):
            return None
        if self._scores is not None and await self._scores.version() is not None:
            return _Look(DOUBLE_THOMPSON, self._candidates)
        return _Look(RANDOM, 2) if drawn < self._share else None

    async def _generate(self, request: ChatRequest, look: _Look) -> Piece | None:
        """Returns the reply with the candidates; `None` if the engine refuses to give several."""
        try:
            async with aclosing(self._engine.answer(request)) as pieces:
                reply = await anext(pieces)
        except EngineError as error:
            self._fail(look, f"no {look.candidates} answers at once to compare: {error}")
            return None
        if len({stretch.index for stretch in reply.stretches}) < 2:
            self._fail(look, f"no {look.candidates} answers at once to compare: the engine takes no heed of `n`")
        return reply if reply.stretches else None

    async def _choice(
        self, look: _Look, asked: ChatRequest, candidates: Sequence[Generation]
    ) -> tuple[AskedPair, Mapping[str, Any]] | None:
        """Returns the pair to show, and how it was chosen; `None` if nothing is to be asked."""
        if len(candidates) < 2:
            return None
        if look.strategy == RANDOM:
            pair = random_pair(np.zeros((len(candidates), 1)), self._rng)
            return pair, {"strategy": RANDOM, "propensity": pair.propensity}
        try:
            return await self._double_thompson(asked.generation.messages, candidates)
        except ScoringError as error:
            self._fail(look, f"answers to compare cannot be chosen: {error}")
            return None

    async def _double_thompson(
        self, messages: list[Message], candidates: Sequence[Generation]
    ) -> tuple[AskedPair, Mapping[str, Any]] | None:
        assert self._scores is not None, "this strategy is taken where there are scores"
        version, scores = await self._scores.score([[*messages, _message(answer)] for answer in candidates])
        shown = presentable(scores)
        if len(shown) < 2:
            return None
        worth = worth_asking(scores[shown])
        if not self._selection.takes(worth):
            return None
        pair = double_thompson(scores[shown], self._rng)
        how = {
            "strategy": DOUBLE_THOMPSON,
            "propensity": pair.propensity,
            "reward_version": version,
            "candidates": len(shown),
            "worth": worth,
        }
        return replace(pair, first=int(shown[pair.first]), second=int(shown[pair.second])), how

    def _fail(self, look: _Look, message: str) -> None:
        self._metrics.count_comparison(look.strategy, "failed")
        if message != self._reported:
            self._reported = message
            logger.error(message)


def _is_fit(request: ChatCompletionRequest) -> bool:
    """Returns whether a request has several answers that people can read."""
    extra = request.model_extra or {}
    has_tools = bool(extra.get("tools") or extra.get("functions"))
    return request.n in (None, 1) and request.temperature != 0 and not has_tools


def _whole(request: ChatCompletionRequest) -> ChatCompletionRequest:
    return request.model_copy(update=dict.fromkeys(_OF_STREAMS))


def _distinct(stretches: Sequence[Generation]) -> list[Generation]:
    """Returns the candidates that read differently, each whole, in their order."""
    parts: dict[int, list[Generation]] = {}
    for stretch in stretches:
        parts.setdefault(stretch.index, []).append(stretch)
    answers = [Generation.joined(parts[index]) for index in sorted(parts)]
    return list({answer.text: answer for answer in reversed(answers)}.values())[::-1]


def _message(answer: Generation) -> Message:
    return {"role": "assistant", "content": answer.text}


def _offer(
    request: ChatCompletionRequest,
    asked: ChatRequest,
    reply: Piece,
    answers: Sequence[Generation],
    comparison: Mapping[str, Any] | None = None,
) -> Offer:
    pieces = selected_reply(
        asked,
        reply.wire,
        answers,
        is_comparison=comparison is not None,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        token_count=reply.token_count,
    )
    ids = tuple(asked.interaction_ids[answer.index] for answer in answers)
    return Offer(asked.generation.messages, ids, _each(pieces), comparison or {})


async def _each(pieces: Sequence[Piece]) -> AsyncGenerator[Piece, None]:
    for piece in pieces:
        yield piece
