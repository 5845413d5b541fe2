from __future__ import annotations

from typing import Any

import pytest

from online_trl.preferences import REGENERATED_WEIGHT
from online_trl.types import FeedbackKind, FeedbackSource, Interaction, Purpose
from preferences.log import Log, texts


def test_the_next_answer_is_preferred_to_the_regenerated_one(log):
    log.answer("before")
    old = log.answer("old")
    log.answer("other session", session_id="elsewhere")
    log.answer("other prompt", prompt="And my refund?")
    log.answer("for a judge", purpose=Purpose.EVALUATION)
    log.answer("new")
    log.answer("newest")
    said = log.say("implicit", [old], "regenerate", source=FeedbackSource.IMPLICIT)
    (pair,) = log.read().pairs
    assert texts([pair]) == [("new", "old")]
    assert (pair.weight, pair.seq, pair.kind) == (REGENERATED_WEIGHT, said.seq, FeedbackKind.IMPLICIT)


def test_an_answer_that_comes_after_its_regeneration_dates_the_pair(log):
    old = log.answer("old")
    said = log.say("implicit", [old], "regenerate")
    assert log.read().pairs == ()
    new = log.answer("new")
    (pair,) = log.read(after=said.seq).pairs
    assert (texts([pair]), pair.seq, pair.feedback_ids) == ([("new", "old")], new.seq, (said.feedback_id,))
    assert log.read(upto=said.seq).pairs == ()


def test_other_signals_give_no_pair(log):
    old = log.answer("old")
    log.answer("new")
    log.say("implicit", [old], "copy")
    assert log.read().pairs == log.read().labels == ()


def ask_again(log: Log, old: Interaction, text: str, **fields: Any) -> Interaction:
    return log.answer(text, regenerates=old.interaction_id, **fields)


def go_on(log: Log, answer: Interaction, **fields: Any) -> Interaction:
    return log.answer("You are welcome.", "Thanks!", parent_id=answer.interaction_id, **fields)


def test_the_answer_that_the_conversation_goes_on_from_is_preferred_to_the_one_it_replaced(log):
    old = log.answer("old", policy_version="policy-0002", session_id="a")
    new = ask_again(log, old, "new", session_id="b")
    assert log.read().pairs == ()
    following = go_on(log, new)
    (pair,) = log.read(after=new.seq).pairs
    assert texts([pair]) == [("new", "old")]
    assert (pair.kind, pair.weight, pair.seq) == (FeedbackKind.IMPLICIT, REGENERATED_WEIGHT, following.seq)
    assert (pair.feedback_ids, pair.interaction_ids) == ((), (new.interaction_id, old.interaction_id))
    assert (pair.voice, pair.user_ids) == ("ada", ("ada",))
    assert (pair.session_ids, pair.policy_versions) == (("a", "b"), ("policy-0001", "policy-0002"))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("binary", True),
        ("rating", {"score": 4, "low": 1, "high": 5}),
        ("implicit", "copy"),
        ("implicit", "share"),
    ],
)
def test_kind_words_accept_an_answer(log, kind, value):
    old = log.answer("old")
    new = ask_again(log, old, "new")
    said = log.say(kind, [new], value, user_id="bob")
    (pair,) = log.read(after=new.seq).pairs
    assert (texts([pair]), pair.feedback_ids, pair.seq) == ([("new", "old")], (said.feedback_id,), said.seq)
    assert (pair.kind, pair.weight, pair.voice) == (FeedbackKind.IMPLICIT, REGENERATED_WEIGHT, "bob")


@pytest.mark.parametrize(
    ("kind", "value"),
    [("binary", False), ("rating", {"score": 3, "low": 1, "high": 5}), ("implicit", "abandon")],
)
def test_other_words_do_not(log, kind, value):
    new = ask_again(log, log.answer("old"), "new")
    log.say(kind, [new], value)
    assert log.read().pairs == ()


def test_an_earlier_answer_that_was_accepted_first_is_not_rejected(log):
    old = log.answer("old")
    new = ask_again(log, old, "new")
    go_on(log, old)
    go_on(log, new)
    assert log.read().pairs == ()


def test_what_is_accepted_only_later_changes_nothing(log):
    old = log.answer("old")
    new = ask_again(log, old, "new")
    known = go_on(log, new)
    log.say("binary", [old], True)
    assert texts(log.read().pairs) == texts(log.read(upto=known.seq).pairs) == [("new", "old")]
    assert log.read(after=known.seq).pairs == ()


def test_an_acceptance_that_is_taken_back_is_none(log):
    new = ask_again(log, log.answer("old"), "new")
    up = log.say("binary", [new], True)
    log.say("binary", [], None, supersedes=up.feedback_id)
    assert log.read().pairs == ()


def test_of_three_answers_each_is_compared_with_the_one_it_replaced(log):
    first = log.answer("first")
    second = ask_again(log, first, "second")
    go_on(log, ask_again(log, second, "third"))
    assert texts(log.read().pairs) == [("third", "second")]


def test_the_signal_and_the_course_of_the_conversation_are_one_pair(log):
    old = log.answer("old")
    said = log.say("implicit", [old], "regenerate", source=FeedbackSource.IMPLICIT)
    new = ask_again(log, old, "new")
    go_on(log, new)
    (pair,) = log.read().pairs
    assert (texts([pair]), pair.feedback_ids, pair.seq) == ([("new", "old")], (said.feedback_id,), new.seq)
    assert log.read(after=new.seq).pairs == ()


def test_a_statement_after_the_weak_pair_adds_what_it_lacked(log):
    old = log.answer("old")
    new = ask_again(log, old, "new")
    weak = go_on(log, new)
    log.say("comparison", [new, old], "first")
    (pair,) = log.read(after=weak.seq).pairs
    assert (texts([pair]), pair.kind, pair.weight) == ([("new", "old")], FeedbackKind.COMPARISON, 0.75)


@pytest.mark.parametrize("purpose", [Purpose.EVALUATION, Purpose.BACKGROUND])
def test_only_chats_are_regenerated_or_gone_on_from(log, purpose):
    old = log.answer("old")
    go_on(log, ask_again(log, old, "for a judge", purpose=purpose))
    go_on(log, ask_again(log, old, "new"), purpose=purpose)
    assert log.read().pairs == ()
