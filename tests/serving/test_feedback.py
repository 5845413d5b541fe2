from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_trl.serving.client_keys import client_key
from online_trl.types import Feedback, FeedbackKind, new_id, utcnow
from serving.small_app import SmallApp, small_app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(
        tmp_path_factory.mktemp("feedback"), policy_folders[0], rating_bounds={"stars": (1, 5)}, burst_rows=0
    ) as app:
        yield app


def post(app: SmallApp, body: Any, **headers: str) -> httpx.Response:
    return app.request("POST", "/v1/feedback", json=body, headers=headers)


def stored(app: SmallApp, reply: httpx.Response) -> Feedback:
    assert reply.status_code == 201, reply.text
    name = reply.json()["feedback_id"]
    return app.store.get_feedback([name])[name]


def thumb(interaction_id: str, value: bool = True, **fields: Any) -> dict[str, Any]:
    return {"kind": "binary", "interaction_id": interaction_id, "value": value, "user_id": "ada"} | fields


# The same statement again


def test_client_may_make_the_id(app: SmallApp):
    name = str(uuid.uuid4())
    body = thumb(app.add_answer(), feedback_id=name.upper(), session_id="session-1")
    first, again = post(app, body), post(app, body)
    assert first.json() == again.json()
    row = stored(app, first)
    assert (row.feedback_id, client_key(row), row.session_id) == (name, name, "session-1")
    assert app.store.latest_seq() == row.seq
    other = post(app, body | {"value": False})
    assert other.status_code == 409
    assert app.store.latest_seq() == row.seq


def test_id_is_a_uuid(app: SmallApp):
    reply = post(app, thumb(app.add_answer(), feedback_id="mine"))
    assert reply.status_code == 422
    assert "feedback_id" in reply.json()["error"]["message"]


@pytest.mark.parametrize("as_list", [False, True])
def test_retry_may_name_the_row_by_its_id_alone(app: SmallApp, as_list: bool):
    body = thumb(app.add_answer())
    first = post(app, body, **{"Idempotency-Key": new_id()}).json()
    retry = body | {"feedback_id": first["feedback_id"]}
    again = post(app, [retry] if as_list else retry)
    assert again.json() == ([first] if as_list else first)
    assert again.status_code == 201
    other = retry | {"value": False}
    assert post(app, [other] if as_list else other).status_code == 409
    assert app.store.latest_seq() == first["seq"]


def test_list_with_a_repeated_and_a_contradicting_row_is_refused_as_a_whole(app: SmallApp):
    first = post(app, thumb(app.add_answer(), idempotency_key=new_id())).json()
    known = thumb(first["interaction_ids"][0], idempotency_key=first["idempotency_key"])
    fresh = thumb(app.add_answer(), feedback_id=new_id())
    before = app.store.latest_seq()
    assert post(app, [fresh, known | {"value": False}]).status_code == 409
    assert app.store.latest_seq() == before
    receipts = post(app, [fresh, known, fresh]).json()
    assert receipts[1] == first
    assert receipts[0] == receipts[2]
    assert app.store.latest_seq() == before + 1


@pytest.mark.parametrize("is_alike", [True, False])
def test_statement_that_names_two_rows_is_refused(app: SmallApp, is_alike: bool):
    answer = app.add_answer()
    one = thumb(answer, feedback_id=new_id(), idempotency_key=new_id())
    other = thumb(answer, is_alike, idempotency_key=new_id())
    assert [post(app, body).status_code for body in (one, other)] == [201, 201]
    before = app.store.latest_seq()
    assert post(app, one | {"idempotency_key": other["idempotency_key"]}).status_code == 409
    assert app.store.latest_seq() == before


