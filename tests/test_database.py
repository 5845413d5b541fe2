import os

import pytest
import sqlalchemy as sa

from online_trl.database import Database


def ask(database, question):
    with database.reading() as connection:
        return connection.execute(sa.text(question)).scalar_one()


@pytest.mark.parametrize(("found", "used"), [("off", "on"), ("on", "on"), ("local", "local")])
def test_postgresql_acknowledges_what_is_on_disk_whatever_it_is_configured_to(postgresql_url, found, used):
    database = Database(f"{postgresql_url}%20-csynchronous_commit%3D{found}")
    assert ask(database, "SHOW synchronous_commit") == used
    with database.writing() as connection:
        assert connection.execute(sa.text("SHOW synchronous_commit")).scalar_one() == used
        connection.rollback()
    assert ask(database, "SHOW synchronous_commit") == used
    database.close()


def test_a_forked_process_that_closes_the_database_leaves_its_parent_the_connections(postgresql_url):
    database = Database(postgresql_url)
    backend = ask(database, "SELECT pg_backend_pid()")
    child = os.fork()
    if child == 0:
        closed = False
        try:
            database.close()
            closed = True
        finally:
            os._exit(0 if closed else 1)
    assert os.waitpid(child, 0)[1] == 0
    # A connection that was closed would be replaced without a word.
    assert ask(database, "SELECT pg_backend_pid()") == backend
    database.close()
