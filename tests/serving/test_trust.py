from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from serving.small_app import SmallApp, small_app


@pytest.fixture
def app(tmp_path: Path, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path, policy_folders[0], burst_rows=2) as app:
        yield app


def thumb(app: SmallApp, interaction_id: str, **fields: Any) -> dict[str, Any]:
    body = {"kind": "binary", "interaction_id": interaction_id, "value": True, "user_id": "bob"} | fields
    reply = app.request("POST", "/v1/feedback", json=body)
    assert reply.status_code == 201, reply.text
    return reply.json()


def test_a_quarantined_row_is_acknowledged_listed_and_released(app: SmallApp):
    answers = [app.add_answer() for _ in range(3)]
    receipts = [thumb(app, name, comment="yes") for name in answers]
    (waiting,) = app.request("GET", "/v1/quarantine").json()
    assert waiting["feedback_id"] == receipts[2]["feedback_id"]
    assert {name: waiting[name] for name in ("seq", "user_id", "kind", "interaction_ids", "value", "comment")} == {
        "seq": 6,
        "user_id": "bob",
        "kind": "binary",
        "interaction_ids": [answers[2]],
        "value": True,
        "comment": "yes",
    }
    assert (waiting["reason"], waiting["detail"]) == ("burst", "2 rows of this user came in the 60 s before it")

    body = {"feedback_ids": [waiting["feedback_id"]]}
    for _ in range(2):
        reply = app.request("POST", "/v1/quarantine/release", json=body)
        assert (reply.status_code, reply.json()) == (200, [{"feedback_id": waiting["feedback_id"], "seq": 7}])
    assert app.request("GET", "/v1/quarantine").json() == []


def test_only_what_is_in_quarantine_can_be_released(app: SmallApp):
    receipt = thumb(app, app.add_answer())
    reply = app.request("POST", "/v1/quarantine/release", json={"feedback_ids": [receipt["feedback_id"]]})
    assert reply.status_code == 404
    assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == ("feedback_not_found", "feedback_ids")


@pytest.mark.parametrize("name", ["tenant/ann", "ann@example.org", "a b?#%"])
def test_a_user_of_any_name_is_erased(app: SmallApp, name: str):
    own = app.add_answer(user_id=name)
    reply = app.request("DELETE", f"/v1/users/{quote(name, safe='')}")
    assert (reply.status_code, reply.json()["interaction_ids"]) == (200, [own])


def test_a_user_is_erased_and_nothing_about_the_user_comes_back(app: SmallApp):
    own, other = app.add_answer(), app.add_answer(user_id="bob")
    about_own, by_ada = thumb(app, own), thumb(app, other, user_id="ada", idempotency_key="once")
    first = app.request("DELETE", "/v1/users/ada")
    assert first.status_code == 200
    told = first.json()
    assert (told["seq"], told["subject"], told["interaction_ids"]) == (5, "user", [own])
    assert told["feedback_ids"] == [about_own["feedback_id"], by_ada["feedback_id"]]
    assert app.request("DELETE", "/v1/users/ada").json() == told

    refused = app.request("POST", "/v1/feedback", json={"kind": "binary", "interaction_id": own, "value": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "interaction_not_found")
    assert "it was erased" in refused.json()["error"]["message"]
    retried = {"kind": "binary", "interaction_id": other, "value": True, "user_id": "ada", "idempotency_key": "once"}
    gone = app.request("POST", "/v1/feedback", json=retried)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "erased")
    assert app.store.feedback() == []


def test_an_interaction_is_erased(app: SmallApp):
    name = app.add_answer()
    receipt = thumb(app, name)
    told = app.request("DELETE", f"/v1/interactions/{name}").json()
    assert (told["subject"], told["interaction_ids"]) == ("interaction", [name])
    assert told["feedback_ids"] == [receipt["feedback_id"]]
    assert app.store.interactions() == app.store.feedback() == []


@pytest.mark.parametrize(
    ("path", "code"),
    [("/v1/users/nobody", "user_not_found"), ("/v1/interactions/nowhere", "interaction_not_found")],
)
def test_what_never_was_cannot_be_erased(app: SmallApp, path: str, code: str):
    reply = app.request("DELETE", path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, code)
    assert app.store.latest_seq() == 0
