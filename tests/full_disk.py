"""A disk without room, as processes see it: none of their files grows beyond a limit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postgresql import data_directory

_WAL_SEGMENT = 16 * 2**20


@contextmanager
def limited_files(pid: int, *, bytes_left: int, folder: Path) -> Iterator[None]:
    """Lets no file of a process grow by more than so much: what it writes then fails, as on a full disk."""
    largest = max(file.stat().st_size for file in folder.iterdir())
    before = _limit_of(pid)
    _limit(pid, str(largest + bytes_left))
    try:
        yield
    finally:
        _limit(pid, before)


@contextmanager
def limited_postgresql(url: str) -> Iterator[None]:
    """
    The same for what clients write into a server of PostgreSQL. Each file of its write-ahead log has room for what it
    holds: without, the server would go down, as it does when the disk of its log is full.
    """
    # Those that serve a client are started by it, and take over its limits.
    starter = int((data_directory(url) / "postmaster.pid").read_text().split()[0])
    before = _limit_of(starter)
    try:
        for pid in (starter, *_clients(url)):
            _limit(pid, str(_WAL_SEGMENT))
        yield
    finally:
        for pid in (starter, *_clients(url)):
            _limit(pid, before)


def _clients(url: str) -> list[int]:
    """The processes that serve a client, but for this one."""
    import psycopg

    query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with psycopg.connect(url) as connection:
        return [pid for (pid,) in connection.execute(query)]


def _limit_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max file size")).split()[3]


def _limit(pid: int, size: str) -> None:
    # As the user whose process it is: PostgreSQL does not run as root, whom some containers forbid this.
    try:
        owner = os.stat(f"/proc/{pid}")
    except FileNotFoundError:  # a client that has left
        return
    account: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    command = ["prlimit", f"--pid={pid}", f"--fsize={size}:"]
    status = subprocess.run(command, **({} if owner.st_uid == os.getuid() else account)).returncode
    assert status == 0 or not Path(f"/proc/{pid}").exists()
