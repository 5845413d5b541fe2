"""Groups of write requests: each is met as a whole, or fails alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from online_trl.migrations import schema
from online_trl.store import (
    FeedbackStore,
    IdempotencyConflictError,
    StoreError,
    UnknownFeedbackError,
    UnknownInteractionError,
)
from online_trl.store.group import RunTask
from online_trl.types import Feedback, FeedbackKind, Interaction


def interaction(**fields: Any) -> Interaction:
    defaults = {"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"}
    return Interaction(
        prompt=[{"role": "user", "content": "Where is my parcel?"}],
        completion=[{"role": "assistant", "content": "On its way."}],
        **(defaults | fields),
    )


def thumb(answer: Interaction | str, value: bool | None = True, **fields: Any) -> Feedback:
    name = answer if isinstance(answer, str) else answer.interaction_id
    return Feedback(kind=FeedbackKind.BINARY, interaction_ids=[name], value=value, **({"user_id": "ada"} | fields))


@pytest.fixture
def gather(store: FeedbackStore) -> Callable[[], Any]:
    """Holds the writer back, so that what is submitted meanwhile makes one group."""

    @contextmanager
    def gathering() -> Iterator[None]:
        held, go = threading.Event(), threading.Event()
        store._writer.submit(RunTask(lambda connection: (held.set(), go.wait())))
        held.wait()
        try:
            yield
        finally:
            go.set()

    return gathering


@pytest.fixture
def commits(store: FeedbackStore) -> list[int]:
    counted: list[int] = []
    sa.event.listen(store._database._engine, "commit", lambda connection: counted.append(1))
    return counted


def outcomes(futures: list[Future[Any]]) -> list[Any]:
    wait(futures)
    return [future.exception() or future.result() for future in futures]


def test_what_waits_is_committed_together(store, gather, commits):
    with gather():
        futures = [store.submit_interactions([interaction()]) for _ in range(10)]
        assert store.waiting_writes == 10
    assert sorted(row.seq for future in futures for row in future.result()) == list(range(1, 11))
    assert store.waiting_writes == 0
    assert len(commits) == 2


def test_a_wrong_request_fails_alone(store, gather):
    answer = store.add_interaction(interaction())
    kept = store.add_feedback(thumb(answer, idempotency_key="kept"))
    with gather():
        futures = [
            store.submit_feedback([thumb(answer, idempotency_key="first")]),
            store.submit_feedback([thumb(answer), thumb("nowhere")]),
            store.submit_feedback([thumb(answer), thumb(answer, False, idempotency_key="kept")]),
            store.submit_feedback([thumb(answer), thumb(answer, supersedes="nothing")]),
            store.submit_feedback([thumb(answer), thumb(answer, feedback_id=kept.feedback_id, idempotency_key="new")]),
            store.submit_interactions([interaction(), replace(answer, policy_version="policy-0002")]),
            store.submit_feedback([thumb(answer, idempotency_key="last")]),
        ]
    found = outcomes(futures)
    assert [type(outcome) for outcome in found] == [
        list,
        UnknownInteractionError,
        IdempotencyConflictError,
        UnknownFeedbackError,
        IdempotencyConflictError,
        IdempotencyConflictError,
        list,
    ]
    assert [row.idempotency_key for row in store.feedback()] == ["kept", "first", "last"]
    assert store.interactions() == [answer]
    assert [row.seq for row in store.feedback()] == [2, 3, 4]
    assert store.latest_seq() == 4


def test_requests_of_one_group_see_each_other(store, gather):
    answer = interaction()
    up = thumb(answer)
    with gather():
        feedback_first = store.submit_feedback([up])
        asked = store.submit_interactions([answer])
        again = store.submit_feedback([replace(up)])
        other = store.submit_feedback([replace(up, value=False)])
        amended = store.submit_feedback([thumb(answer, False, supersedes=up.feedback_id)])
        same_id = store.submit_feedback([thumb(answer, feedback_id=up.feedback_id, idempotency_key="another")])
    assert asked.result()[0].seq == 1
    assert feedback_first.result() == again.result() == [replace(up, seq=2)]
    assert isinstance(other.exception(), IdempotencyConflictError)
    assert amended.result()[0].seq == 3
    assert isinstance(same_id.exception(), IdempotencyConflictError)
    assert [row.seq for row in store.feedback()] == [2, 3]


def test_a_refused_request_leaves_no_trace_for_those_behind_it(store, gather):
    answer = store.add_interaction(interaction())
    up = thumb(answer, idempotency_key="click")
    with gather():
        refused = store.submit_feedback([up, thumb("nowhere")])
        other = store.submit_feedback([thumb(answer, False, idempotency_key="click")])
        amended = store.submit_feedback([thumb(answer, supersedes=up.feedback_id)])
    assert isinstance(refused.exception(), UnknownInteractionError)
    assert other.result()[0].value is False
    assert isinstance(amended.exception(), UnknownFeedbackError)


@pytest.mark.parametrize(
    "bad",
    [
        {"comment": "half a pair \ud83d"},
        {"user_id": "nul \x00"},
        {"tags": {"score": float("inf")}},
        {"tags": {"when": object()}},
    ],
)
def test_a_row_that_no_database_takes_is_refused_before_it_joins_a_group(store, bad):
    answer = store.add_interaction(interaction())
    with pytest.raises(StoreError, match="a record"):
        store.submit_feedback([thumb(answer), thumb(answer, **bad)])
    assert store.latest_seq() == 1


def test_a_group_that_cannot_be_committed_fails_as_a_whole(store, gather, commits):
    answer = store.add_interaction(interaction())
    with gather():
        broken = RunTask(lambda connection: connection.execute(sa.text("SELECT * FROM nowhere")))
        futures = [store.submit_feedback([thumb(answer)]), store.submit_interactions([interaction()])]
        store._writer.submit(broken)
    found = outcomes([*futures, broken.future])
    assert all(isinstance(outcome, StoreError) and "nowhere" in str(outcome) for outcome in found)
    assert store.feedback() == []
    assert store.add_feedback(thumb(answer)).seq == 2


def test_a_task_has_its_place_between_the_others_and_is_undone_if_it_fails(store, gather):
    seen = []

    def count(connection: sa.Connection) -> int:
        return connection.execute(sa.select(sa.func.count()).select_from(schema.interactions)).scalar_one()

    def delete_and_fail(connection: sa.Connection) -> None:
        connection.execute(sa.delete(schema.interactions))
        seen.append(count(connection))
        raise StoreError("changed my mind")

    with gather():
        store.submit_interactions([interaction()])
        first = RunTask(count)
        store._writer.submit(first)
        failing = RunTask(delete_and_fail)
        store._writer.submit(failing)
        store.submit_interactions([interaction(), interaction()])
        last = RunTask(count)
        store._writer.submit(last)
    assert (first.future.result(), last.future.result(), seen) == (1, 3, [0])
    with pytest.raises(StoreError, match="changed my mind"):
        failing.future.result()
    assert [row.seq for row in store.interactions()] == [1, 2, 3]


def test_new_rows_are_screened_in_the_transaction_once_per_group(store, gather):
    shown = []

    def screen(connection: sa.Connection, rows: list[Feedback]) -> None:
        seqs = list(connection.execute(sa.select(schema.feedback.c.seq)).scalars())
        shown.append(([row.seq for row in rows], max(seqs)))

    answer = store.add_interaction(interaction())
    old = store.add_feedback(thumb(answer))
    with gather():
        store.submit_feedback([old, thumb(answer)], screening=screen)
        store.submit_feedback([thumb(answer)])
        store.submit_feedback([thumb("nowhere")], screening=screen)
        last = store.submit_feedback([thumb(answer)], screening=screen)
    last.result()
    assert shown == [([3, 5], 5)]


def test_a_request_that_was_given_up_while_it_waited_is_not_written(store, gather):
    with gather():
        given_up = store.submit_interactions([interaction()])
        kept = store.submit_interactions([interaction()])
        assert given_up.cancel()
    assert [row.seq for row in kept.result()] == [1]
    with pytest.raises(CancelledError):
        given_up.result()
    assert store.latest_seq() == 1


def test_a_group_of_which_nothing_is_left_does_not_stop_the_writer(store, gather):
    with gather():
        assert store.submit_interactions([interaction()]).cancel()
    assert store.add_interaction(interaction()).seq == 1


def test_closing_writes_what_waits_and_takes_nothing_more(store, store_url, gather):
    with gather():
        futures = [store.submit_interactions([interaction()]) for _ in range(5)]
    store.close()
    assert all(future.done() for future in futures)
    with pytest.raises(StoreError, match="has been closed"):
        store.add_interaction(interaction())
    with FeedbackStore(store_url) as again:
        assert again.latest_seq() == 5


def test_a_store_that_nobody_closes_lets_its_process_end_and_loses_nothing(store, store_url):
    code = """
import sys
from online_trl.store import FeedbackStore
from online_trl.types import Interaction

store = FeedbackStore(sys.argv[1])
message = [{"role": "user", "content": "hello"}]
for _ in range(20):
    store.submit_interactions(
        [Interaction(prompt=message, completion=message, policy_version="p", session_id="s", user_id="u")]
    )
"""
    subprocess.run([sys.executable, "-c", code, store_url], check=True, timeout=60)
    assert store.latest_seq() == 20
