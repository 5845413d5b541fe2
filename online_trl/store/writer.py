"""
The one thread of a store that writes: it takes all requests that wait and commits them as one group.

A request is acknowledged, by its future, only after the commit. While one group is on its way to the disk the next one
gathers, so that the more clients there are, the more rows share one commit.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..database import Database
from .errors import StoreError
from .group import WriteRequest, write_group


class Writer:
    """
    Commits write requests in groups.

    The queue has no bound: whoever submits a request waits for its future, so that it is never longer than there are
    clients, and a refused request would be lost feedback.

    Args:
        database ([`~online_trl.database.Database`]):
            Where to write. It stays the caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed = False
        self._is_writing = False
        self._requests: list[WriteRequest] = []
        self._begin()
        _writers.add(self)

    @property
    def waiting(self) -> int:
        """Number of requests that no group has taken up yet."""
        return len(self._requests)

    def submit(self, request: WriteRequest) -> None:
        """
        Queues a request. Its future has the result once it is on disk, or the error.

        Raises:
            [`StoreError`]: if the writer has been closed.
        """
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._database.name}: the store has been closed")
            self._requests.append(request)
            if not self._is_writing:
                self._is_writing = True
                self._thread.submit(self._write_waiting)

    def close(self) -> None:
        """Writes what still waits, and takes nothing more."""
        with self._lock:
            self._closed = True
        self._thread.shutdown()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._requests = []
        self._is_writing = False
        # A pool of one: idle, it lets the process end; at its end, it first does what it was given.
        self._thread: ThreadPoolExecutor = ThreadPoolExecutor(1, thread_name_prefix="feedback-log")

    def _write_waiting(self) -> None:
        while group := self._take():
            self._commit([request for request in group if request.future.set_running_or_notify_cancel()])

    def _take(self) -> list[WriteRequest]:
        with self._lock:
            group, self._requests = self._requests, []
            self._is_writing = bool(group)
        return group

    def _commit(self, group: Sequence[WriteRequest]) -> None:
        try:
            with self._database.writing() as connection:
                outcomes = write_group(connection, group)
        except Exception as error:  # noqa: BLE001 - nothing is stored, and everybody who waits gets to know why
            outcomes = [error] * len(group)
        for request, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _begin_again() -> None:
    # A forked process has the parent's queue but not its thread; what waits there is the parent's to write.
    for writer in _writers:
        writer._begin()


os.register_at_fork(after_in_child=_begin_again)
