"""Keeps a server on the version that is live in the registry, without a request noticing the change."""

from __future__ import annotations

import asyncio
import logging

from ..registry import RegistryError
from .engine import EngineError, SwitchableEngine
from .policy_source import PolicySource

logger = logging.getLogger(__name__)


async def follow_live(policies: PolicySource, engine: SwitchableEngine, *, interval: float = 0.5) -> None:
    """
    Switches the engine to the live version whenever that changes, until cancelled. What goes wrong is reported once,
    and the version before stays in service.

    Args:
        policies ([`~online_trl.serving.policy_source.PolicySource`]):
            Says which version is live.
        engine ([`~online_trl.serving.engine.SwitchableEngine`]):
            Switched to it.
        interval (`float`, *optional*, defaults to `0.5`):
            Seconds between two looks.
    """
    seen, reported = engine.default_version, ""
    while True:
        await asyncio.sleep(interval)
        try:
            live = await asyncio.to_thread(policies.live)
            if live is not None and live != seen:
                seen = live
                await engine.switch(live)
                logger.info("now serving %s", live)
        except (EngineError, RegistryError, OSError) as error:
            if str(error) != reported:
                reported = str(error)
                logger.error("still serving %s: %s", engine.default_version, error)
