from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_trl.serving.client_keys import client_key
from online_trl.types import Feedback, FeedbackKind, Scope, new_id
from serving.small_app import SmallApp, small_app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(
        tmp_path_factory.mktemp("langfuse"), policy_folders[0], rating_bounds={"stars": (1, 5)}, burst_rows=0
    ) as app:
        yield app


def post(app: SmallApp, path: str, body: Any, **headers: str) -> httpx.Response:
    # httpx's own encoder refuses half of a surrogate pair.
    headers = {"Content-Type": "application/json", **headers}
    return app.request("POST", f"/api/public/{path}", content=json.dumps(body), headers=headers)


def stored(app: SmallApp, key: str) -> Feedback:
    return next(row for row in app.store.feedback() if client_key(row) == key)


def event(answer: str, **body: Any) -> dict[str, Any]:
    score = {"id": new_id(), "traceId": answer, "name": "liked", "value": 1, "dataType": "BOOLEAN"} | body
    return {"id": new_id(), "type": "score-create", "timestamp": "2026-01-01T00:00:00Z", "body": score}


@pytest.mark.parametrize(
    ("score", "kind", "said", "comment"),
    [
        ({"value": 1.0, "dataType": "BOOLEAN"}, FeedbackKind.BINARY, True, None),
        ({"value": 0, "dataType": "BOOLEAN"}, FeedbackKind.BINARY, False, None),
        ({"value": True}, FeedbackKind.BINARY, True, None),
        ({"value": 0.9}, FeedbackKind.RATING, {"score": 0.9, "low": 0, "high": 1}, None),
        (
            {"value": 4, "name": "stars", "dataType": "NUMERIC"},
            FeedbackKind.RATING,
            {"score": 4, "low": 1, "high": 5},
            None,
        ),
        ({"value": "formal", "name": "tone"}, FeedbackKind.IMPLICIT, "tone=formal", None),
        ({"value": "Do this.", "dataType": "CORRECTION"}, FeedbackKind.CORRECTION, "Do this.", None),
        ({"value": "Too long.", "dataType": "TEXT"}, FeedbackKind.IMPLICIT, "comment", "Too long."),
        ({"value": True, "comment": "Great."}, FeedbackKind.BINARY, True, "Great."),
    ],
)
def test_score_is_feedback(app: SmallApp, score: dict[str, Any], kind: FeedbackKind, said: Any, comment: str | None):
    answer, key = app.add_answer(), new_id()
    body = {
        "id": key,
        "traceId": answer,
        "sessionId": "session-1",
        "name": "quality",
        "metadata": {"userId": "ada", "page": 3},
        "timestamp": "2026-01-02T03:04:05Z",
        "environment": "default",
        "configId": None,
    } | score
    reply = post(app, "scores", body)
    assert (reply.status_code, reply.json()) == (200, {"id": key})
    row = stored(app, key)
    assert (row.kind, row.value, row.comment) == (kind, said, comment)
    assert (row.interaction_ids, row.user_id, row.session_id) == ([answer], "ada", "session-1")
    assert row.tags == {"userId": "ada", "page": "3", "metric_name": body["name"]}
    assert row.created_at.isoformat() == "2026-01-02T03:04:05+00:00"


def test_answer_is_named_by_the_observation_and_also_in_the_digits_of_a_trace_id(app: SmallApp):
    answer = app.add_answer()
    for names in ({"traceId": uuid.UUID(answer).hex}, {"traceId": "unknown", "observationId": answer}):
        key = post(app, "scores", {"name": "liked", "value": True} | names).json()["id"]
        assert stored(app, key).interaction_ids == [answer]


def test_same_score_again_is_one_row_and_another_under_its_id_a_conflict(app: SmallApp):
    body = {"id": new_id(), "traceId": app.add_answer(), "name": "liked", "value": True}
    assert post(app, "scores", body).json() == post(app, "scores", body).json()
    seq = app.store.latest_seq()
    assert stored(app, body["id"]).seq == seq
    assert post(app, "scores", body | {"value": False}).status_code == 409
    assert app.store.latest_seq() == seq


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"traceId": None}, 422, "as `traceId` or `observationId`"),
        ({"traceId": "unheard-of"}, 404, "unheard-of"),
        ({"name": ""}, 422, "name"),
        ({"value": None}, 422, "value"),
        ({"value": 2}, 422, "0 or 1"),
        ({"value": "yes"}, 422, "a value of type BOOLEAN"),
        ({"value": 7, "dataType": "NUMERIC"}, 422, "not between 0 and 1"),
        ({"dataType": "COLOUR"}, 422, "dataType"),
        ({"timestamp": "yesterday"}, 422, "timestamp"),
        ({"metadata": {"userId": 5}}, 422, "`userId` names the user"),
    ],
)
def test_score_that_makes_no_sense_is_refused_wherever_it_comes(
    app: SmallApp, change: dict[str, Any], status: int, reason: str
):
    good = event(app.add_answer())
    bad = good["body"] | {"id": new_id()} | change
    before = app.store.latest_seq()
    alone = post(app, "scores", bad)
    assert alone.status_code == status, alone.text
    assert reason in alone.json()["error"]["message"]
    assert app.store.latest_seq() == before
    listed = post(app, "scores", [bad])
    assert (listed.status_code, listed.json()["accepted"], listed.json()["rejected"]) == (207, 0, 1)
    assert reason in listed.json()["errors"][0]["message"]
    (error,) = post(app, "ingestion", {"batch": [good | {"body": bad}]}).json()["errors"]
    assert (error["id"], reason in error["message"]) == (good["id"], True)
    assert app.store.latest_seq() == before


