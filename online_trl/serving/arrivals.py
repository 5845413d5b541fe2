"""What the log's writer has done comes back to the event loop, a whole group at once."""

from __future__ import annotations

import asyncio
from collections import deque
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
        self._done: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()

    async def wait(self, future: Future[Result]) -> Result:
        """Returns the result of a future, or raises its error. Whoever gives up waiting does not cancel it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Result] = loop.create_future()
        future.add_done_callback(lambda done: self._arrive(loop, waiter, done))
        return await waiter

    def _arrive(self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[Any], done: Future[Any]) -> None:
        self._done.append((waiter, done))
        if len(self._done) == 1:
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._done:
            waiter, done = self._done.popleft()
            if waiter.cancelled():
                continue
            error = done.exception()
            if error is None:
                waiter.set_result(done.result())
            else:
                waiter.set_exception(error)
