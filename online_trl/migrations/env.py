"""Alembic's entry point: runs the steps on the connection that it is handed, inside the caller's transaction."""

from __future__ import annotations

from alembic import context

from online_trl.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
