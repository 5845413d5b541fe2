from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from online_trl import database, migrations
from online_trl.database import Database
from online_trl.migrations import schema
from online_trl.store import (
    FeedbackStore,
    ForeignFeedbackError,
    IdempotencyConflictError,
    StoreError,
    StoreSummary,
    UnknownFeedbackError,
    UnknownInteractionError,
    prompt_key,
)
from online_trl.types import Feedback, FeedbackKind, FeedbackSource, Interaction, Purpose


def interaction(prompt: str = "Where is my parcel?", answer: str = "On its way.", **fields: Any) -> Interaction:
    defaults = {"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"}
    return Interaction(
        prompt=[{"role": "user", "content": prompt}],
        completion=[{"role": "assistant", "content": answer}],
        **(defaults | fields),
    )


def thumb(answer: Interaction | str, value: bool | None = True, **fields: Any) -> Feedback:
    name = answer if isinstance(answer, str) else answer.interaction_id
    return Feedback(kind=FeedbackKind.BINARY, interaction_ids=[name], value=value, **({"user_id": "ada"} | fields))


def test_an_interaction_comes_back_as_it_went_in(store):
    asked = interaction(
        "¿Dónde está? \x00 \U0001f4e6",
        purpose=Purpose.EVALUATION,
        sampling={"temperature": 0.7, "stop": ["\n"], "seed": None},
        prompt_ids=[1, 2],
        completion_ids=[3, 4, 5],
        logprobs=[-0.1, -1e-17, -12.345678901234567],
        created_at=datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone.utc),
    )
    stored = store.add_interaction(asked)
    assert stored == replace(asked, seq=1)
    assert store.interactions() == [stored]
    assert store.get_interactions([asked.interaction_id, "unknown"]) == {asked.interaction_id: stored}


def test_an_interaction_without_tokens_comes_back_without_tokens(store):
    store.add_interaction(interaction())
    (stored,) = store.interactions()
    assert (stored.prompt_ids, stored.completion_ids, stored.logprobs, stored.sampling) == (None, None, None, {})


def test_tokens_are_left_out_on_request_and_nothing_else_is(store):
    tokens = {"prompt_ids": [1, 2], "completion_ids": [3], "logprobs": [-0.5]}
    first = store.add_interaction(interaction(sampling={"top_p": 0.9}, template_hash="hash", **tokens))
    again = store.add_interaction(interaction(regenerates=first.interaction_id, **tokens))
    end = store.latest_seq()
    bare = [replace(row, **dict.fromkeys(tokens)) for row in (first, again)]
    ids = [row.interaction_id for row in bare]
    assert store.interactions(tokens=False) == bare
    assert store.get_interactions(ids, tokens=False) == dict(zip(ids, bare, strict=True))
    assert store.session_interactions(["session"], upto=end, tokens=False) == bare
    assert store.related_regenerations(after=0, upto=end, tokens=False) == bare
    assert store.session_interactions(["session"], upto=end) == [first, again]
    assert store.related_regenerations(after=0, upto=end) == [first, again]


@pytest.mark.parametrize(
    ("kind", "answers", "value"),
    [
        (FeedbackKind.BINARY, 1, False),
        (FeedbackKind.RATING, 1, {"score": 4.5, "low": 1, "high": 5}),
        (FeedbackKind.COMPARISON, 2, "tie"),
        (FeedbackKind.RANKING, 3, [2, 1, 2]),
        (FeedbackKind.CORRECTION, 1, "It arrives today."),
        (FeedbackKind.IMPLICIT, 1, "regenerate"),
    ],
)
def test_feedback_of_every_kind_comes_back_as_it_went_in(store, kind, answers, value):
    rows = store.add_interactions([interaction() for _ in range(answers)])
    said = Feedback(
        kind=kind,
        interaction_ids=[row.interaction_id for row in rows],
        value=value,
        user_id="ada",
        source=FeedbackSource.SYNTHETIC,
        comment="late, sorry",
        tags={"page": "help"},
    )
    stored = store.add_feedback(said)
    assert stored == replace(said, seq=answers + 1)
    assert store.feedback() == [stored]


def test_times_are_stored_and_returned_in_utc(store):
    noon_in_tokyo = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=9)))
    stored = store.add_interaction(interaction(created_at=noon_in_tokyo))
    (read,) = store.interactions()
    assert stored.created_at == read.created_at == noon_in_tokyo
    assert stored.created_at.tzinfo is read.created_at.tzinfo is timezone.utc


def test_a_time_without_a_zone_is_refused(store):
    with pytest.raises(StoreError, match="without a time zone"):
        store.add_interaction(interaction(created_at=datetime(2026, 3, 1)))
    assert store.latest_seq() == 0


