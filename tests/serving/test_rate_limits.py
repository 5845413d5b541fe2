from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from online_trl.serving import rate_limits
from online_trl.serving.errors import RefusalError
from online_trl.serving.rate_limits import RateLimits
from online_trl.types import Scope
from serving.small_app import small_app


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves."""
    now = [1000.0]
    # That of the limits alone: by the clock of the process, event loops in other threads count their waits.
    monkeypatch.setattr(rate_limits, "monotonic", lambda: now[0])
    return now


def refusal(limits: RateLimits, *users: str) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        limits.count_users(users)
    return caught.value


def test_window_is_full_until_its_end_and_then_empty(clock: list[float]):
    limits = RateLimits(per_user="3/minute")
    for second in (0, 10, 20):
        clock[0] = 1000.0 + second
        limits.count_users(["ada"])
    error = refusal(limits, "ada")
    assert error.status_code == 429
    assert error.headers == {"Retry-After": "40"}
    assert error.detail == (
        "too many requests of one user: the limit is 3 per 1 minute; try again after the seconds in `Retry-After`"
    )
    limits.count_users(["bob"])
    clock[0] = 1059.5
    assert refusal(limits, "ada").headers == {"Retry-After": "1"}
    clock[0] = 1060.0
    limits.count_users(["ada"] * 3)
    refusal(limits, "ada")


def test_users_are_asked_so_often_and_no_more(clock: list[float]):
    limits = RateLimits(comparisons_per_user="2/hour")
    assert [limits.count_comparison("ada") for _ in range(3)] == [True, True, False]
    assert (limits.may_compare("ada"), limits.may_compare("bob")) == (False, True)
    limits.count_users(["ada"] * 10)
    clock[0] += 3600
    assert limits.may_compare("ada")
    assert limits.count_comparison("ada")
    unlimited = RateLimits()
    assert all(unlimited.count_comparison("ada") for _ in range(100))


def test_batch_costs_as_much_as_its_rows_and_is_refused_whole(clock: list[float]):
    limits = RateLimits(per_user="5/minute")
    limits.count_users(["ada", "bob", "ada"])
    refusal(limits, "bob", "bob", "ada", "ada", "ada", "ada")
    limits.count_users(["ada"] * 3 + ["bob"] * 4)
    refusal(limits, "bob")


def test_batch_that_could_never_pass_is_told_to_be_split(clock: list[float]):
    error = refusal(RateLimits(per_user="5/minute"), *["ada"] * 6)
    assert "split the 6 rows of one user into batches of 5 at most" in error.detail


def test_keys_and_users_are_counted_apart(clock: list[float]):
    limits = RateLimits(per_key="1/second", per_user="1/second")
    limits.count_key("ada")
    limits.count_users(["ada"])
    with pytest.raises(RefusalError, match="of one key"):
        limits.count_key("ada")


def test_names_that_are_silent_are_forgotten(clock: list[float]):
    limits = RateLimits(per_user="1/minute")
    limits.count_users(f"user-{number}" for number in range(100))
    clock[0] += 60
    limits.count_users(["ada"])
    assert limits._per_user is not None
    assert list(limits._per_user._windows) == ["ada"]


def test_no_limit_refuses_nothing():
    limits = RateLimits()
    for _ in range(100):
        limits.count_key("key")
        limits.count_users(["ada"])


def test_key_that_asks_too_often_gets_429_and_others_do_not(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0], rate_limit_per_key="2/hour") as app:
        keys = [{"X-Api-Key": app.store.keys.create([Scope.CHAT])[0]} for _ in range(2)]
        statuses = [app.request("GET", "/v1/models", headers=keys[0]).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        reply = app.request("GET", "/v1/models", headers=keys[0])
        assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        assert 3500 < int(reply.headers["Retry-After"]) <= 3600
        assert app.request("GET", "/v1/models", headers=keys[1]).status_code == 200
        assert app.request("GET", "/healthz").status_code == 200


def test_user_who_asks_and_says_too_much_gets_429_and_others_do_not(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0], rate_limit_per_user="4/hour") as app:
        thumb = {"kind": "binary", "interaction_id": app.add_answer(), "value": True}
        question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}

        def status(path: str, body: Any) -> int:
            before = app.store.latest_seq()
            reply = app.request("POST", path, json=body)
            assert (app.store.latest_seq() > before) == reply.is_success
            if reply.status_code == 429:
                assert reply.json()["error"]["code"] == "rate_limit_exceeded"
                assert 3500 < int(reply.headers["Retry-After"]) <= 3600
            return reply.status_code

        ada = {"user": "ada"}
        assert status("/v1/chat/completions", question | ada) == 200
        assert status("/v1/feedback", [thumb | ada] * 2) == 201
        assert status("/v1/feedback", [thumb | ada, thumb | {"user": "bob"}, thumb | ada]) == 429
        assert status("/v1/feedback", [thumb | {"user": "bob"}] * 4) == 201
        assert status("/v1/feedback", thumb | ada) == 201
        assert status("/v1/chat/completions", question | ada) == 429
        assert [status("/v1/feedback", thumb) for _ in range(6)] == [201] * 6


def test_scores_beyond_the_limit_are_named_and_their_neighbours_stored(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0], rate_limit_per_user="2/hour") as app:
        answer = app.add_answer()
        scores = [
            {"traceId": answer, "name": "helpful", "value": 1, "dataType": "BOOLEAN", "metadata": {"userId": "ada"}}
            for _ in range(3)
        ]
        reply = app.request("POST", "/api/public/scores", json=scores)
        assert reply.status_code == 207
        assert (reply.json()["accepted"], reply.json()["rejected"]) == (2, 1)
        assert "the limit is 2 per 1 hour" in reply.json()["errors"][0]["message"]
        assert len(app.store.feedback()) == 2