@pytest.mark.parametrize(("one", "other"), [("ada", "bob"), ("ada", "a"), ("a/b", "a")])
def test_key_counts_for_the_user_who_sends_it(app: SmallApp, one: str, other: str):
    answer, key = app.add_answer(), new_id()
    bodies = [
        thumb(answer, user_id=one, idempotency_key=key),
        thumb(answer, user_id=other, idempotency_key=key),
        thumb(answer, user_id=other, idempotency_key=one.removeprefix(other).removeprefix("/") + "/" + key),
    ]
    receipts = [post(app, body).json() for body in bodies]
    assert len({receipt["feedback_id"] for receipt in receipts}) == 3
    assert [receipt["idempotency_key"] for receipt in receipts] == [body["idempotency_key"] for body in bodies]
    assert [post(app, body).json() for body in bodies] == receipts
    assert post(app, bodies[1] | {"value": False}).status_code == 409


# Amending and retracting


def test_only_the_user_who_said_it_may_amend_or_retract(app: SmallApp):
    answer = app.add_answer()
    first = post(app, thumb(answer)).json()["feedback_id"]
    for value in (False, None):
        reply = post(app, thumb(answer, value=value, user_id="eve", supersedes=first))
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "feedback_of_another_user"
        assert reply.json()["error"]["param"] == "supersedes"
    row = stored(app, post(app, {"kind": "binary", "user": "ada", "supersedes": first}))
    assert (row.value, row.supersedes, row.interaction_ids) == (None, first, [])


def test_list_may_amend_its_own_rows_but_not_in_another_name(app: SmallApp):
    answer, name = app.add_answer(), new_id()
    first, amendment = thumb(answer, feedback_id=name), thumb(answer, value=False, supersedes=name)
    assert post(app, [first, amendment | {"user_id": "eve"}]).status_code == 403
    assert post(app, [first, amendment]).status_code == 201


# Answers that are named as an upstream server named them


def test_interaction_may_be_named_by_the_id_of_its_upstream_completion(app: SmallApp):
    upstream = f"chatcmpl-{uuid.uuid4().hex}"
    ids = sorted(new_id() for _ in range(3))
    for name in reversed(ids):
        app.add_answer(interaction_id=name, upstream_id=upstream)
    row = stored(app, post(app, thumb(upstream)))
    assert row.interaction_ids == [ids[0]]


def test_retry_that_names_an_upstream_completion_is_one_row(app: SmallApp):
    upstream = f"chatcmpl-{uuid.uuid4().hex}"
    app.add_answer(upstream_id=upstream)
    body = thumb(upstream, idempotency_key=new_id())
    first = post(app, body)
    assert post(app, body).json() == first.json()
    assert post(app, body | {"value": False}).status_code == 409
    assert app.store.latest_seq() == stored(app, first).seq


def test_comparison_may_mix_both_names(app: SmallApp):
    upstream = f"chatcmpl-{uuid.uuid4().hex}"
    first, second = app.add_answer(upstream_id=upstream), app.add_answer()
    body = {"kind": "comparison", "interaction_ids": [upstream, second], "value": "first"}
    assert stored(app, post(app, body)).interaction_ids == [first, second]


def test_name_that_nobody_knows_is_not_found(app: SmallApp):
    before = app.store.latest_seq()
    reply = post(app, thumb("chatcmpl-unheard-of"))
    assert reply.status_code == 404
    assert "chatcmpl-unheard-of" in reply.json()["error"]["message"]
    assert app.store.latest_seq() == before


# Late and reordered