def test_a_number_that_json_cannot_hold_is_refused(store):
    with pytest.raises(StoreError, match="not JSON compliant"):
        store.add_interaction(interaction(logprobs=[math.nan]))
    assert store.latest_seq() == 0


def test_what_is_nested_deeply_is_kept(store):
    deep = 1
    for _ in range(300):
        deep = [deep]
    rows = store.add_interactions([interaction(), interaction(sampling={"deep": deep}), interaction()])
    assert store.interactions() == rows


def test_one_seq_counts_over_interactions_and_feedback(store):
    assert store.latest_seq() == 0
    first, second = store.add_interactions([interaction(), interaction()])
    up = store.add_feedback(thumb(first))
    third = store.add_interaction(interaction())
    later = store.add_feedback_batch([thumb(second), thumb(third)])
    assert [row.seq for row in (first, second, up, third, *later)] == [1, 2, 3, 4, 5, 6]
    assert store.latest_seq() == 6


def test_intervals_exclude_their_lower_and_include_their_upper_end(store):
    answers = store.add_interactions([interaction() for _ in range(4)])
    rows = store.add_feedback_batch([thumb(answer) for answer in answers])
    assert [row.seq for row in store.interactions(after=1, upto=3)] == [2, 3]
    assert [row.seq for row in store.feedback(after=5, upto=7)] == [6, 7]
    assert store.feedback(after=8) == []
    assert store.feedback(limit=2) == rows[:2]


def test_interactions_are_chosen_by_purpose_and_version_and_read_from_either_end(store):
    purposes = [Purpose.CHAT, Purpose.EVALUATION, Purpose.CHAT, Purpose.BACKGROUND, Purpose.CHAT]
    versions = ["policy-0001", "policy-0001", "policy-0001", "policy-0002", "policy-0002"]
    rows = store.add_interactions(
        [interaction(purpose=p, policy_version=v) for p, v in zip(purposes, versions, strict=True)]
    )
    assert store.interactions(purpose=Purpose.CHAT) == [rows[0], rows[2], rows[4]]
    assert store.interactions(purpose=Purpose.CHAT, policy_version="policy-0001") == [rows[0], rows[2]]
    assert store.interactions(newest_first=True, limit=2) == [rows[4], rows[3]]
    assert store.interactions(limit=2) == [rows[0], rows[1]]


def test_many_ids_are_found_in_one_call(store):
    rows = store.add_interactions([interaction(str(number)) for number in range(1200)])
    found = store.get_interactions(row.interaction_id for row in rows)
    assert found == {row.interaction_id: row for row in rows}


def test_a_session_is_read_up_to_a_position(store):
    rows = store.add_interactions([interaction(session_id=name) for name in ("a", "b", "a", "c", "a")])
    assert store.session_interactions(["a", "c"], upto=4) == [rows[0], rows[2], rows[3]]
    assert store.session_interactions([], upto=5) == []


def test_the_same_key_twice_is_one_row(store):
    answer = store.add_interaction(interaction())
    first = store.add_feedback(thumb(answer, idempotency_key="click-1"))
    assert store.add_feedback(thumb(answer, idempotency_key="click-1")) == first
    assert store.add_feedback_batch([thumb(answer, idempotency_key="click-2")] * 2)[1].seq == first.seq + 1
    assert [row.idempotency_key for row in store.feedback()] == ["click-1", "click-2"]
    assert store.latest_seq() == 3


def test_a_retry_without_a_key_is_recognised_by_its_id(store):
    answer = store.add_interaction(interaction())
    said = thumb(answer)
    assert store.add_feedback(said) == store.add_feedback(said)
    assert store.add_interaction(answer) == answer
    assert store.latest_seq() == 2


def test_a_tuple_is_the_list_that_it_is_stored_as(store):
    answers = store.add_interactions([interaction(), interaction()])
    ids = [answer.interaction_id for answer in answers]
    said = Feedback(kind=FeedbackKind.RANKING, interaction_ids=ids, value=(1, 2), user_id="ada")
    assert store.add_feedback(said).seq == store.add_feedback(said).seq == 3


def test_key_of_one_row_and_id_of_another_is_a_conflict(store):
    answer = store.add_interaction(interaction())
    first, second = (store.add_feedback(thumb(answer, idempotency_key=f"click-{n}")) for n in (1, 2))
    with pytest.raises(IdempotencyConflictError, match=first.feedback_id):
        store.add_feedback(thumb(answer, feedback_id=first.feedback_id, idempotency_key="click-2"))
    fresh = thumb(answer, idempotency_key="click-3")
    with pytest.raises(IdempotencyConflictError, match=fresh.feedback_id):
        store.add_feedback_batch([fresh, thumb(answer, feedback_id=fresh.feedback_id, idempotency_key="click-2")])
    assert store.add_feedback(thumb(answer, idempotency_key="click-2")) == second
    assert store.feedback() == [first, second]


