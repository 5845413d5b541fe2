from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from online_trl.store import FeedbackStore, StoreError, UnknownKeyError, key_digest
from online_trl.types import Scope


def stored_text(store_url: str) -> str:
    """Everything that the table of keys holds."""
    engine = sa.create_engine(store_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM api_keys")).all()
    engine.dispose()
    return str(rows)


def test_key_is_long_random_and_stored_only_as_its_digest(store: FeedbackStore, store_url: str):
    key, row = store.keys.create([Scope.CHAT, Scope.TRAIN], name="trainer")
    other, _ = store.keys.create([Scope.CHAT], name="trainer")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", key)
    assert other != key
    assert row.digest == key_digest(key)
    assert key_digest(key) in stored_text(store_url)
    assert key not in stored_text(store_url)
    assert key not in repr(row)


@pytest.mark.parametrize(
    ("scopes", "prefix"),
    [
        ([Scope.FEEDBACK], "pk-"),
        ([Scope.FEEDBACK, Scope.FEEDBACK], "pk-"),
        ([Scope.FEEDBACK, Scope.CHAT], "sk-"),
        ([Scope.ADMIN], "sk-"),
    ],
)
def test_only_a_key_for_feedback_alone_is_marked_as_publishable(
    store: FeedbackStore, scopes: list[Scope], prefix: str
):
    key, row = store.keys.create(scopes)
    assert key.startswith(prefix)
    assert row.scopes == set(scopes)


def test_key_without_a_scope_is_refused(store: FeedbackStore):
    with pytest.raises(StoreError, match="name at least one scope"):
        store.keys.create([])
    assert store.keys.list() == []


def test_revoked_key_stays_listed_and_is_no_longer_in_force(store: FeedbackStore):
    _, first = store.keys.create([Scope.CHAT], name="first")
    _, second = store.keys.create([Scope.FEEDBACK], name="second")
    revoked = store.keys.revoke(first.key_id)
    assert revoked.revoked_at is not None
    assert store.keys.list() == [revoked, second]
    assert store.keys.in_force() == {second.digest: second}
    assert store.keys.revoke(first.key_id) == revoked


def test_unknown_key_cannot_be_revoked(store: FeedbackStore):
    with pytest.raises(UnknownKeyError, match="no key has the id 'key-1'; `online-trl keys list` shows"):
        store.keys.revoke("key-1")


def test_keys_are_shared_by_all_stores_on_one_log(store: FeedbackStore, store_url: str):
    _, row = store.keys.create([Scope.ADMIN])
    with FeedbackStore(store_url) as other:
        assert other.keys.list() == [row]
        other.keys.revoke(row.key_id)
    assert store.keys.in_force() == {}


def test_secret_is_made_once_per_log_however_many_ask(store_url: str):
    FeedbackStore(store_url).close()

    def ask(_: int) -> str:
        with FeedbackStore(store_url) as store:
            return store.keys.secret("feedback-url")

    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(ask, range(8)))
    assert len(found) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", *found)
    with FeedbackStore(store_url) as store:
        assert store.keys.secret("other") not in found
