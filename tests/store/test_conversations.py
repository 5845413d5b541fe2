from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from online_trl.store import FeedbackStore, Turn
from online_trl.types import ANONYMOUS, Interaction, Message, Purpose

FIRST: list[Message] = [{"role": "user", "content": "How do I reset my password?"}]
ANSWER: Message = {"role": "assistant", "content": "Press the button."}
SECOND: list[Message] = [*FIRST, ANSWER, {"role": "user", "content": "Which one?"}]


def answer(store: FeedbackStore, prompt: list[Message] = FIRST, text: str = ANSWER["content"], **fields: Any) -> str:
    row = {"policy_version": "policy-0001", "session_id": "session-1", "user_id": "ada"} | fields
    completion: list[Message] = [{"role": "assistant", "content": text}]
    return store.add_interaction(Interaction(prompt=prompt, completion=completion, **row)).interaction_id


def test_prompt_that_begins_with_an_answer_goes_on_with_its_conversation(store: FeedbackStore):
    other = answer(store, session_id="session-0", text="Ask somebody else.")
    parent = answer(store)
    turn = store.find_turn(SECOND, user_id="ada")
    assert turn == Turn(session_id="session-1", parent_id=parent, first_version="policy-0001")
    assert turn.parent_id != other


def test_several_messages_after_the_last_answer_do_not_matter(store: FeedbackStore):
    parent = answer(store)
    prompt: list[Message] = [*SECOND, {"role": "system", "content": "Be brief."}]
    assert store.find_turn(prompt, user_id="ada").parent_id == parent


def test_answer_that_is_hardly_text_is_followed(store: FeedbackStore):
    said: Message = {"role": "assistant", "content": "a\x00b \ufffd \U0001f600 \u2028"}
    parent = answer(store, text=said["content"])
    assert store.get_interactions([parent])[parent].completion == [said]
    prompt: list[Message] = [*FIRST, said, {"role": "user", "content": "What?"}]
    assert store.find_turn(prompt, user_id="ada").parent_id == parent


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        (FIRST, {}),
        (SECOND, {"user_id": "eve"}),
        (SECOND, {"purpose": Purpose.EVALUATION}),
        (SECOND, {"purpose": Purpose.BACKGROUND}),
        ([*FIRST, {"role": "assistant", "content": "Press it."}, {"role": "user", "content": "Which one?"}], {}),
        ([{"role": "system", "content": "Be brief."}, *SECOND], {}),
    ],
)
def test_prompt_that_goes_on_with_nothing_begins_a_conversation(
    store: FeedbackStore, prompt: list[Message], asked: dict[str, Any]
):
    answer(store)
    turns = [store.find_turn(prompt, **{"user_id": "ada"} | asked) for _ in range(2)]
    assert turns[0].session_id != turns[1].session_id
    assert {turn.session_id for turn in turns}.isdisjoint({"session-1"})
    assert turns == [Turn(session_id=turn.session_id) for turn in turns]


def test_strangers_who_say_the_same_share_no_conversation(store: FeedbackStore):
    parent = answer(store, user_id=ANONYMOUS)
    turns = [store.find_turn(SECOND, user_id=ANONYMOUS) for _ in range(2)]
    assert turns == [Turn(session_id=turn.session_id) for turn in turns]
    assert len({"session-1", *(turn.session_id for turn in turns)}) == 3
    named = store.find_turn(SECOND, user_id=ANONYMOUS, session_id="session-1")
    assert named == Turn(session_id="session-1", parent_id=parent, first_version="policy-0001")


def test_background_answers_are_nobodys_parent(store: FeedbackStore):
    answer(store, purpose=Purpose.BACKGROUND)
    assert store.find_turn(SECOND, user_id="ada").parent_id is None
    named = store.find_turn(SECOND, user_id="ada", purpose=Purpose.BACKGROUND, session_id="session-1")
    assert named == Turn(session_id="session-1")


def test_latest_of_the_same_answers_is_the_parent(store: FeedbackStore):
    answer(store, session_id="session-0")
    latest = answer(store)
    turn = store.find_turn(SECOND, user_id="ada")
    assert (turn.session_id, turn.parent_id) == ("session-1", latest)


def test_conversation_that_is_named_is_the_one(store: FeedbackStore):
    named = answer(store, session_id="session-0")
    answer(store)
    turn = store.find_turn(SECOND, user_id="ada", session_id="session-0")
    assert (turn.session_id, turn.parent_id) == ("session-0", named)
    assert store.find_turn(SECOND, user_id="ada", session_id="new") == Turn(session_id="new")


def test_same_prompt_again_regenerates_the_latest_answer(store: FeedbackStore):
    parent = answer(store)
    answer(store, SECOND, "The red one.", parent_id=parent)
    latest = answer(store, SECOND, "The blue one.", parent_id=parent)
    turn = store.find_turn(SECOND, user_id="ada")
    assert (turn.session_id, turn.parent_id, turn.regenerates) == ("session-1", parent, latest)


def test_first_turn_is_regenerated_where_the_conversation_is_named(store: FeedbackStore):
    former = answer(store)
    assert store.find_turn(FIRST, user_id="ada", session_id="session-1").regenerates == former
    assert store.find_turn(FIRST, user_id="ada").regenerates is None
    assert store.find_turn(FIRST, user_id="eve", session_id="session-1").regenerates is None
    assert store.find_turn(FIRST, user_id="ada", session_id="session-2").regenerates is None


def test_version_that_answered_first_is_told(store: FeedbackStore):
    answer(store, policy_version="policy-0002", user_id="eve")
    answer(store)
    answer(store, SECOND, policy_version="policy-0003")
    assert store.find_turn(SECOND, user_id="ada").first_version == "policy-0001"
    assert store.find_turn(SECOND, user_id="ada", session_id="new").first_version is None


def test_conversation_is_found_by_another_server(store: FeedbackStore, store_url: str):
    parent = answer(store)
    with FeedbackStore(store_url) as other:
        assert other.find_turn(SECOND, user_id="ada").parent_id == parent


def test_looks_into_the_log_use_the_most_special_index(tmp_path: Path):
    queries: list[tuple[str, Any]] = []
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        answer(store)
        engine = store._database._engine
        event.listen(engine, "before_cursor_execute", lambda *call: queries.append((call[2], call[3])))
        store.find_turn(SECOND, user_id="ada")
        looks = [query for query in queries if query[0].startswith("SELECT")]
        with engine.connect() as connection:
            plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all() for text, values in looks]
    assert [step[3].partition(" INDEX ")[2] for plan in plans for step in plan] == [
        "ix_interactions_user_id_reply_key (user_id=? AND reply_key=?)",
        "ix_interactions_user_id_session_id (user_id=? AND session_id=?)",
        "ix_interactions_user_id_session_id (user_id=? AND session_id=?)",
    ]
