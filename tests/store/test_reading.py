"""
The store's contract once more, on both databases, with every read through a server; and that no read is forgotten.

The tests of [`CONTRACT`] that need nothing but a `store` are collected here again, where it is one that writes to its
database and reads over HTTP.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from feedback import add_comparisons
from online_trl.preferences import read_preferences, standing_feedback
from online_trl.store import FeedbackStore, LogReader, RemoteStore, Screening, remote
from online_trl.types import Feedback, FeedbackKind, Interaction, Purpose
from served_log import make_app, served
from store import test_erasure, test_log, test_quarantine

CONTRACT = (test_log, test_quarantine, test_erasure)

WRITES = {
    "add_feedback",
    "add_feedback_batch",
    "add_interaction",
    "add_interactions",
    "claimed",
    "close",
    "erase_completion",
    "erase_interaction",
    "erase_user",
    "release",
    "submit_feedback",
    "submit_interactions",
}
# What the server itself asks for, to answer those who talk to it.
ASKED_BY_THE_SERVER = {
    "feedback_about",
    "comparison_strategies",
    "find_turn",
    "get_feedback",
    "interaction_ids_of_upstream",
    "policy_versions",
    "quarantined",
}


def methods(kind: type) -> set[str]:
    return {name for name, member in vars(kind).items() if inspect.isfunction(member) and not name.startswith("_")}


READS = methods(LogReader)


def contract() -> Iterator[tuple[str, Callable[..., None]]]:
    for module in CONTRACT:
        for name, test in vars(module).items():
            if name.startswith("test_") and fixtures(test) == {"store"} and "fork" not in name:
                yield name, test


def fixtures(test: Callable[..., None]) -> set[str]:
    names = set(inspect.signature(test).parameters)
    for mark in getattr(test, "pytestmark", ()):
        given = mark.args[0]
        names -= set(given.split(",") if isinstance(given, str) else given)
    return names


globals().update(contract())


class BehindServer:
    """Writes to its database, and reads through the server before it."""

    def __init__(self, store: FeedbackStore, reader: RemoteStore) -> None:
        self.store = store
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader if name in READS else self.store, name)


class CurrentStore:
    """The store of the test that runs, for the one server of all of them."""

    store: Any

    @property
    def keys(self) -> CurrentStore:
        return self

    def in_force(self) -> dict[str, Any]:
        return {}

    def secret(self, name: str) -> str:
        return name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest.fixture(scope="module")
def current() -> CurrentStore:
    return CurrentStore()


@pytest.fixture(scope="module")
def server(current: CurrentStore) -> Iterator[str]:
    with served(make_app(current)) as url:
        yield url


@pytest.fixture
def store(store_url: str, current: CurrentStore, server: str) -> Iterator[BehindServer]:
    with FeedbackStore(store_url) as store, RemoteStore(server) as reader:
        current.store = store
        yield BehindServer(store, reader)


def test_the_contract_is_run_again():
    assert len(dict(contract())) >= 50


def test_every_reader_reads_all_that_there_is_to_read():
    assert methods(RemoteStore) - {"close"} == READS
    assert methods(FeedbackStore) == READS | WRITES | ASKED_BY_THE_SERVER
    for name in READS:
        assert inspect.signature(getattr(RemoteStore, name)) == inspect.signature(getattr(FeedbackStore, name))
        assert inspect.signature(getattr(LogReader, name)) == inspect.signature(getattr(FeedbackStore, name))


def test_every_read_has_a_route(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        paths = make_app(store).openapi()["paths"]
    routes = {path.removeprefix("/v1/log/") for path in paths if path.startswith("/v1/log/")}
    assert routes == {name.replace("_", "-") for name in READS}


def fill(store: FeedbackStore) -> None:
    """What a log can hold: every kind of feedback, several turns, a regeneration, quarantine, an erasure."""
    add_comparisons(store, 30)
    question = [{"role": "user", "content": "Où est mon colis?\u2028\n\u0085"}]
    common = {"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"}
    texts = ("one", "two", "three")
    answers = [
        Interaction(prompt=question, completion=[{"role": "assistant", "content": text}], **common) for text in texts
    ]
    again = Interaction(
        prompt=question,
        completion=[{"role": "assistant", "content": "four", "name": "bot"}],
        regenerates=answers[2].interaction_id,
        sampling={"temperature": 0.1 + 0.2, "stop": ["\n"], "seed": None},
        prompt_ids=[1, 2],
        completion_ids=[3],
        logprobs=[-1e-17],
        **common,
    )
    told = [*question, *again.completion, {"role": "user", "content": "Merci"}]
    went_on = Interaction(
        prompt=told,
        completion=[{"role": "assistant", "content": "De rien."}],
        parent_id=again.interaction_id,
        **common,
    )
    store.add_interactions([*answers, again, went_on])
    names = [answer.interaction_id for answer in answers]
    said = [
        Feedback(kind=FeedbackKind.BINARY, interaction_ids=names[:1], value=True, user_id="ada"),
        Feedback(kind=FeedbackKind.BINARY, interaction_ids=names[1:2], value=False, user_id="bob", tags={"a": "b"}),
        Feedback(
            kind=FeedbackKind.RATING,
            interaction_ids=names[2:],
            value={"score": 4.5, "low": 1, "high": 5},
            user_id="bob",
        ),
        Feedback(kind=FeedbackKind.RANKING, interaction_ids=names, value=[2, 1, 2], user_id="cyd", comment="so so"),
        Feedback(kind=FeedbackKind.CORRECTION, interaction_ids=names[:1], value="Voilà.", user_id="cyd"),
        Feedback(kind=FeedbackKind.IMPLICIT, interaction_ids=names[:1], value="regenerate", user_id="ada"),
    ]
    store.add_feedback_batch(said)
    store.add_feedback(
        Feedback(
            kind=FeedbackKind.BINARY, interaction_ids=[], value=None, user_id="ada", supersedes=said[0].feedback_id
        )
    )
    strict = Screening(burst_rows=1, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=60)
    flood = [Feedback(kind=FeedbackKind.BINARY, interaction_ids=[name], value=True, user_id="dan") for name in names]
    store.submit_feedback(flood, screening=strict).result()
    store.release([flood[1].feedback_id])
    store.erase_user("user-3")


def as_bytes(batch: Any) -> bytes:
    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, frozenset) else value.isoformat()

    return json.dumps(asdict(batch), default=plain, sort_keys=True).encode()


def test_preferences_read_through_a_server_are_the_same_to_the_byte(store, monkeypatch):
    for name in ("PAGE_ROWS", "LOOKUP_NAMES", "_SPAN"):
        monkeypatch.setattr(remote, name, 20)
    fill(store)
    end = store.latest_seq()
    whole = read_preferences(store, after=0, upto=end)
    assert {pair.kind for pair in whole.pairs} >= {
        FeedbackKind.COMPARISON,
        FeedbackKind.RANKING,
        FeedbackKind.CORRECTION,
        FeedbackKind.IMPLICIT,
    }
    assert whole.labels
    assert whole.withdrawn
    for after, upto in [(0, end), (end, end), *((start, min(start + 40, end)) for start in range(0, end, 40))]:
        direct = read_preferences(store.store, after=after, upto=upto)
        through_server = read_preferences(store.reader, after=after, upto=upto)
        assert through_server == direct
        assert as_bytes(through_server) == as_bytes(direct)


def test_what_was_superseded_later_is_superseded_however_the_log_is_read(store, monkeypatch):
    monkeypatch.setattr(remote, "_SPAN", 1)
    answer = Interaction(
        prompt=[{"role": "user", "content": "Where is my parcel?"}],
        completion=[{"role": "assistant", "content": "Lost."}],
        policy_version="policy-0001",
        session_id="session",
        user_id="ada",
    )
    store.add_interaction(answer)
    said: list[Feedback] = []
    at_once = Screening(burst_rows=1, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=60)
    for screening in (None, at_once, None):
        supersedes = said[-1].feedback_id if said else None
        row = Feedback(
            kind=FeedbackKind.BINARY,
            interaction_ids=[answer.interaction_id],
            value=True,
            user_id="ada",
            supersedes=supersedes,
        )
        said += store.submit_feedback([row], screening=screening).result()
    store.release([said[1].feedback_id])
    assert [row.feedback_id for row in standing_feedback(store.admitted_feedback())] == [said[2].feedback_id]
    assert store.admitted_feedback() == store.store.admitted_feedback()


@pytest.mark.parametrize("rows", [9, 1000])
def test_what_is_read_page_by_page_is_what_is_read_at_once(store, monkeypatch, rows):
    for name in ("PAGE_ROWS", "LOOKUP_NAMES", "_SPAN"):
        monkeypatch.setattr(remote, name, rows)
    fill(store)
    end = store.latest_seq()
    direct, reader = store.store, store.reader
    for options in ({}, {"newest_first": True}, {"purpose": Purpose.CHAT}, {"limit": 7}, {"limit": 0}):
        assert reader.interactions(**options) == direct.interactions(**options)
        assert reader.interactions(after=3, upto=9, **options) == direct.interactions(after=3, upto=9, **options)
    newest = {"newest_first": True, "limit": 8, "policy_version": "policy-0001"}
    assert reader.interactions(**newest) == direct.interactions(**newest)
    assert reader.interactions(policy_version="policy-0002") == []
    for read in ("feedback", "admitted_feedback", "tombstones"):
        assert getattr(reader, read)() == getattr(direct, read)()
        assert getattr(reader, read)(after=20, upto=end - 2) == getattr(direct, read)(after=20, upto=end - 2)
    assert reader.feedback(limit=6) == direct.feedback(limit=6)
    sessions = [f"session-{number}" for number in range(9)]
    read = reader.session_interactions(sessions, upto=end)
    assert read == direct.session_interactions(sessions, upto=end) != []
