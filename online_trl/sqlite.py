"""
What SQLite alone needs: locks between processes that the kernel releases with the death of whoever holds them.

SQLite from 3.7.0 to 3.51.2 can corrupt a database whose write-ahead log is reset by one connection while another one
checkpoints it (https://sqlite.org/wal.html#walresetbug). Checkpoints run at the end of a write transaction, and when
the last connection is closed. The latter do no harm: SQLite itself sees to it that nobody else is connected then. A
write transaction must not overlap the checkpoint at the end of another one, so that on these versions its writer holds
the lock on a file beside the database.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from .backoff import Backoff

Version = tuple[int, ...]

_DEFECT_SINCE, _DEFECT_FIXED = (3, 7, 0), (3, 51, 3)
# Releases of older lines that have the fix: whatever follows them in their line has it too.
_BACKPORTS = ((3, 44, 6), (3, 50, 7))

_BACKOFF = Backoff(seconds=0.0002, longest=0.005)


class FileLockError(RuntimeError):
    """A lock on a file cannot be had; the message says who holds it, or why not."""


def has_wal_reset_defect(version: Version) -> bool:
    """Returns whether this version of SQLite may corrupt a database that two connections write to."""
    if any(backport[:2] == version[:2] and version >= backport for backport in _BACKPORTS):
        return False
    return _DEFECT_SINCE <= version < _DEFECT_FIXED


@contextmanager
def locked_file(path: Path, *, seconds: float = 0.0, holder: str = "") -> Iterator[None]:
    """
    Holds a lock that no other process, and no other caller in this one, can hold meanwhile.

    Args:
        path (`Path`):
            File to lock; made if missing.
        seconds (`float`, *optional*, defaults to `0.0`):
            How long to wait for whoever holds it.
        holder (`str`, *optional*):
            Written into the file, for others to read who holds it.

    Raises:
        [`FileLockError`]: if somebody else still holds it after that time, or the file cannot be opened.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileLockError(f"cannot lock {path}: {error.strerror}") from error
    try:
        if not _lock(file, seconds):
            other = os.read(file, 1000).decode(errors="replace")
            raise FileLockError(f"{path} is locked by {other or 'another process'}")
        try:
            if holder:
                os.ftruncate(file, 0)
                os.pwrite(file, holder.encode(), 0)
            yield
        finally:
            # A child that was forked meanwhile has the file open as well: closing it here is not enough.
            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _lock(file: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    for attempt in count(1):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        else:
            return True
        time.sleep(_BACKOFF.pause(attempt))
    raise AssertionError("the attempts never end")
