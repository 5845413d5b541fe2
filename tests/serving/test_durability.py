"""What was acknowledged is in the log, once: whatever is killed, restarted, full or late."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from full_disk import limited_files, limited_postgresql
from online_trl.serving.process import ServerProcess
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction
from postgresql import restart_postgresql
from serving.crowd import Account, Crowd, balance

KILLS = 25
KILLS_WHEN_SLOW = 200


def seeded(store: FeedbackStore, count: int = 50) -> list[str]:
    """Adds answers for feedback to be about, and returns their ids."""
    answers = [
        Interaction(
            prompt=[{"role": "user", "content": f"Where is my parcel {number}?"}],
            completion=[{"role": "assistant", "content": "On its way."}],
            policy_version="policy-0001",
            session_id=f"session-{number}",
            user_id="ada",
        )
        for number in range(count)
    ]
    return [answer.interaction_id for answer in store.add_interactions(answers)]


def thumb(interaction_id: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "binary", "interaction_id": interaction_id, "value": True, "user_id": "ada", **fields}


@pytest.fixture
def server(store_url: str, tmp_path: Path, real_upstream: dict[str, str]) -> Iterator[ServerProcess]:
    """A server that starts in a second: `transformers serve` lives through all that happens to it."""
    with ServerProcess(store_url=store_url, log=tmp_path / "server.log", **real_upstream) as server:
        yield server


def crash(server: ServerProcess) -> None:
    process = server.process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def kill_again_and_again(server: ServerProcess, times: int) -> None:
    rng = random.Random(0)
    for _ in range(times):
        time.sleep(rng.uniform(0.02, 0.6))
        crash(server)
        server.start()
    time.sleep(0.5)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_WHEN_SLOW, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_kills_at_random_moments_lose_and_repeat_nothing(kills: int, store: FeedbackStore, server: ServerProcess):
    crowd = Crowd(lambda: server.url, seeded(store), writers=8, chatters=2)
    with crowd.busy() as account:
        kill_again_and_again(server, kills)
    report(f"{kills} kills", account, store)
    assert account.replies[0] > 0
    assert account.answers


def report(what: str, account: Account, store: FeedbackStore) -> None:
    """Prints the counts, and holds them to what durability means."""
    counts = balance(account, store)
    print(f"\n{what}: {counts}; replies by status: {dict(account.replies)}")
    assert counts.acknowledged > 100
    assert counts.is_even, counts


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_database_that_restarts_under_load_loses_nothing(
    store: FeedbackStore, server: ServerProcess, postgresql_server: str
):
    crowd = Crowd(lambda: server.url, seeded(store), writers=8)
    with crowd.busy() as account:
        for _ in range(3):
            time.sleep(0.5)
            restart_postgresql(postgresql_server)
        time.sleep(1.0)
    report("3 restarts of the database", account, store)
    assert set(account.replies) <= {201, 503}
    assert account.replies[503] > 0


def test_full_disk_is_told_and_what_was_acknowledged_before_is_kept(
    tmp_path: Path, store: FeedbackStore, server: ServerProcess
):
    names = seeded(store)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        kept = client.post("/v1/feedback", json=thumb(names[0])).json()
        with full_disk(store, server, tmp_path):
            full = fill_up(client, names)
            assert client.get("/healthz").status_code == 200
        assert full.status_code == 503
        assert full.json()["error"]["code"] == "store_unavailable"
        rows = store.feedback()
        assert kept["feedback_id"] == rows[0].feedback_id
        batches = Counter(row.comment for row in rows[1:])
        assert set(batches.values()) <= {len(names)}, "a batch is stored as a whole or not at all"
        assert client.post("/v1/feedback", json=thumb(names[1])).json()["seq"] == store.latest_seq()


def full_disk(store: FeedbackStore, server: ServerProcess, folder: Path) -> AbstractContextManager[None]:
    if store.url.startswith("sqlite"):
        return limited_files(server.process.pid, bytes_left=20_000, folder=folder)
    return limited_postgresql(store.url)


def fill_up(client: httpx.Client, names: list[str]) -> httpx.Response:
    rng = random.Random(0)
    for _ in range(1000):
        comment = rng.randbytes(2000).hex()
        reply = client.post("/v1/feedback", json=[thumb(name, comment=comment) for name in names])
        if reply.status_code != 201:
            return reply
    raise AssertionError("the disk was never full")


def test_feedback_in_any_order_and_at_any_age_is_kept_in_the_order_of_its_arrival(
    store: FeedbackStore, server: ServerProcess
):
    names = seeded(store)
    now = datetime.now(timezone.utc)
    ages = [timedelta(days=400), timedelta(0), timedelta(days=-1), timedelta(hours=3)]
    said = [thumb(name, created_at=(now - age).isoformat()) for name, age in zip(names[3::-1], ages, strict=True)]
    with httpx.Client(base_url=server.url) as client:
        receipts = [client.post("/v1/feedback", json=statement).json() for statement in said]
        # What it is about arrives after all: the same statement is then taken.
        early = client.post("/v1/feedback", json=thumb("not-yet", idempotency_key="early"))
        answer = store.add_interaction(replace(store.interactions(limit=1)[0], interaction_id="not-yet", seq=None))
        late = client.post("/v1/feedback", json=thumb("not-yet", idempotency_key="early"))
    assert (early.status_code, late.status_code) == (404, 201)
    rows = store.feedback()
    assert [row.seq for row in rows] == [*(receipt["seq"] for receipt in receipts), (answer.seq or 0) + 1]
    # A clock that is ahead is not believed.
    times = [row.created_at for row in rows[:-1]]
    assert [min(time, now) for time in times] == [min(now - age, now) for age in ages]
    assert max(times) < now + timedelta(hours=1)
    assert [row.interaction_ids for row in rows[:-1]] == [[name] for name in names[3::-1]]


def test_duplicates_from_many_clients_at_once_are_one_row(store: FeedbackStore, server: ServerProcess):
    (name, *_) = seeded(store)

    def send(number: int) -> tuple[int, int]:
        statement = thumb(name, idempotency_key=f"key-{number % 10}")
        reply = client.post("/v1/feedback", json=statement)
        return reply.status_code, reply.json()["seq"]

    with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(send, range(200)))
    assert {status for status, _ in replies} == {201}
    assert len({seq for _, seq in replies}) == len(store.feedback()) == 10


def test_clock_that_goes_backwards_changes_neither_order_nor_completeness(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
):
    names = seeded(store)
    hours = iter(range(1000, 0, -1))
    past = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for module in ("online_trl.types.utcnow", "online_trl.store.group.utcnow"):
        monkeypatch.setattr(module, lambda: past + timedelta(hours=next(hours)))
    cursor, read = store.latest_seq(), []
    for number in range(40):
        store.add_feedback(
            Feedback(
                kind=FeedbackKind.BINARY,
                interaction_ids=[names[number]],
                value=True,
                user_id="ada",
                created_at=past + timedelta(hours=next(hours)),
            )
        )
        upto = store.latest_seq()
        read += store.feedback(after=cursor, upto=upto)
        cursor = upto
    assert [row.interaction_ids[0] for row in read] == names[:40]
    assert [row.seq for row in read] == list(range(51, 91))
    assert all(later.created_at < earlier.created_at for earlier, later in pairwise(read))
