from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from online_trl.serving import key_ring
from online_trl.serving.key_ring import KeyRing
from online_trl.store import ApiKey, ApiKeys, FeedbackStore, StoreError
from online_trl.types import Scope


class Clock:
    """Stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Keys:
    """The keys of a log that can be made to fail or to hang."""

    def __init__(self, keys: ApiKeys) -> None:
        self.keys = keys
        self.fail = False
        self.readings = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def in_force(self) -> dict[str, ApiKey]:
        self.readings += 1
        self.go_on.wait()
        if self.fail:
            raise StoreError("no route to host")
        return self.keys.in_force()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(key_ring, "time", clock)
    return clock


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        yield Keys(store.keys)


def test_keys_are_read_once_a_second(keys: Keys, clock: Clock):
    async def main() -> None:
        ring = KeyRing(keys)
        assert await ring.in_force() == {}
        assert ring.is_known_empty
        _, row = keys.keys.create([Scope.CHAT])
        clock.now += 0.9
        assert await ring.in_force() == {}
        clock.now += 0.1
        assert await ring.in_force() == {row.digest: row}
        assert not ring.is_known_empty

    asyncio.run(main())
    assert keys.readings == 2


def test_a_failure_is_told_to_all_who_wait_and_tried_again_after_a_second(keys: Keys, clock: Clock):
    async def main() -> None:
        keys.fail = True
        ring = KeyRing(keys)
        errors = await asyncio.gather(*(ring.in_force() for _ in range(5)), return_exceptions=True)
        assert [str(error) for error in errors] == ["the API keys cannot be read: no route to host"] * 5
        with pytest.raises(StoreError, match="no route to host"):
            await ring.in_force()
        assert keys.readings == 1
        assert not ring.is_known_empty
        keys.fail = False
        clock.now += 1
        assert await ring.in_force() == {}

    asyncio.run(main())


def test_the_last_known_keys_are_good_for_half_a_minute(keys: Keys, clock: Clock):
    async def main() -> None:
        _, row = keys.keys.create([Scope.CHAT])
        ring = KeyRing(keys)
        await ring.in_force()
        keys.fail = True
        clock.now += 29
        assert await ring.in_force() == {row.digest: row}
        clock.now += 1
        with pytest.raises(StoreError, match="no route to host"):
            await ring.in_force()

    asyncio.run(main())
    assert keys.readings == 3


async def as_soon_as_read(ring: KeyRing) -> Mapping[str, ApiKey]:
    while True:
        with suppress(StoreError):
            return await ring.in_force()
        await asyncio.sleep(0.01)


def test_a_log_that_hangs_is_not_waited_for_in_vain(keys: Keys, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        ring = KeyRing(keys)
        await ring.in_force()
        monkeypatch.setattr(key_ring, "_PATIENCE_SECONDS", 0.01)
        _, row = keys.keys.create([Scope.CHAT])
        keys.go_on.clear()
        clock.now += 1
        assert await ring.in_force() == {}
        clock.now += 1
        assert await ring.in_force() == {}
        clock.now += 30
        with pytest.raises(StoreError, match="the log does not answer"):
            await ring.in_force()
        assert keys.readings == 2
        keys.go_on.set()
        assert await as_soon_as_read(ring) == {row.digest: row}

    try:
        asyncio.run(main())
    finally:
        keys.go_on.set()