def test_late_and_reordered_statements_are_stored_as_they_come(app: SmallApp):
    answer = app.add_answer()
    times = ["2026-03-01T00:00:00Z", "2025-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]
    rows = [stored(app, post(app, thumb(answer, created_at=time, user_id=time))) for time in times]
    assert [row.seq for row in rows] == sorted(row.seq or 0 for row in rows)
    assert [row.created_at.isoformat() for row in rows] == [time.replace("Z", "+00:00") for time in times]


def test_nothing_is_said_later_than_now(app: SmallApp):
    early, late = "2026-01-01T00:00:00Z", "2199-01-01T00:00:00Z"
    rows = [stored(app, post(app, thumb(app.add_answer(), created_at=time))) for time in (early, late)]
    assert rows[0].created_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert abs(utcnow() - rows[1].created_at).total_seconds() < 60


# TensorZero's shape


@pytest.mark.parametrize(
    ("metric", "value", "kind", "said", "comment"),
    [
        ("accepted", True, FeedbackKind.BINARY, True, None),
        ("accepted", False, FeedbackKind.BINARY, False, None),
        ("helpfulness", 0.75, FeedbackKind.RATING, {"score": 0.75, "low": 0, "high": 1}, None),
        ("helpfulness", 1, FeedbackKind.RATING, {"score": 1, "low": 0, "high": 1}, None),
        ("stars", 4, FeedbackKind.RATING, {"score": 4, "low": 1, "high": 5}, None),
        ("comment", "Too long.", FeedbackKind.IMPLICIT, "comment", "Too long."),
        ("demonstration", "Do this.", FeedbackKind.CORRECTION, "Do this.", None),
        (
            "demonstration",
            [{"type": "text", "text": "Do "}, {"type": "text", "text": "this."}],
            FeedbackKind.CORRECTION,
            "Do this.",
            None,
        ),
    ],
)
def test_metric_is_feedback(
    app: SmallApp, metric: str, value: Any, kind: FeedbackKind, said: Any, comment: str | None
):
    answer = app.add_answer()
    body = {"metric_name": metric, "inference_id": answer, "value": value, "tags": {"user_id": "ada", "page": "1"}}
    row = stored(app, post(app, body | {"episode_id": None, "internal": False, "dryrun": False}))
    assert (row.kind, row.value, row.comment) == (kind, said, comment)
    assert (row.interaction_ids, row.user_id) == ([answer], "ada")
    assert row.tags == {"user_id": "ada", "page": "1", "metric_name": metric}


def test_metrics_and_statements_may_share_a_list(app: SmallApp):
    answer = app.add_answer()
    metric = {"metric_name": "accepted", "inference_id": answer, "value": True}
    reply = post(app, [metric, thumb(answer)])
    assert reply.status_code == 201
    users = [row.user_id for row in app.store.get_feedback(each["feedback_id"] for each in reply.json()).values()]
    assert sorted(users) == ["ada", "anonymous"]


def test_metric_again_under_the_same_key_is_one_row(app: SmallApp):
    body = {"metric_name": "accepted", "inference_id": app.add_answer(), "value": True}
    first, again = (post(app, body, **{"Idempotency-Key": "metric-key"}) for _ in range(2))
    assert first.json() == again.json()
    assert post(app, body | {"value": False}, **{"Idempotency-Key": "metric-key"}).status_code == 409


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": 1.5}, "`helpfulness` is 1.5, which is not between 0 and 1"),
        ({"metric_name": "stars", "value": 0}, "not between 1 and 5"),
        ({"value": "good"}, "only `comment` and `demonstration` are"),
        ({"value": None}, "value"),
        ({"value": {"a": 1}}, "value"),
        ({"value": [{"type": "tool_call", "name": "f"}]}, "value"),
        ({"metric_name": "demonstration", "value": " "}, "non-empty text"),
        ({"metric_name": ""}, "metric_name"),
        ({"inference_id": None}, "inference_id"),
        ({"dryrun": True}, "no dry runs"),
        ({"episode_id": new_id()}, "not about episodes"),
        ({"tags": {"user_id": "u" * 257}}, "a text of at most 256 characters"),
        ({"metric_names": "typo"}, "metric_names: Extra inputs"),
    ],
)
def test_metric_that_makes_no_sense_is_refused(app: SmallApp, change: dict[str, Any], reason: str):
    body = {"metric_name": "helpfulness", "inference_id": app.add_answer(), "value": 1.0} | change
    before = app.store.latest_seq()
    reply = post(app, body)
    assert reply.status_code == 422, reply.text
    assert reason in reply.json()["error"]["message"]
    assert app.store.latest_seq() == before


# Limits


def test_named_user_who_says_too_much_is_refused(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0], rate_limit_per_user="2/hour") as app:
        answer = app.add_answer()
        assert post(app, [thumb(answer), thumb(answer, value=False)]).status_code == 201
        refused = post(app, thumb(answer))
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert post(app, thumb(answer, user_id="bob")).status_code == 201
        assert [post(app, thumb(answer, user_id="anonymous")).status_code for _ in range(3)] == [201] * 3
