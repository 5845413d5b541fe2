"""
The schema of the feedback log, step by step, run by [`~online_trl.store.FeedbackStore`] when it opens a database.

`REVISIONS` repeats the names of the scripts in `versions/`, so that a database which is up to date is recognised by
one query, without loading Alembic.
"""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text

REVISIONS = ("0001", "0002")

# Its own name, so that the log can share a PostgreSQL database with an application that uses Alembic too.
VERSION_TABLE = "online_trl_version"

# Alembic's `op` and `context` are global to the process.
_alembic_lock = threading.Lock()


def current_revision(connection: Connection) -> str | None:
    """Returns the revision of the database, or `None` if it holds no log yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()


def upgrade(connection: Connection) -> None:
    """Brings the database to the newest revision, within the transaction that `connection` is in."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _alembic_lock:
        command.upgrade(config, "head")
