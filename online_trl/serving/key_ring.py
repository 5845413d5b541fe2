"""The keys that open a server, read from the log again and again, and what holds while the log cannot be read."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

from ..store import ApiKey, ApiKeys, StoreError

_FRESH_SECONDS = 1.0
"""How long keys count as just read; after a failure, how long until they are read again."""
_TRUSTED_SECONDS = 30.0
"""How long keys stay good while the log cannot be read."""
_PATIENCE_SECONDS = 2.0
"""How long a reading is waited for; one that takes longer goes on by itself."""


class KeyRing:
    """
    The keys in force, as they were a second ago at most: a revoked key soon opens no server on the log.

    While the log cannot be read, the keys that were read last stay good for half a minute. For that long, a revocation
    is not seen either.

    Args:
        keys ([`~online_trl.store.ApiKeys`]):
            Where they are kept.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._known: Mapping[str, ApiKey] | None = None
        self._failure: StoreError | None = None
        self._trusted_until = -math.inf
        self._fresh_until = -math.inf
        self._patient_until = -math.inf
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_known_empty(self) -> bool:
        """Whether there was no key when they were last read, however long ago."""
        return self._known is not None and not self._known

    async def in_force(self) -> Mapping[str, ApiKey]:
        """
        Returns the keys in force, by their digest.

        Raises:
            [`~online_trl.store.StoreError`]: if they cannot be read, and were not read recently.
        """
        if time.monotonic() >= self._fresh_until:
            await self._refresh()
        if self._known is None or time.monotonic() >= self._trusted_until:
            raise StoreError(f"the API keys cannot be read: {self._failure or 'the log does not answer'}")
        return self._known

    async def _refresh(self) -> None:
        if self._reading is None:
            self._patient_until = time.monotonic() + _PATIENCE_SECONDS
            self._reading = asyncio.create_task(self._read())
        # Those who come later wait no longer than the first.
        await asyncio.wait({self._reading}, timeout=max(0.0, self._patient_until - time.monotonic()))

    async def _read(self) -> None:
        try:
            self._known = await asyncio.to_thread(self._keys.in_force)
            self._failure = None
            self._trusted_until = time.monotonic() + _TRUSTED_SECONDS
        except StoreError as error:
            self._failure = error
        finally:
            self._fresh_until = time.monotonic() + _FRESH_SECONDS
            self._reading = None
