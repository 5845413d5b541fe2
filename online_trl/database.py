"""
The database behind the feedback log: opened by URL, brought up to date, read and written in transactions.

A write transaction excludes every other writer, and is on disk when it has been left; readers have connections of
their own and never wait for it. Errors of the driver come out as [`StoreError`].
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from sqlite3 import Error as SQLiteError
from sqlite3 import sqlite_version_info
from typing import Any

import sqlalchemy as sa
from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, SQLAlchemyError, StatementError

from . import migrations
from .migrations import schema
from .sqlite import FileLockError, has_wal_reset_defect, locked_file

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_SUPPORTED = "sqlite:///path/to/feedback.db and postgresql://user@host/database"
_BUSY_SECONDS = 60
# Most that SQLite may cache for a connection; by default it is too little for the indexes of a long log.
_CACHE_KIB = 16_000
_LOCK_POSITION = sa.select(schema.log_position.c.seq).with_for_update()
_JSON = json.JSONDecoder()
_MIGRATION_LOCK = 0x6F6E6C696E65


class StoreError(RuntimeError):
    """The log cannot be opened, read or written; the message names the log and the reason."""


class Database:
    """
    The database behind a store URL. Opening it creates the tables, or brings older ones up to date.

    Args:
        url (`str`):
            `sqlite:///…` or `postgresql://…`.

    Raises:
        [`StoreError`]: if the URL is of another kind, or the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.name = parsed.render_as_string(hide_password=True)
        """Its URL, without the password."""
        self.found_revision: str | None = None
        """Revision of the schema that was found when it was opened, `None` in a new database."""
        self._file = _file(parsed)
        self._engine = _create_engine(parsed)
        self._process = os.getpid()
        self._inherited: list[sa.Pool] = []
        try:
            self._migrate()
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connections of this process."""
        self._leave_to_parent()
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Gives a connection to read with."""
        with self._clear_errors(), self._connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Gives a connection in a transaction that no other writer overlaps, committed at the end of the block."""
        with self._transaction() as connection:
            # SQLite has no row locks; there BEGIN IMMEDIATE keeps the others out.
            if connection.dialect.name == "postgresql":
                connection.execute(_LOCK_POSITION)
            yield connection

    def drop_old_pages(self) -> None:
        """
        Writes the file of SQLite anew and empties its write-ahead log: where rows were moved to other pages, the old
        ones keep copies, which `secure_delete` does not overwrite. Writers wait meanwhile.

        Raises:
            [`StoreError`]: if the disk has no room for a copy, or a reader keeps old pages in use for too long. What
                was erased may still be in the file then.
        """
        if self._file is None:
            return
        try:
            self._on_file("VACUUM")
        except StoreError as error:
            raise StoreError(
                f"{error}; what was erased is no longer in the log, but its bytes may still be in the file, which "
                "could not be written anew: make room for it, here and in the temporary folder, and erase again"
            ) from error
        ((is_busy, _, _),) = self._on_file("PRAGMA wal_checkpoint(TRUNCATE)")
        if is_busy:
            raise StoreError(
                f"{self.name}: what was erased is still in the file or its write-ahead log, because a reader has been "
                f"at work for more than {_BUSY_SECONDS} s; erase it again once that has finished"
            )

    def _on_file(self, command: str) -> list[Any]:
        with self._clear_errors(), self._connect() as connection, _writing_alone(self._file):
            driver = connection.connection.driver_connection
            assert driver is not None
            rows: list[Any] = driver.execute(command).fetchall()
        return rows

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """
        Keeps other servers off an SQLite file; a PostgreSQL database may have several.

        Raises:
            [`StoreError`]: if another server has claimed the file.
        """
        if self._file is None:
            yield
            return
        claim = locked_file(self._file.with_name(f"{self._file.name}-server"), holder=f"process {os.getpid()}")
        with ExitStack() as stack:
            try:
                stack.enter_context(claim)
            except FileLockError as error:
                raise StoreError(
                    f"{self.name} has a server already ({error}); stop that one, give this one a log of its own, or "
                    "put the log into PostgreSQL, which several servers may share"
                ) from error
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._clear_errors(), self._connect() as connection, _writing_alone(self._file):
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def _connect(self) -> sa.Connection:
        self._leave_to_parent()
        return self._engine.connect()

    def _leave_to_parent(self) -> None:
        # A forked process (a data loader's worker) must neither use nor close the connections of its parent.
        if self._process != os.getpid():
            self._process = os.getpid()
            self._inherited.append(self._engine.pool)
            self._engine.dispose(close=False)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except FileLockError as error:
            raise StoreError(f"{self.name}: {error}") from error
        except (SQLAlchemyError, SQLiteError) as error:
            reason = error.orig if isinstance(error, StatementError) else error
            raise StoreError(f"{self.name}: {reason}") from error

    def _migrate(self) -> None:
        with self.reading() as connection:
            self.found_revision = migrations.current_revision(connection)
        if self.found_revision == migrations.REVISIONS[-1]:
            return
        if self.found_revision not in (None, *migrations.REVISIONS):
            raise StoreError(
                f"{self.name} was written by a newer online-trl (schema {self.found_revision}); upgrade the package"
            )
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            migrations.upgrade(connection)


def _parse(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except ArgumentError as error:
        raise StoreError(f"{text!r} is not the URL of a store; supported are {_SUPPORTED}") from error
    if url.drivername in ("http", "https"):
        raise StoreError(
            "through a server a log can only be read; to write to it, or to say who may read it, name the database "
            f"that the server keeps it in, where that is: {_SUPPORTED}"
        )
    if url.drivername not in _DRIVERS:
        raise StoreError(f"a store of kind {url.drivername!r} is unknown; supported are {_SUPPORTED}")
    if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError(f"{text!r} names no file; the log has to outlive its process: sqlite:///path/to/feedback.db")
    return url


def _create_engine(url: sa.URL) -> sa.Engine:
    options: dict[str, Any] = {"hide_parameters": True, "json_serializer": _encode}
    if url.drivername == "sqlite":
        _create_folder(url)
        # The driver's own transactions begin too late to exclude other writers; `_begin` begins them.
        options["connect_args"] = {"isolation_level": None, "timeout": _BUSY_SECONDS}
        options["json_deserializer"] = _decode
        # What a connection has cached is worth nothing once another one has written: the same one is to write again.
        options["pool_use_lifo"] = True
    else:
        options |= {"isolation_level": "READ COMMITTED", "pool_pre_ping": True}
        options["json_deserializer"] = _decode_bytes
    try:
        engine = sa.create_engine(url.set(drivername=_DRIVERS[url.drivername]), **options)
    except ImportError as error:
        raise StoreError(
            f"a postgresql:// store needs psycopg: pip install 'online-trl[postgres]' ({error})"
        ) from error
    if url.drivername == "sqlite":
        event.listen(engine, "connect", lambda connection, record: _set_pragmas(connection, _file(url)))
        event.listen(engine, "begin", _begin)
    else:
        event.listen(engine, "connect", lambda connection, record: _wait_for_disk(connection))
    return engine


def _encode(value: Any) -> str:
    # Several times as fast as the standard library's for a value as short as most are here, which goes deeper.
    try:
        return to_json(value).decode()
    except PydanticSerializationError:
        return json.dumps(value)


def _decode(text: str) -> Any:
    # An encoder wrote it: there is no white space around it to look for, which takes longer than decoding a message.
    return _JSON.raw_decode(text)[0]


def _decode_bytes(text: bytes) -> Any:
    # They are UTF-8; to find that out takes as long as the rest.
    return _decode(text.decode())


def _create_folder(url: sa.URL) -> None:
    folder = Path(url.database or "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot create the folder of {url}: {error}") from error


def _file(url: sa.URL) -> Path | None:
    # A link and the file that it leads to are one database.
    return Path(url.database or "").resolve() if url.drivername == "sqlite" else None


def _writing_alone(file: Path | None) -> AbstractContextManager[None]:
    if file is None or not has_wal_reset_defect(sqlite_version_info):
        return nullcontext()
    return locked_file(file.with_name(f"{file.name}-writer"), seconds=_BUSY_SECONDS)


def _set_pragmas(connection: Any, file: Path | None) -> None:
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", f"cache_size=-{_CACHE_KIB}"):
        connection.execute(f"PRAGMA {pragma}")
    # Only the change writes, so that who opens an existing log waits for nobody.
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        with _writing_alone(file):
            connection.execute("PRAGMA journal_mode=WAL")


def _wait_for_disk(connection: Any) -> None:
    # Whoever has turned this off for the server, the database or the user did not have an acknowledgement in mind.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
