"""
What the reward model in service thinks of answers, told to a server that need not have it.

The model is loaded when it is first asked for, in a thread of its own, and with it the training stack; it is loaded
again when another version is live. Nothing waits for a load: until the live version is there, there are no scores.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from ..registry import ModelRegistry, RegistryError
from ..rewards.asking import Scores
from ..types import Message, ModelRole

if TYPE_CHECKING:
    from ..rewards.scorer import RewardScorer

logger = logging.getLogger(__name__)


class ScoringError(RuntimeError):
    """Answers could not be scored; the message names the reward version and the reason."""


class AnswerScores(Protocol):
    """Scores answers with an ensemble."""

    async def version(self) -> str | None:
        """Returns the version that would score now, if there is one."""
        ...

    async def score(self, conversations: Sequence[list[Message]]) -> tuple[str, Scores]:
        """
        Returns the version that scored, and the score of each conversation by each head, of shape `(N, K)`.

        Raises:
            [`ScoringError`]: if there is no version, or it fails.
        """
        ...


class LiveScores:
    """
    The reward model that is live in a registry. To be used on one event loop.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            Says which version is live, and holds its files.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._loaded: tuple[str, RewardScorer] | None = None
        self._tried: str | None = None
        self._load: asyncio.Task[None] | None = None
        self._reported = ""

    async def stop(self) -> None:
        """Waits for what its thread is doing and ends it."""
        if self._load is not None:
            await self._load
        await asyncio.to_thread(self._threads.shutdown)

    async def version(self) -> str | None:
        """
        Returns the version in service if it is loaded, and otherwise has it loaded. A load that failed is not tried
        again before another version is in service.
        """
        try:
            live = await asyncio.to_thread(self._registry.live, ModelRole.REWARD)
        except (RegistryError, OSError) as error:
            self._report(f"cannot tell which reward version is live: {error}")
            return None
        if live is None:
            return None
        if self._loaded is not None and live.name == self._loaded[0]:
            return live.name
        if live.name != self._tried and (self._load is None or self._load.done()):
            self._tried = live.name
            self._load = asyncio.create_task(self._put_into_service(live.name))
        return None

    async def score(self, conversations: Sequence[list[Message]]) -> tuple[str, Scores]:
        """
        Returns the version that scored, and the score of each conversation by each head, of shape `(N, K)`.

        Args:
            conversations (`Sequence[list[Message]]`):
                Prompt and completion messages of each answer.

        Raises:
            [`ScoringError`]: if no version is loaded, or it fails.
        """
        if self._loaded is None:
            raise ScoringError("no reward model is loaded")
        version, scorer = self._loaded
        scores = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: scorer.head_scores(conversations).numpy()
        )
        await asyncio.wait([scores])
        if (error := scores.exception()) is not None:
            raise ScoringError(f"{version} cannot score: {error}") from error
        return version, scores.result()

    async def _put_into_service(self, version: str) -> None:
        load = asyncio.get_running_loop().run_in_executor(self._threads, _load, self._registry, version)
        await asyncio.wait([load])
        if (error := load.exception()) is not None:
            self._report(f"cannot load the reward model {version}: {error}")
            return
        self._loaded = version, load.result()
        logger.info("answers to compare are now chosen with %s", version)

    def _report(self, message: str) -> None:
        if message != self._reported:
            self._reported = message
            logger.error(message)


def _load(registry: ModelRegistry, version: str) -> RewardScorer:
    import torch

    from ..rewards.scorer import RewardScorer

    return RewardScorer(registry.path(version), device="cuda" if torch.cuda.is_available() else "cpu")
