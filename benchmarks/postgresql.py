"""A private PostgreSQL server on loopback, for as long as a test run or a benchmark lasts."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class NoPostgreSQLError(RuntimeError):
    """This machine has no programs of a PostgreSQL server; the message names the package that has them."""


@contextmanager
def running_postgresql(*, fsync: bool = True) -> Iterator[str]:
    """
    Starts a server on a free port, and stops it at the end with all its data.

    Args:
        fsync (`bool`, *optional*, defaults to `True`):
            Whether a commit waits for the disk, as it does outside of tests.

    Yields:
        `str`: URL of the database `postgres`.

    Raises:
        [`NoPostgreSQLError`]: if the server's programs are missing.
    """
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    run = partial(_run, folder)
    if account := _account():
        shutil.chown(folder, account["user"], account["group"])
    data, port = str(folder / "data"), _free_port()
    options = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c fsync={'on' if fsync else 'off'}"
    try:
        run(initdb, "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        run(pg_ctl, "start", "-w", "-D", data, "-l", str(folder / "log"), "-o", options)
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "stop", "-w", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def restart_postgresql(url: str) -> None:
    """
    Restarts a server as a crash would: what it does is cut off, and it recovers from its write-ahead log.

    Args:
        url (`str`):
            The server's, from [`running_postgresql`].
    """
    data = data_directory(url)
    _run(
        data.parent,
        _program("pg_ctl"),
        "restart",
        "-w",
        "-D",
        str(data),
        "-l",
        str(data.parent / "log"),
        "-m",
        "immediate",
    )


def data_directory(url: str) -> Path:
    """Returns where the server of this URL keeps its data."""
    import psycopg

    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0])


def _account() -> dict[str, Any]:
    # initdb refuses to run as root.
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **_account())


def _program(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), *sorted(glob.glob("/usr/lib/postgresql/*/bin"))])
    program = shutil.which(name, path=path)
    if program is None:
        raise NoPostgreSQLError(
            f"no PostgreSQL server here: {name} is neither in PATH nor in /usr/lib/postgresql/*/bin; "
            "on Debian: apt-get install postgresql"
        )
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