def test_the_same_key_with_other_contents_is_a_conflict(store):
    answer = store.add_interaction(interaction())
    first = store.add_feedback(thumb(answer, idempotency_key="click-1"))
    with pytest.raises(IdempotencyConflictError, match="click-1"):
        store.add_feedback(thumb(answer, False, idempotency_key="click-1"))
    with pytest.raises(IdempotencyConflictError, match=first.feedback_id):
        store.add_feedback(thumb(answer, feedback_id=first.feedback_id, idempotency_key="click-2"))
    with pytest.raises(IdempotencyConflictError, match=answer.interaction_id):
        store.add_interaction(interaction(answer="Lost.", interaction_id=answer.interaction_id))
    assert store.feedback() == [first]
    assert store.interactions() == [answer]


def test_feedback_about_an_unknown_interaction_is_refused_with_the_whole_batch(store):
    answer = store.add_interaction(interaction())
    with pytest.raises(UnknownInteractionError, match="nowhere") as caught:
        store.add_feedback_batch([thumb(answer), thumb("nowhere"), thumb("nowhere"), thumb("gone")])
    assert caught.value.interaction_ids == ("nowhere", "gone")
    assert store.feedback() == []
    assert store.latest_seq() == 1
    assert store.add_feedback(thumb(answer)).seq == 2


def test_only_a_row_of_the_log_can_be_superseded(store):
    answer = store.add_interaction(interaction())
    up = thumb(answer)
    with pytest.raises(UnknownFeedbackError, match=up.feedback_id):
        store.add_feedback(thumb(answer, False, supersedes=up.feedback_id))
    with pytest.raises(UnknownFeedbackError):
        store.add_feedback_batch([thumb(answer, False, supersedes=up.feedback_id), up])
    assert store.feedback() == []

    store.add_feedback_batch([up, thumb(answer, False, supersedes=up.feedback_id)])
    retraction = Feedback(
        kind=FeedbackKind.BINARY, interaction_ids=[], value=None, user_id="ada", supersedes=up.feedback_id
    )
    assert store.add_feedback(retraction) == replace(retraction, seq=4)
    assert [row.value for row in store.feedback()] == [True, False, None]


def test_only_the_user_of_a_row_can_supersede_it(store):
    answer = store.add_interaction(interaction())
    up = store.add_feedback(thumb(answer))
    for value in (False, None):
        with pytest.raises(ForeignFeedbackError, match="another user"):
            store.add_feedback(thumb(answer, value, supersedes=up.feedback_id, user_id="eve"))
    fresh = thumb(answer)
    with pytest.raises(ForeignFeedbackError):
        store.add_feedback_batch([fresh, thumb(answer, False, supersedes=fresh.feedback_id, user_id="eve")])
    assert store.latest_seq() == up.seq
    store.add_feedback_batch([fresh, thumb(answer, False, supersedes=fresh.feedback_id)])


def test_a_completion_of_an_upstream_server_is_its_first_choice(store):
    first, second = interaction(upstream_id="chatcmpl-1"), interaction(upstream_id="chatcmpl-1")
    other = interaction(upstream_id="chatcmpl-2", policy_version="policy-0002")
    store.add_interactions([second, first, other])
    names = store.interaction_ids_of_upstream(["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"])
    assert names == {"chatcmpl-1": first.interaction_id, "chatcmpl-2": other.interaction_id}
    assert store.policy_versions([*names.values(), "nowhere"]) == {
        first.interaction_id: "policy-0001",
        other.interaction_id: "policy-0002",
    }


def test_answers_that_were_chosen_to_be_compared_are_found(store):
    chosen = interaction(sampling={"comparison": {"strategy": "random", "propensity": 1.0}, "logit_bias": {"\x00": 1}})
    plain = interaction(sampling={"top_p": 0.9})
    odd = interaction(sampling={"comparison": "by hand"})
    names = [row.interaction_id for row in store.add_interactions([chosen, plain, odd])]
    assert store.comparison_strategies([*names, "nowhere"]) == {names[0]: "random"}
    assert store.comparison_strategies([]) == {}