def test_list_of_scores_is_accepted_each_for_itself(app: SmallApp):
    good, bad = event(app.add_answer())["body"], event("unheard-of")["body"]
    reply = post(app, "scores", [good])
    assert (reply.status_code, reply.json()) == (202, {"message": "Accepted"})
    reply = post(app, "scores", [bad, good, event(app.add_answer())["body"]])
    assert reply.status_code == 207
    assert reply.json() == {
        "accepted": 2,
        "rejected": 1,
        "errors": [{"message": "no such interaction in the log: unheard-of"}],
    }


def test_batch_tells_what_became_of_each_event(app: SmallApp):
    answer = app.add_answer()
    good, unnamed, unknown = event(answer), event(answer, id=None), event("unheard-of")
    trace = {"id": "event-1", "type": "trace-create", "timestamp": "2026-01-01T00:00:00Z", "body": {"id": answer}}
    malformed = {"id": "event-2", "type": "score-create", "body": {"name": "liked"}}
    before = app.store.latest_seq()
    reply = post(app, "ingestion", {"batch": [trace, good, malformed, unnamed, unknown, {}, good], "metadata": {}})
    assert reply.status_code == 207
    successes, errors = reply.json()["successes"], reply.json()["errors"]
    assert successes == [{"id": each["id"], "status": 201} for each in (good, unnamed, good)]
    assert [(each["id"], each["status"]) for each in errors] == [
        ("event-1", 422),
        ("event-2", 400),
        (unknown["id"], 404),
        ("", 400),
    ]
    assert errors[0]["message"] == "events of type 'trace-create' are not stored here, only 'score-create'"
    assert app.store.latest_seq() == before + 2
    assert stored(app, unnamed["id"]).interaction_ids == [answer]


@pytest.mark.parametrize("text", ["\ud800", "\x00"], ids=["half of a pair", "NUL"])
@pytest.mark.parametrize("name", ["page", "userId"])
def test_what_cannot_be_stored_is_refused_and_its_neighbours_are_not(app: SmallApp, name: str, text: str):
    bad, good = (event(app.add_answer(), metadata={name: each}) for each in (text, "help"))
    before = app.store.latest_seq()
    alone = post(app, "scores", bad["body"])
    assert (alone.status_code, alone.json()["error"]["param"]) == (422, f"metadata.{name}")
    assert app.store.latest_seq() == before
    reply = post(app, "ingestion", {"batch": [bad, good, {"id": text}]}).json()
    assert [each["id"] for each in reply["successes"]] == [good["id"]]
    assert [each["status"] for each in reply["errors"]] == [400, 400]
    assert app.store.latest_seq() == before + 1


def test_a_score_has_the_time_of_its_event_unless_it_has_its_own(app: SmallApp):
    late, told = event(app.add_answer()), event(app.add_answer(), timestamp="2026-02-01T00:00:00Z")
    post(app, "ingestion", {"batch": [late, told]})
    assert [stored(app, each["body"]["id"]).created_at.month for each in (late, told)] == [1, 2]


@pytest.mark.parametrize("nobody", [None, "", False])
def test_a_score_that_names_nobody_is_of_nobody(app: SmallApp, nobody: Any):
    score = event(app.add_answer(), metadata={"userId": nobody})["body"]
    assert post(app, "scores", score).status_code == 200
    assert stored(app, score["id"]).user_id == "anonymous"


def test_an_unreadable_time_of_an_event_does_not_cost_its_score(app: SmallApp):
    unzoned = event(app.add_answer()) | {"timestamp": "2026-02-01T00:00:00"}
    assert post(app, "ingestion", {"batch": [unzoned]}).json()["errors"] == []


def test_metadata_may_be_any_json(app: SmallApp):
    score = event(app.add_answer(), metadata=["a", 1])["body"]
    assert post(app, "scores", score).status_code == 200
    assert stored(app, score["id"]).tags == {"metadata": '["a", 1]', "metric_name": "liked"}


def test_key_in_the_header_is_that_of_a_score_without_an_id(app: SmallApp):
    score = event(app.add_answer(), id=None)["body"]
    first, again = (post(app, "scores", score, **{"Idempotency-Key": "twice"}) for _ in range(2))
    assert first.json() == again.json() == {"id": "twice"}
    listed = post(app, "scores", [score], **{"Idempotency-Key": "twice"})
    assert (listed.status_code, "give each of a list its own `id`" in listed.json()["error"]["message"]) == (422, True)


def test_scores_that_no_log_takes_are_to_be_sent_again(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0]) as app:
        scores = [event(app.add_answer())["body"] for _ in range(2)]
        app.store.close()
        for path, body in (("scores", scores), ("ingestion", {"batch": [event("answer")]})):
            assert post(app, path, body).status_code == 503


@pytest.mark.parametrize("body", [None, [], {}, {"batch": None}, {"batch": [1]}])
def test_what_is_no_batch_is_refused(app: SmallApp, body: Any):
    assert post(app, "ingestion", body).status_code == 422


def test_key_comes_as_the_password_of_http_basic(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0]) as app:
        key, _ = app.store.keys.create([Scope.FEEDBACK])
        body = {"traceId": app.add_answer(), "name": "liked", "value": True}
        basic = base64.b64encode(f"pk-anything:{key}".encode()).decode()
        assert post(app, "scores", body).status_code == 401
        assert post(app, "scores", body, Authorization=f"Basic {basic}").status_code == 200
