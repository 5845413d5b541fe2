"""Keeps a process up: what ends is started again, after a pause that grows while it keeps ending."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from ..backoff import Backoff

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.5
_BACKOFF = Backoff(seconds=1.0, longest=60.0)
# One that was up for so long had come up well: the pause begins small again.
_SETTLED = 60.0


class Keepable(Protocol):
    """A process that can be started more than once."""

    def start(self) -> None:
        """Starts it and returns when it is up."""
        ...

    def poll(self) -> int | None:
        """Returns its exit status, `None` while it runs."""
        ...

    def stop(self) -> None:
        """Ends it and waits for its end."""
        ...


class Keeper:
    """
    Keeps a process up in a thread of its own; a context manager that ends both.

    Args:
        name (`str`):
            What the process is, in messages.
        process ([`Keepable`]):
            The process.
        report (`Callable[[str, str], None]`):
            Called with the name and with how it is, whenever that changes.
    """

    def __init__(self, name: str, process: Keepable, *, report: Callable[[str, str], None]) -> None:
        self.name = name
        self.process = process
        self.report = report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"keeper of {name}", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        attempt = 0
        try:
            while not self._ended.is_set():
                started = time.monotonic()
                reason = self._run_once()
                if self._ended.is_set():
                    break
                attempt = 1 if time.monotonic() - started > _SETTLED else attempt + 1
                pause = _BACKOFF.pause(attempt)
                logger.error("%s %s; it is started again in %.0f s", self.name, reason, pause)
                self.report(self.name, f"{reason}; started again in {pause:.0f} s")
                self._ended.wait(pause)
        finally:
            self.process.stop()
            self.report(self.name, "stopped")

    def _run_once(self) -> str:
        """Runs the process until it ends; returns how it did."""
        try:
            self.process.start()
        # Whatever kept it from coming up may be gone at the next attempt; it is told in the meantime.
        except Exception as error:  # noqa: BLE001
            return f"did not come up: {error}"
        self.report(self.name, "up")
        while (status := self.process.poll()) is None:
            if self._ended.wait(_LOOK_EVERY):
                return "was stopped"
        return f"ended with status {status}"