def test_feedback_is_found_by_its_id_and_by_its_interaction(store):
    one, two = store.add_interactions([interaction(), interaction()])
    first, second = store.add_feedback_batch([thumb(one), thumb(two)])
    third = store.add_feedback(thumb(one, False, supersedes=first.feedback_id))
    assert store.get_feedback([second.feedback_id, "nowhere"]) == {second.feedback_id: second}
    assert store.feedback_about(one.interaction_id) == [first, third]


def test_related_feedback_is_what_bears_on_the_interval(store):
    parcel, again, refund, hours = store.add_interactions(
        [interaction("parcel"), interaction("parcel", "Soon."), interaction("refund"), interaction("hours")]
    )
    old = store.add_feedback_batch([thumb(parcel), thumb(refund), thumb(hours)])
    withdrawn = store.add_feedback(
        Feedback(
            kind=FeedbackKind.BINARY,
            interaction_ids=[],
            value=None,
            user_id="ada",
            supersedes=old[0].feedback_id,
        )
    )
    judged = store.add_feedback(thumb(again, False))
    assert store.related_feedback(after=judged.seq - 1, upto=judged.seq) == [old[0], withdrawn, judged]
    asked = store.add_interaction(interaction("refund", "In five days."))
    assert store.related_feedback(after=judged.seq, upto=asked.seq) == [old[1]]
    assert store.related_feedback(after=0, upto=asked.seq) == store.feedback()
    assert store.related_feedback(after=4, upto=6) == old[:2]


def test_the_summary_counts(store):
    answers = store.add_interactions(
        [interaction(user_id="ada"), interaction(user_id="bob"), interaction(policy_version="policy-0002")]
    )
    store.add_feedback_batch([thumb(answers[0]), thumb(answers[1], user_id="cyd")])
    store.add_feedback(
        Feedback(
            kind=FeedbackKind.CORRECTION, interaction_ids=[answers[0].interaction_id], value="Here.", user_id="ada"
        )
    )
    assert store.summary() == StoreSummary(
        latest_seq=6,
        interactions=3,
        users=3,
        feedback_by_kind={"binary": 2, "correction": 1},
        answers_by_version={"policy-0001": 2, "policy-0002": 1},
    )


def test_an_empty_log_is_empty(store):
    assert store.interactions() == store.feedback() == store.add_interactions([]) == store.add_feedback_batch([]) == []
    assert store.summary() == StoreSummary(0, 0, 0, {}, {})


def test_only_in_postgresql_a_log_has_several_servers(store, store_url):
    with FeedbackStore(store_url) as other, store.claimed():
        if store_url.startswith("postgresql"):
            with other.claimed():
                assert store.add_interaction(interaction()).seq + 1 == other.add_interaction(interaction()).seq
        else:
            with pytest.raises(StoreError, match="has a server already"), other.claimed():
                pass


def test_a_log_is_there_when_opened_again(store, store_url):
    answer = store.add_interaction(interaction())
    store.close()
    with FeedbackStore(store_url) as again:
        assert again.interactions() == [answer]
        assert again.add_feedback(thumb(answer)).seq == 2


