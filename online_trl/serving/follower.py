"""Keeps a server on what the registry says is in service and tried, without a request noticing the change."""

from __future__ import annotations

import asyncio
import logging

from ..registry import RegistryError
from .engine import EngineError, SwitchableEngine
from .policy_source import PolicySource

logger = logging.getLogger(__name__)


async def follow(policies: PolicySource, engine: SwitchableEngine, *, interval: float = 0.5) -> None:
    """
    Switches the engine to the live version whenever that changes, and has it try the candidate of the canary that
    runs, until cancelled. What goes wrong is reported once, and the version before stays in service.

    Args:
        policies ([`~online_trl.serving.policy_source.PolicySource`]):
            Says which version is live and which is tried.
        engine ([`~online_trl.serving.engine.SwitchableEngine`]):
            Follows it.
        interval (`float`, *optional*, defaults to `0.5`):
            Seconds between two looks.
    """
    follower = _Follower(policies, engine)
    reported = ""
    while True:
        await asyncio.sleep(interval)
        try:
            await follower.look()
        except (EngineError, RegistryError, OSError) as error:
            if str(error) != reported:
                reported = str(error)
                logger.error("still serving %s: %s", engine.default_version, error)


class _Follower:
    """What has been seen so far: what cannot be loaded is not tried again at every look."""

    def __init__(self, policies: PolicySource, engine: SwitchableEngine) -> None:
        self._policies = policies
        self._engine = engine
        self._live = engine.default_version
        self._canary_id: str | None = None

    async def look(self) -> None:
        # Read in this order, a canary is not seen to have ended before its candidate is seen to be live: whoever had
        # the candidate keeps it.
        canary = await asyncio.to_thread(self._policies.canary)
        live = await asyncio.to_thread(self._policies.live)
        if live is not None and live != self._live:
            self._live = live
            await self._engine.switch(live)
            logger.info("now serving %s", live)
        canary_id = None if canary is None else canary.canary_id
        if canary_id != self._canary_id:
            self._canary_id = canary_id
            await self._engine.try_out(canary)
            logger.info(
                "now trying %s", "nothing else" if canary is None else f"{canary.version} on {canary.share:.0%}"
            )
