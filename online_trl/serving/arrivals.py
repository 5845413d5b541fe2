"""What the log's writer has done comes back to the event loop, a whole group at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Arrivals:
    """
    Waits for the log's futures on the event loop, as `asyncio.wrap_future` does for one.

    Waking the loop is a system call, at which the writer also hands over the interpreter: done for each request of a
    group, it takes longer than to write them. Here it is done for the first, and the others come along. To be used by
    one event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: list[tuple[asyncio.Future[Any], Future[Any]]] = []
        """Is empty exactly while no delivery is due."""

    async def wait(self, future: Future[Result]) -> Result:
        """Returns the result of a future, or raises its error. Whoever gives up waiting does not cancel it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Result] = loop.create_future()
        future.add_done_callback(lambda done: self._arrive(loop, waiter, done))
        return await waiter

    def _arrive(self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[Any], done: Future[Any]) -> None:
        # A future that was done before it was waited for arrives in the loop's thread, beside the writer's.
        with self._lock:
            is_first = not self._done
            self._done.append((waiter, done))
        if is_first:
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            arrived, self._done = self._done, []
        for waiter, done in arrived:
            if waiter.cancelled():
                continue
            error = done.exception()
            if error is None:
                waiter.set_result(done.result())
            else:
                waiter.set_exception(error)