def test_an_up_to_date_log_opens_without_alembic(store, store_url):
    code = f"""
import sys
from online_trl.store import FeedbackStore
FeedbackStore({store_url!r}).close()
assert not {{"alembic", "torch", "transformers", "trl", "datasets"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_log_of_a_newer_release_is_left_alone(store, store_url, monkeypatch):
    monkeypatch.setattr(migrations, "REVISIONS", ("0000",))
    with pytest.raises(StoreError, match="newer online-trl"):
        FeedbackStore(store_url)


def test_migrations_lead_to_the_tables_of_the_code(store_url):
    log = Database(store_url)
    with log.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
    log.close()
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()
    assert tuple(reversed([script.revision for script in scripts])) == migrations.REVISIONS


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "kind 'mysql' is unknown; supported are sqlite:///path/to/feedback.db and postgresql://"),
        ("feedback.db", "'feedback.db' is not the URL of a store; supported are sqlite:///"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_of_another_kind_is_refused(url, message):
    with pytest.raises(StoreError, match=message):
        FeedbackStore(url)


def test_a_missing_driver_names_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'online-trl\[postgres\]'"):
        FeedbackStore("postgresql://tester@/postgres")


def test_an_unreachable_server_is_an_error_without_the_password(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"postgresql://ada:\*\*\*@/log") as caught:
        FeedbackStore(f"postgresql://ada:secret@/log?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_missing_folder_is_created(tmp_path):
    path = tmp_path / "deep" / "down" / "feedback.db"
    with FeedbackStore(f"sqlite:///{path}") as store:
        store.add_interaction(interaction())
    assert path.exists()


def test_a_file_in_the_way_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create the folder"):
        FeedbackStore(f"sqlite:///{tmp_path}/file/feedback.db")


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    path = tmp_path / "feedback.db"
    path.write_text("not a database " * 100)
    with pytest.raises(StoreError, match=r"feedback\.db: file is not a database"):
        FeedbackStore(f"sqlite:///{path}")


def test_a_folder_instead_of_a_file_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="unable to open database file"):
        FeedbackStore(f"sqlite:///{tmp_path}")


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path):
    path = tmp_path / "feedback.db"
    log = Database(f"sqlite:///{path}")
    with log.reading() as connection:
        settings = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    log.close()
    assert settings == ["wal", 2]


def test_a_lock_held_for_too_long_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.01)
    path = tmp_path / "feedback.db"
    with FeedbackStore(f"sqlite:///{path}") as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            store.add_interaction(interaction())
        assert store.interactions() == []
        other.close()
        assert store.add_interaction(interaction()).seq == 1


def test_the_same_prompt_has_the_same_key():
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert prompt_key(prompt) == prompt_key([{"content": m["content"], "role": m["role"]} for m in prompt])
    assert prompt_key(prompt) != prompt_key(prompt[1:])


ROUNDS, THREADS, PROCESSES = 15, 4, 3


def _write(url: str, writer: int) -> None:
    with FeedbackStore(url) as store, ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda thread: _write_rounds(store, f"{writer}-{thread}"), range(THREADS)))


def _write_rounds(store: FeedbackStore, name: str) -> None:
    for number in range(ROUNDS):
        answer, other = interaction(session_id=f"{name}-{number}"), interaction()
        pending = [
            store.submit_interactions([answer]),
            store.submit_feedback([thumb(answer), thumb(answer, False)]),
            store.submit_interactions([other]),
        ]
        seqs = [row.seq for future in pending for row in future.result()]
        assert store.add_feedback(thumb(other)).seq > max(seqs)


def test_no_row_ever_appears_behind_a_reader(store, store_url):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(store_url, number)) for number in range(PROCESSES)]
    writers.append(threading.Thread(target=_write, args=(store_url, PROCESSES)))
    total = len(writers) * THREADS * ROUNDS * 5
    for writer in writers:
        writer.start()
    seen: list[int] = []
    cursor = 0
    while cursor < total:
        upto = store.latest_seq()
        rows = [*store.interactions(after=cursor, upto=upto), *store.feedback(after=cursor, upto=upto)]
        seen += sorted(row.seq for row in rows)
        cursor = upto
        assert seen == list(range(1, cursor + 1))
        assert any(writer.is_alive() for writer in writers) or store.latest_seq() == total
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers[:PROCESSES]] == [0] * PROCESSES
    assert store.summary().latest_seq == total
    # A second look, at rest, finds what was seen while they wrote.
    assert seen == sorted(row.seq for row in [*store.interactions(), *store.feedback()])


def _open_together(url: str, barrier: Any) -> None:
    barrier.wait()
    FeedbackStore(url).close()


def test_processes_that_open_a_new_log_together_all_succeed(store_url):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    openers = [spawn.Process(target=_open_together, args=(store_url, barrier)) for _ in range(3)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0, 0, 0]


def test_a_forked_process_writes_beside_its_parent(store):
    answer = store.add_interaction(interaction())
    child = os.fork()
    if child == 0:
        written = 0
        try:
            written = len([store.add_feedback(thumb(answer)) for _ in range(20)])
        finally:
            os._exit(0 if written == 20 else 1)
    for _ in range(20):
        store.add_feedback(thumb(answer))
    assert os.waitpid(child, 0)[1] == 0
    assert [row.seq for row in store.feedback()] == list(range(2, 42))


_ENDLESS_WRITER = """
import sys
from online_trl.store import FeedbackStore
from online_trl.types import Interaction

store = FeedbackStore(sys.argv[1])
message = [{"role": "user", "content": "x" * 1000}]
while True:
    row = store.add_interaction(
        Interaction(prompt=message, completion=message, policy_version="p", session_id="s", user_id="u")
    )
    print(row.interaction_id, flush=True)
"""


def test_an_acknowledged_row_survives_the_kill_of_its_writer(store, store_url):
    writer = subprocess.Popen([sys.executable, "-c", _ENDLESS_WRITER, store_url], stdout=subprocess.PIPE, text=True)
    acknowledged = [writer.stdout.readline().strip() for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()
    rows = store.interactions()
    assert set(acknowledged) <= {row.interaction_id for row in rows}
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert store.add_interaction(interaction()).seq == len(rows) + 1
