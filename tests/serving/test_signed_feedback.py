from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from online_trl.serving.feedback_url import FeedbackUrls
from online_trl.serving.settings import ServerSettings
from online_trl.types import Feedback, FeedbackKind, Scope
from serving.small_app import LOCAL, SmallApp, small_app

SETTINGS: dict[str, Any] = {
    "feedback_url_kinds": [FeedbackKind.BINARY, FeedbackKind.COMPARISON, FeedbackKind.CORRECTION],
    "rate_limit_per_key": "20/minute",
}
THUMB = {"kind": "binary", "value": True}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(tmp_path_factory.mktemp("signed"), policy_folders[0], **SETTINGS) as app:
        app.store.keys.create([Scope.ADMIN])
        while app.request("GET", "/v1/models").status_code != 401:
            pass
        yield app


def url_for(app: SmallApp, *interaction_ids: str) -> str:
    url = FeedbackUrls(app.store.keys, ServerSettings(**SETTINGS)).url(interaction_ids, base_url=LOCAL)
    assert url is not None
    return url


def post(app: SmallApp, url: str, body: Any, **headers: str) -> tuple[httpx.Response, list[Feedback]]:
    """Posts to a signed URL, without a key, and returns the reply and what it put into the log."""
    before = app.store.latest_seq()
    parts = urlsplit(url)
    reply = app.request("POST", f"{parts.path}?{parts.query}", json=body, headers=headers)
    return reply, app.store.feedback(after=before)


def test_statement_needs_no_key_and_no_names(app: SmallApp):
    answer = app.add_answer(user_id="ada")
    reply, (row,) = post(app, url_for(app, answer), THUMB | {"comment": "good"})
    assert reply.status_code == 201
    assert reply.json()["feedback_id"] == row.feedback_id
    assert (row.kind, row.interaction_ids, row.value) == (FeedbackKind.BINARY, [answer], True)
    assert (row.user_id, row.comment) == ("ada", "good")


def test_statement_about_several_answers_is_about_those_of_the_url_in_their_order(app: SmallApp):
    answers = [app.add_answer(), app.add_answer()]
    _, (row,) = post(app, url_for(app, *answers), {"kind": "comparison", "value": "second"})
    assert row.interaction_ids == answers
    _, (row,) = post(app, url_for(app, *answers), THUMB | {"interaction_id": answers[1]})
    assert row.interaction_ids == [answers[1]]


def test_list_and_tensorzeros_shape_are_taken(app: SmallApp):
    answer = app.add_answer(user_id="ada")
    body = [THUMB, {"metric_name": "demonstration", "value": "Better."}]
    reply, rows = post(app, url_for(app, answer), body)
    assert [receipt["feedback_id"] for receipt in reply.json()] == [row.feedback_id for row in rows]
    assert [(row.kind.value, row.value, row.user_id) for row in rows] == [
        ("binary", True, "ada"),
        ("correction", "Better.", "ada"),
    ]


def test_retry_is_one_row(app: SmallApp):
    url = url_for(app, app.add_answer())
    headers = {"Idempotency-Key": "once"}
    first, rows = post(app, url, THUMB, **headers)
    again, no_rows = post(app, url, THUMB, **headers)
    assert (len(rows), no_rows) == (1, [])
    assert again.json() == first.json()


def test_change_of_mind_and_retraction(app: SmallApp):
    url = url_for(app, app.add_answer())
    first, _ = post(app, url, THUMB)
    second, _ = post(app, url, THUMB | {"value": False, "supersedes": first.json()["feedback_id"]})
    reply, (row,) = post(app, url, {"kind": "binary", "supersedes": second.json()["feedback_id"]})
    assert reply.status_code == 201
    assert (row.value, row.supersedes) == (None, second.json()["feedback_id"])


def test_other_statements_cannot_be_taken_back(app: SmallApp):
    reply, _ = post(app, url_for(app, app.add_answer()), THUMB)
    other = url_for(app, app.add_answer())
    reply, rows = post(app, other, {"kind": "binary", "supersedes": reply.json()["feedback_id"]})
    assert (reply.status_code, reply.json()["error"]["code"], rows) == (403, "feedback_url_beyond", [])


BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    "another answer": (THUMB | {"interaction_id": "other"}, "does not allow feedback on 'other'"),
    "one more answer": ({"kind": "comparison", "value": "tie", "interaction_ids": ["i", "other"]}, "of kind"),
    "another kind": ({"kind": "implicit", "value": "copy"}, "does not allow feedback of kind `implicit`"),
    "another user": (THUMB | {"user_id": "bob"}, "is for the user who got the answers, and not for bob"),
}


