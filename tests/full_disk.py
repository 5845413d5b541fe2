"""A disk without room, as a process sees it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_files(pid: int, *, bytes_left: int, folder: Path) -> Iterator[None]:
    """Lets no file of a process grow by more than so much: what it writes then fails, as on a full disk."""
    largest = max(file.stat().st_size for file in folder.iterdir())
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest + bytes_left, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
