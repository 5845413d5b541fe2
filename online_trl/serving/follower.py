"""Keeps a server on what the registry says is in service and tried, without a request noticing the change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..backoff import Backoff
from ..registry import RegistryError
from ..types import Canary
from .engine import EngineError, SwitchableEngine
from .policy_source import PolicySource

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0


async def follow(policies: PolicySource, engine: SwitchableEngine, *, interval: float = 0.5) -> None:
    """
    Switches the engine to the live version whenever that changes, and has it try the candidate of the canary that
    runs, until cancelled. What goes wrong is reported once, and tried again after pauses that grow; the version before
    stays in service meanwhile.

    Args:
        policies ([`~online_trl.serving.policy_source.PolicySource`]):
            Says which version is live and which is tried.
        engine ([`~online_trl.serving.engine.SwitchableEngine`]):
            Follows it.
        interval (`float`, *optional*, defaults to `0.5`):
            Seconds between two looks.
    """
    follower = _Follower(policies, engine, interval)
    while True:
        await asyncio.sleep(interval)
        await follower.look()


class _Follower:
    """What has been reached so far."""

    def __init__(self, policies: PolicySource, engine: SwitchableEngine, interval: float) -> None:
        self._policies = policies
        self._engine = engine
        self._canary_id: str | None = None
        # A registry that cannot be read is asked again at every look.
        self._reading = _Attempts(engine, Backoff(seconds=0.0, longest=0.0))
        self._switching = _Attempts(engine, Backoff(seconds=interval, longest=_LONGEST_PAUSE))
        self._trying_out = _Attempts(engine, Backoff(seconds=interval, longest=_LONGEST_PAUSE))

    async def look(self) -> None:
        await self._reading.make("", self._read)

    async def _read(self) -> None:
        # Read in this order, a canary is not seen to have ended before its candidate is seen to be live: whoever had
        # the candidate keeps it.
        canary = await asyncio.to_thread(self._policies.canary)
        live = await asyncio.to_thread(self._policies.live)
        if live is not None and live != self._engine.default_version:
            await self._switching.make(live, lambda: self._switch(live))
        canary_id = None if canary is None else canary.canary_id
        if canary_id != self._canary_id:
            await self._trying_out.make(canary_id, lambda: self._try_out(canary))

    async def _switch(self, live: str) -> None:
        await self._engine.switch(live)
        logger.info("now serving %s", live)

    async def _try_out(self, canary: Canary | None) -> None:
        await self._engine.try_out(canary)
        self._canary_id = None if canary is None else canary.canary_id
        logger.info("now trying %s", "nothing else" if canary is None else f"{canary.version} on {canary.share:.0%}")


class _Attempts:
    """Attempts at one aim after another: what fails is told once, and not tried again at every look."""

    def __init__(self, engine: SwitchableEngine, backoff: Backoff) -> None:
        self._engine = engine
        self._backoff = backoff
        self._begin(None)

    def _begin(self, aim: str | None) -> None:
        self._aim = aim
        self._failed = 0
        self._not_before = 0.0
        self._reported = ""

    async def make(self, aim: str | None, action: Callable[[], Awaitable[Any]]) -> None:
        if aim != self._aim:
            self._begin(aim)
        if time.monotonic() < self._not_before:
            return
        try:
            await action()
        except (EngineError, RegistryError, OSError) as error:
            if self._postpone(error):
                logger.error("still serving %s: %s", self._engine.default_version, error)
        # Whatever went wrong, the versions to come are followed too.
        except Exception as error:
            if self._postpone(error):
                logger.exception("still serving %s: %r", self._engine.default_version, error)
        else:
            self._begin(aim)

    def _postpone(self, error: Exception) -> bool:
        """Returns whether this went wrong in another way than the attempt before."""
        self._failed += 1
        self._not_before = time.monotonic() + self._backoff.pause(self._failed)
        earlier, self._reported = self._reported, repr(error)
        return self._reported != earlier
