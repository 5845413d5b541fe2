"""Ctrl-C as a wish to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopSignal:
    """
    Takes note of Ctrl-C (and `SIGTERM`) instead of dying of it; a second one stops at once. Outside the main thread,
    where Python delivers no signals, it does nothing.

    Attributes:
        asked (`bool`):
            Whether somebody wants to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Begins to take note."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        self.restore()
