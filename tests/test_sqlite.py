import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from online_trl import database
from online_trl.sqlite import FileLockError, has_wal_reset_defect, locked_file
from online_trl.store import FeedbackStore, StoreError
from online_trl.types import Interaction


def interaction():
    message = [{"role": "user", "content": "hello"}]
    return Interaction(prompt=message, completion=message, policy_version="p", session_id="s", user_id="u")


@pytest.mark.parametrize(
    ("version", "defect"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_versions_with_the_defect_are_known(version, defect):
    assert has_wal_reset_defect(version) is defect


def test_one_holds_the_lock_and_the_others_are_told_who(tmp_path):
    path = tmp_path / "lock"
    with (
        locked_file(path, holder="process 7"),
        pytest.raises(FileLockError, match="lock is locked by process 7"),
        locked_file(path),
    ):
        pass
    with locked_file(path, holder="me"):
        assert path.read_text() == "me"


def test_a_lock_is_waited_for(tmp_path):
    path = tmp_path / "lock"
    order = []
    held = threading.Event()

    def hold():
        with locked_file(path):
            held.set()
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with locked_file(path, seconds=60):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(FileLockError, match=r"cannot lock .*nowhere"), locked_file(tmp_path / "nowhere" / "lock"):
        pass


def test_a_child_forked_meanwhile_does_not_keep_the_lock(tmp_path):
    path = tmp_path / "lock"
    reader, writer = os.pipe()
    with locked_file(path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(reader)
    with locked_file(path):
        pass
    os.close(writer)
    os.waitpid(child, 0)


_HOLD = """
import sys
from pathlib import Path
from online_trl.sqlite import locked_file

with locked_file(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_kernel_releases_the_lock_of_a_killed_process(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FileLockError), locked_file(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked_file(path):
            pass


@pytest.mark.parametrize(("version", "waits"), [((3, 51, 2), True), ((3, 51, 3), False)])
def test_writers_wait_for_each_others_checkpoints_where_sqlite_has_the_defect(tmp_path, monkeypatch, version, waits):
    monkeypatch.setattr(database, "sqlite_version_info", version)
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.01)
    path = tmp_path / "feedback.db"
    with FeedbackStore(f"sqlite:///{path}") as store:
        with locked_file(tmp_path / "feedback.db-writer"):
            if waits:
                with pytest.raises(StoreError, match=r"feedback\.db-writer is locked by another process"):
                    store.add_interaction(interaction())
            else:
                store.add_interaction(interaction())
            # Reading, also by somebody who opens the log only now, waits for nobody.
            with FeedbackStore(f"sqlite:///{path}") as reader:
                assert len(reader.interactions()) == (0 if waits else 1)
        assert store.add_interaction(interaction()).seq == (1 if waits else 2)


_WRITE_AND_LEAVE = """
import sys
from online_trl.store import FeedbackStore
from online_trl.types import Interaction

message = [{"role": "user", "content": "x" * 1000}]
for _ in range(30):
    with FeedbackStore(sys.argv[1]) as store:
        for _ in range(5):
            store.add_interaction(
                Interaction(prompt=message, completion=message, policy_version="p", session_id="s", user_id="u")
            )
"""


def test_a_reader_that_leaves_last_empties_the_write_ahead_log_under_nobody_who_writes(tmp_path):
    path = tmp_path / "feedback.db"
    url = f"sqlite:///{path}"
    FeedbackStore(url).close()
    writers = [subprocess.Popen([sys.executable, "-c", _WRITE_AND_LEAVE, url]) for _ in range(2)]
    found = [0]
    # Closing checkpoints whenever both writers happen to have left.
    while any(writer.poll() is None for writer in writers):
        with FeedbackStore(url) as reader:
            found.append(reader.latest_seq())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert found == sorted(found)
    with FeedbackStore(url) as store:
        assert [row.seq for row in store.interactions()] == list(range(1, 301))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_reader_that_leaves_last_loses_nothing(tmp_path):
    path = tmp_path / "feedback.db"
    reader = FeedbackStore(f"sqlite:///{path}")
    reader.latest_seq()
    with FeedbackStore(f"sqlite:///{path}") as writer:
        writer.add_interaction(interaction())
    assert (tmp_path / "feedback.db-wal").stat().st_size > 0
    reader.close()
    assert not (tmp_path / "feedback.db-wal").exists()
    with FeedbackStore(f"sqlite:///{path}") as store:
        assert store.add_interaction(interaction()).seq == 2


def test_a_link_to_a_log_has_the_lock_of_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "sqlite_version_info", (3, 40, 1))
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.01)
    FeedbackStore(f"sqlite:///{tmp_path / 'feedback.db'}").close()
    (tmp_path / "link.db").symlink_to(tmp_path / "feedback.db")
    with (
        FeedbackStore(f"sqlite:///{tmp_path / 'link.db'}") as store,
        locked_file(tmp_path / "feedback.db-writer"),
        pytest.raises(StoreError, match="is locked"),
    ):
        store.add_interaction(interaction())


def test_an_sqlite_file_has_one_server(tmp_path):
    url = f"sqlite:///{tmp_path / 'feedback.db'}"
    with FeedbackStore(url) as store, FeedbackStore(url) as other:
        message = rf"feedback\.db has a server already \(.*locked by process {os.getpid()}\); stop that one"
        with store.claimed(), pytest.raises(StoreError, match=message), other.claimed():
            pass
        with other.claimed():
            assert store.add_interaction(interaction()).seq == 1


def test_an_acknowledged_row_is_in_the_log_while_somebody_reads_an_old_state(tmp_path):
    path = tmp_path / "feedback.db"
    with FeedbackStore(f"sqlite:///{path}") as store:
        store.add_interaction(interaction())
        old = sqlite3.connect(path, isolation_level=None)
        old.execute("BEGIN")
        assert old.execute("SELECT count(*) FROM interactions").fetchone() == (1,)
        for _ in range(3):
            store.add_interactions([interaction() for _ in range(2000)])
        assert old.execute("SELECT count(*) FROM interactions").fetchone() == (1,)
        assert store.summary().interactions == 6001
        old.close()
