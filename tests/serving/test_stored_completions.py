from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from online_trl import database
from online_trl.types import Feedback, Scope, new_id
from serving.small_app import SmallApp, small_app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> Iterator[SmallApp]:
    with small_app(
        tmp_path_factory.mktemp("stored"), policy_folders[0], rating_bounds={"rating": (1, 5)}, burst_rows=0
    ) as app:
        yield app


def client(app: SmallApp, key: str = "unused") -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app.app))
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=key, http_client=http, max_retries=0)


@pytest.fixture
def completions(app: SmallApp) -> Any:
    return client(app).chat.completions


def said(app: SmallApp, answer: str) -> list[Feedback]:
    return app.store.feedback_about(answer)


def test_openai_client_says_what_it_thinks_of_the_answer_it_got(app: SmallApp, completions: Any):
    question = [{"role": "user", "content": "Hi"}]
    completion = app.run(completions.create(model="default", messages=question, max_tokens=4, user="ada"))
    updated = app.run(completions.update(completion.id, metadata={"feedback": "up", "page": "help"}))
    (row,) = said(app, completion.id)
    assert (row.kind.value, row.value, row.user_id, row.tags) == ("binary", True, "ada", {"page": "help"})
    assert updated.metadata == {"feedback": "up", "page": "help"}
    stored = app.run(completions.retrieve(completion.id))
    for each in (updated, stored):
        assert each.id == completion.id
        assert each.model == completion.model
        assert each.created == pytest.approx(completion.created, abs=1)
        assert each.system_fingerprint == completion.system_fingerprint
        assert each.usage == completion.usage
        assert each.choices[0].message.content == completion.choices[0].message.content
        assert each.choices[0].finish_reason == completion.choices[0].finish_reason
    assert stored.metadata is None


def test_everything_may_be_said_at_once(app: SmallApp, completions: Any):
    answer = app.add_answer(user_id="ada")
    metadata = {"feedback": "down", "rating": "2", "correction": "Do this.", "comment": "Wrong.", "user": "bob"}
    app.run(completions.update(answer, metadata=metadata))
    rows = said(app, answer)
    assert [(row.kind.value, row.value, row.comment) for row in rows] == [
        ("binary", False, None),
        ("rating", {"score": 2, "low": 1, "high": 5}, None),
        ("correction", "Do this.", None),
        ("implicit", "comment", "Wrong."),
    ]
    assert {row.user_id for row in rows} == {"bob"}


def test_saying_it_again_changes_nothing_and_saying_otherwise_amends(app: SmallApp, completions: Any):
    answer = app.add_answer()
    for feedback in ("up", "up", "down", "down", "", "", "up"):
        app.run(completions.update(answer, metadata={"feedback": feedback}))
    rows = said(app, answer)
    assert [row.value for row in rows] == [True, False, None, True]
    assert [row.supersedes for row in rows] == [None, *(row.feedback_id for row in rows[:-1])]


def test_each_user_has_an_opinion_of_their_own(app: SmallApp, completions: Any):
    answer = app.add_answer(user_id="ada")
    for user in ("ada", "bob"):
        app.run(completions.update(answer, metadata={"feedback": "up", "user": user}))
    app.run(completions.update(answer, metadata={"feedback": "down"}))
    rows = said(app, answer)
    assert [(row.user_id, row.value) for row in rows] == [("ada", True), ("bob", True), ("ada", False)]
    assert rows[2].supersedes == rows[0].feedback_id


def test_nobody_takes_the_keys_of_what_others_set(app: SmallApp, completions: Any):
    answer = app.add_answer(user_id="ada")
    for user in ("ada", "eve"):
        body = {"kind": "correction", "interaction_id": answer, "value": "No.", "user_id": user}
        key = f"completion/{answer}/correction/ada/0"
        assert app.request("POST", "/v1/feedback", json=body | {"idempotency_key": key}).status_code == 201
    app.run(completions.update(answer, metadata={"correction": "Better."}))
    assert [(row.user_id, row.value) for row in said(app, answer)][2:] == [("ada", "Better.")]


def test_clients_that_say_the_same_at_once_make_one_row(app: SmallApp, completions: Any):
    answer = app.add_answer()

    async def update_together() -> None:
        await asyncio.gather(*(completions.update(answer, metadata={"feedback": "up"}) for _ in range(8)))

    app.run(update_together())
    assert [row.value for row in said(app, answer)] == [True]


def test_completion_may_be_named_as_its_upstream_server_named_it(app: SmallApp, completions: Any):
    upstream = f"chatcmpl-{new_id()}"
    answer = app.add_answer(upstream_id=upstream)
    app.run(completions.update(upstream, metadata={"feedback": "up"}))
    assert [row.value for row in said(app, answer)] == [True]
    assert app.run(completions.retrieve(upstream)).choices[0].message.content == "answer"


