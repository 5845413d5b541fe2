"""A disk without room, as processes see it: none of their files grows beyond a limit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

_WAL_SEGMENT = 16 * 2**20


@contextmanager
def limited_files(pid: int, *, bytes_left: int, folder: Path) -> Iterator[None]:
    """Lets no file of a process grow by more than so much: what it writes then fails, as on a full disk."""
    largest = max(file.stat().st_size for file in folder.iterdir())
    with _limited([pid], largest + bytes_left):
        yield


@contextmanager
def limited_postgresql(url: str) -> Iterator[None]:
    """
    The same for what clients write into a server of PostgreSQL. Each file of its write-ahead log has room for what it
    holds: without, the server would go down, as it does when the disk of its log is full.
    """
    import psycopg

    with psycopg.connect(url) as connection:
        (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        clients = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
        pids = [pid for (pid,) in clients]
    # Those that are to come take over the limits of the process that starts them.
    starter = int((Path(data) / "postmaster.pid").read_text().split()[0])
    with _limited([starter, *pids], _WAL_SEGMENT):
        yield


@contextmanager
def _limited(pids: Iterable[int], size: int) -> Iterator[None]:
    with ExitStack() as limits:
        for pid in filter(_is_running, pids):
            _limit(pid, str(size))
            limits.callback(_limit, pid, "unlimited")
        yield


def _limit(pid: int, size: str) -> None:
    if _is_running(pid):
        # As the user whose process it is: PostgreSQL does not run as root, whom some containers forbid this.
        owner = os.stat(f"/proc/{pid}")
        account: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        is_mine = owner.st_uid == os.getuid()
        subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={size}:"], check=True, **({} if is_mine else account))


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
