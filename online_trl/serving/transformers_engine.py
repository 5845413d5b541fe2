"""
The engine that runs policies inside the server's own process, with transformers.

One thread generates, another loads, and the event loop only passes messages between them and the requests. Requests
that wait for the same version are answered as one batch. A request keeps hold of the policy that it began with, so
that neither a switch of the default nor eviction can touch an answer in flight.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from ..canary import assign
from ..types import Canary
from .decoding import Delivery, Policy, Row, answer_batch
from .engine import (
    CANARY_MODEL,
    DEFAULT_MODEL,
    EngineError,
    EngineLoad,
    ServedVersion,
    UnknownVersionError,
    UnsupportedParameterError,
    VersionLoadError,
)
from .generation import ChatRequest, Generation, GenerationRequest, Piece
from .policy_source import PolicySource
from .rendering import streamed_reply, whole_reply

logger = logging.getLogger(__name__)

# What OpenAI's clients may ask for beside what this engine does, and what of it changes nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
}


class TransformersEngine:
    """
    Serves the policies of a source.

    Args:
        policies ([`~online_trl.serving.policy_source.PolicySource`]):
            Where the versions come from; the one in service becomes the default.
        max_batch_size (`int`, *optional*, defaults to `32`):
            Answers that are generated together, at most.
        max_loaded (`int`, *optional*, defaults to `3`):
            Versions that are kept loaded: the default one, the candidate of a canary and those used last.
        device (`str`, *optional*):
            Where the policies run. Defaults to the GPU if there is one.
    """

    def __init__(
        self, policies: PolicySource, *, max_batch_size: int = 32, max_loaded: int = 3, device: str | None = None
    ) -> None:
        self._policies = policies
        self._max_batch_size = max_batch_size
        self._max_loaded = max_loaded
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._default: str | None = None
        self._canary: Canary | None = None
        self._switches = 0
        self._switch_seconds = 0.0
        self._loads: OrderedDict[str, asyncio.Task[Policy]] = OrderedDict()
        self._waiting: list[Row] = []
        self._outboxes: dict[Row, asyncio.Queue[Generation | EngineError]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._generator = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    @property
    def default_version(self) -> str:
        if self._default is None:
            raise EngineError("the engine has no default version before it is started")
        return self._default

    async def versions(self) -> list[ServedVersion]:
        return await asyncio.to_thread(self._policies.versions)

    async def resolve(self, model: str, *, asker: str | None = None) -> str:
        if model == DEFAULT_MODEL:
            return self._default_for(asker)
        if model != CANARY_MODEL:
            return model
        if self._canary is not None:
            return self._canary.version
        return await asyncio.to_thread(self._policies.candidate) or self.default_version

    def _default_for(self, asker: str | None) -> str:
        canary = self._canary
        if canary is not None and asker is not None and assign(asker, canary.canary_id, canary.share):
            return canary.version
        return self.default_version

    async def start(self) -> None:
        live = await asyncio.to_thread(self._policies.live)
        if live is None:
            raise EngineError("no policy is in service: promote one first")
        await self.switch(live)

    async def stop(self) -> None:
        while not self._idle.is_set():  # a batch that ends begins the next at once
            await self._idle.wait()
        await asyncio.to_thread(self._generator.shutdown)
        await asyncio.to_thread(self._loader.shutdown)

    async def switch(self, version: str) -> None:
        begin = time.perf_counter()
        await self._policy(version)
        if self._default is not None:
            self._switches += 1
            self._switch_seconds += time.perf_counter() - begin
        self._default = version

    async def try_out(self, canary: Canary | None) -> None:
        self._canary = None
        if canary is not None:
            await self._policy(canary.version)
            self._canary = canary

    def load(self) -> EngineLoad:
        return EngineLoad(len(self._waiting), self._switches, self._switch_seconds)

    def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        for name, neutral in _UNSUPPORTED.items():
            if request.body.get(name) not in (None, *neutral):
                raise UnsupportedParameterError(name)
        render = streamed_reply if request.stream else whole_reply
        return render(request, self.generate(request.generation, streaming=request.stream))

    async def generate(self, request: GenerationRequest, *, streaming: bool) -> AsyncGenerator[Generation, None]:
        """
        Yields answers without writing a reply.

        Args:
            request ([`~online_trl.serving.generation.GenerationRequest`]):
                What was asked.
            streaming (`bool`):
                Whether to yield stretches as soon as they are certain, or only whole answers as they end.

        Raises:
            [`~online_trl.serving.engine.EngineError`]: one of its kinds; when the request cannot be met at all, before
                the first stretch.
        """
        policy = await self._policy(request.policy_version)
        rows = [Row(policy, request, index, streaming=streaming) for index in range(request.n)]
        outbox: asyncio.Queue[Generation | EngineError] = asyncio.Queue()
        self._outboxes.update(dict.fromkeys(rows, outbox))
        self._waiting += rows
        self._begin_batch()
        unfinished = len(rows)
        try:
            while unfinished:
                item = await outbox.get()
                if isinstance(item, EngineError):
                    raise item
                unfinished -= item.finish_reason is not None
                yield item
        finally:
            for row in rows:
                row.cancelled = True
                del self._outboxes[row]

    def _begin_batch(self) -> None:
        """Sends the requests that wait, or those of them for one version, to the generating thread if it is idle."""
        self._waiting = [row for row in self._waiting if not row.cancelled]
        if not self._waiting or not self._idle.is_set():
            return
        policy = self._waiting[0].policy
        rows = [row for row in self._waiting if row.policy is policy][: self._max_batch_size]
        self._waiting = [row for row in self._waiting if row not in rows]
        self._idle.clear()
        loop = asyncio.get_running_loop()

        def deliver(deliveries: Sequence[Delivery]) -> None:
            loop.call_soon_threadsafe(self._hand_out, deliveries)

        future = self._generator.submit(answer_batch, rows, deliver)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._end_batch, rows, done))

    def _end_batch(self, rows: Sequence[Row], future: Future[None]) -> None:
        if (error := future.exception()) is not None:
            logger.error("generation failed", exc_info=error)
            self._hand_out([(row, EngineError(f"generation failed: {error}")) for row in rows])
        self._idle.set()
        self._begin_batch()

    def _hand_out(self, deliveries: Sequence[Delivery]) -> None:
        for row, item in deliveries:
            if row in self._outboxes:
                self._outboxes[row].put_nowait(item)

    async def _policy(self, version: str) -> Policy:
        if version not in self._loads:
            self._loads[version] = asyncio.create_task(self._load(version))
        self._loads.move_to_end(version)
        # Others may wait for the same load: a caller that gives up must not cancel it.
        policy = await asyncio.shield(self._loads[version])
        self._evict(keep=version)
        return policy

    async def _load(self, version: str) -> Policy:
        load = asyncio.get_running_loop().run_in_executor(self._loader, self._load_in_thread, version)
        await asyncio.wait([load])
        if (error := load.exception()) is None:
            return load.result()
        if self._loads.get(version) is asyncio.current_task():
            del self._loads[version]  # so that another request tries again
        if isinstance(error, UnknownVersionError):
            raise error
        raise VersionLoadError(f"cannot load the policy `{version}`: {error}") from error

    def _load_in_thread(self, version: str) -> Policy:
        available = [each.name for each in self._policies.versions()]
        if version not in available:
            raise UnknownVersionError(version, available)
        return Policy.load(self._policies, version, self._device)

    def _evict(self, *, keep: str) -> None:
        tried = None if self._canary is None else self._canary.version
        # What is being loaded may turn out not to be there, and must not drive out what is.
        loaded = [version for version, load in self._loads.items() if load.done()]
        removable = [version for version in loaded if version not in (keep, self._default, tried)]
        for version in removable[: max(0, len(loaded) - self._max_loaded)]:
            del self._loads[version]