@pytest.mark.parametrize(
    ("metadata", "status", "reason"),
    [
        ({"feedback": "sideways"}, 422, "may be `up`, `down`, or empty"),
        ({"rating": "many"}, 422, "not a number"),
        ({"rating": "6"}, 422, "not between 1 and 5"),
        ({"rating": "nan"}, 422, "not between 1 and 5"),
        ({"feedback": "up", "rating": "6"}, 422, "not between 1 and 5"),
        ({"correction": " "}, 422, "non-empty text"),
        ({"page": "help"}, 422, "says nothing about the answer"),
        ({"feedback": "up", "user": "u" * 257}, 422, "at most 256 characters"),
        ({"feedback": True}, 400, "metadata.feedback"),
        ({}, 400, "metadata"),
        (None, 400, "metadata"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(
    app: SmallApp, completions: Any, metadata: Any, status: int, reason: str
):
    answer = app.add_answer()
    before = app.store.latest_seq()
    with pytest.raises(openai.APIStatusError, match=reason) as caught:
        app.run(completions.update(answer, metadata=metadata))
    assert caught.value.status_code == status
    assert app.store.latest_seq() == before


def test_completion_that_never_was_is_not_found(app: SmallApp, completions: Any):
    for call in (completions.retrieve, completions.delete):
        with pytest.raises(openai.NotFoundError, match="unheard-of"):
            app.run(call("unheard-of"))
    with pytest.raises(openai.NotFoundError, match="unheard-of"):
        app.run(completions.update("unheard-of", metadata={"feedback": "up"}))


def test_deleted_completion_is_erased(app: SmallApp, completions: Any):
    answer = app.add_answer()
    app.run(completions.update(answer, metadata={"feedback": "up"}))
    deleted = app.run(completions.delete(answer))
    assert (deleted.id, deleted.deleted, deleted.object) == (answer, True, "chat.completion.deleted")
    assert said(app, answer) == []
    with pytest.raises(openai.NotFoundError, match="erased"):
        app.run(completions.update(answer, metadata={"feedback": "up"}))
    assert app.store.tombstones()[-1].subject.value == "interaction"


def test_an_erased_user_who_comes_back_may_say_something_again(app: SmallApp, completions: Any):
    answer, user = app.add_answer(user_id="bob"), new_id()
    for _ in range(3):
        for feedback in ("up", "down"):
            app.run(completions.update(answer, metadata={"feedback": feedback, "user": user}))
        assert [row.value for row in said(app, answer)] == [True, False]
        app.store.erase_user(user)


def test_what_two_clients_set_at_the_same_moment_stands_one_after_the_other(app: SmallApp, completions: Any):
    answer = app.add_answer()

    async def both() -> None:
        thumbs = (completions.update(answer, metadata={"feedback": each}) for each in ("up", "down"))
        await asyncio.gather(*thumbs)

    app.run(both())
    first, second = said(app, answer)
    assert {first.value, second.value} == {True, False}
    assert second.supersedes == first.feedback_id


def test_all_choices_of_a_completion_are_erased_and_again_is_as_good_as_once(app: SmallApp, completions: Any):
    question = [{"role": "user", "content": "Two, please"}]
    completion = app.run(completions.create(model="default", messages=question, max_tokens=4, n=2))
    ids = [choice.interaction_id for choice in completion.choices]
    for name in (completion.id, ids[1], completion.id):
        assert app.run(completions.delete(name)).deleted
    assert app.store.erased_among(ids) == set(ids)


def test_an_interrupted_erasure_is_finished_by_the_next(
    tmp_path: Path, policy_folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.5)
    secret = "my number is 0815 4711"
    with small_app(tmp_path, policy_folders[0]) as app:
        answer = app.add_answer(prompt=[{"role": "user", "content": secret}])
        with closing(sqlite3.connect(tmp_path / "feedback.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM interactions").fetchone()
            with pytest.raises(openai.InternalServerError, match="erase it again"):
                app.run(client(app).chat.completions.delete(answer))
        assert app.run(client(app).chat.completions.delete(answer)).deleted
        assert [path.name for path in tmp_path.iterdir() if secret.encode() in path.read_bytes()] == []


def test_scopes_decide_who_may_look_say_and_erase(tmp_path: Path, policy_folders: list[Path]):
    with small_app(tmp_path, policy_folders[0]) as app:
        answer = app.add_answer()
        chat, feedback, both, admin = (
            client(app, app.store.keys.create(scopes)[0]).chat.completions
            for scopes in ([Scope.CHAT], [Scope.FEEDBACK], [Scope.CHAT, Scope.FEEDBACK], [Scope.ADMIN])
        )
        up = {"feedback": "up"}
        assert app.run(chat.retrieve(answer)).choices[0].message.content == "answer"
        assert app.run(both.update(answer, metadata=up)).choices[0].message.content == "answer"
        assert app.run(feedback.update(answer, metadata=up)).choices[0].message.content is None
        for refused in (
            feedback.retrieve(answer),
            chat.update(answer, metadata=up),
            both.delete(answer),
        ):
            with pytest.raises(openai.PermissionDeniedError, match="scope"):
                app.run(refused)
        assert app.run(admin.delete(answer)).deleted