@pytest.mark.parametrize(("body", "message"), BEYOND.values(), ids=BEYOND.keys())
def test_what_the_url_does_not_allow_is_refused(app: SmallApp, body: dict[str, Any], message: str):
    reply, rows = post(app, url_for(app, app.add_answer()), body)
    assert (reply.status_code, reply.json()["error"]["code"], rows) == (403, "feedback_url_beyond", [])
    assert message in reply.json()["error"]["message"]


def test_batch_with_one_statement_beyond_is_refused_whole(app: SmallApp):
    reply, rows = post(app, url_for(app, app.add_answer()), [THUMB, {"kind": "implicit", "value": "copy"}])
    assert (reply.status_code, rows) == (403, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [("kind=binary", "kind=implicit"), ("expires=", "expires=9"), ("interaction=", "interaction=x&interaction=")],
)
def test_changed_url_is_refused(app: SmallApp, old: str, new: str):
    reply, rows = post(app, url_for(app, app.add_answer()).replace(old, new), THUMB)
    assert (reply.status_code, reply.json()["error"]["code"], rows) == (403, "feedback_url_invalid", [])


def test_expired_url_is_refused(app: SmallApp):
    settings = ServerSettings(feedback_url_seconds=1)
    urls = FeedbackUrls(app.store.keys, settings)
    urls._seconds = -1
    reply, rows = post(app, urls.url([app.add_answer()], base_url=LOCAL), THUMB)
    assert (reply.status_code, reply.json()["error"]["code"], rows) == (403, "feedback_url_expired", [])


def test_answer_that_is_not_in_the_log_is_unknown(app: SmallApp):
    reply, rows = post(app, url_for(app, "gone"), THUMB)
    assert (reply.status_code, rows) == (404, [])


def test_answer_that_never_came_or_is_erased_leaves_the_others(app: SmallApp):
    kept, erased = app.add_answer(), app.add_answer()
    app.store.erase_interaction(erased)
    url = url_for(app, "never", erased, kept)
    _, (row,) = post(app, url, THUMB | {"interaction_id": kept})
    assert row.interaction_ids == [kept]
    # What is about all of them, or about the first, must not become one about those that happen to be there.
    for body, status in ((THUMB, 422), ({"metric_name": "liked", "value": True}, 404)):
        reply, rows = post(app, url, body)
        assert (reply.status_code, rows) == (status, [])
    for name in ("never", erased):
        reply, rows = post(app, url, THUMB | {"interaction_id": name})
        assert (reply.status_code, rows) == (404, [])


def test_fetching_the_url_stores_nothing(app: SmallApp):
    # Mail programs and browsers fetch links before anybody has clicked on them.
    parts = urlsplit(url_for(app, app.add_answer()))
    before = app.store.latest_seq()
    assert app.request("GET", f"{parts.path}?{parts.query}").status_code == 405
    assert app.store.latest_seq() == before


def test_url_is_limited_like_a_key(app: SmallApp):
    url, other = url_for(app, app.add_answer()), url_for(app, app.add_answer())
    assert [post(app, url, THUMB)[0].status_code for _ in range(21)] == [201] * 20 + [429]
    assert post(app, other, THUMB)[0].status_code == 201


def chat(app: SmallApp, **fields: Any) -> httpx.Response:
    key, _ = app.store.keys.create([Scope.CHAT])
    headers = {"Authorization": f"Bearer {key}"}
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "user": "eve"} | fields
    while (reply := app.request("POST", "/v1/chat/completions", json=body, headers=headers)).status_code == 401:
        pass
    assert reply.status_code == 200, reply.text
    return reply


@pytest.mark.parametrize("stream", [False, True])
def test_each_reply_brings_a_url_that_works(app: SmallApp, stream: bool):
    reply = chat(app, stream=stream)
    url = reply.headers["X-Feedback-Url"]
    assert url.startswith(f"{LOCAL}/v1/signed-feedback?")
    _, (row,) = post(app, url, THUMB)
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert row.interaction_ids == [json.loads(events[0])["id"]]
    assert row.user_id == "eve"


def test_reply_with_several_answers_brings_a_url_for_comparing_them(app: SmallApp):
    reply = chat(app, n=2)
    _, (row,) = post(app, reply.headers["X-Feedback-Url"], {"kind": "comparison", "value": "first"})
    assert row.interaction_ids == [choice["interaction_id"] for choice in reply.json()["choices"]]


def test_reply_brings_no_url_that_would_allow_nothing(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0], feedback_url_kinds=[FeedbackKind.COMPARISON]) as app:
        assert "X-Feedback-Url" not in chat(app).headers
        assert "X-Feedback-Url" in chat(app, n=2).headers
