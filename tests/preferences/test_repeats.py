from __future__ import annotations

import pytest

from preferences.log import texts


def test_the_same_order_by_the_same_user_counts_once(log):
    a, b = log.answer("a"), log.answer("b")
    log.say("comparison", [a, b], "first")
    log.say("ranking", [b, a], [2, 1])
    log.say("comparison", [b, a], "second", user_id="bob")
    pairs = log.read().pairs
    assert [(pair.voice, pair.kind.value, pair.weight) for pair in pairs] == [
        ("ada", "comparison", 1.0),
        ("bob", "comparison", 1.0),
    ]


def test_a_stronger_statement_adds_the_difference(log):
    answers = [log.answer(text) for text in "abc"]
    log.say("ranking", answers, [1, 2, 2])
    log.say("comparison", answers[:2], "first")
    pairs = log.read().pairs
    assert texts(pairs) == [("a", "b"), ("a", "c"), ("a", "b")]
    assert [pair.weight for pair in pairs] == [0.5, 0.5, 0.5]


def test_a_verdict_repeated_with_another_click_counts_once(log):
    good, bad = log.answer("good"), log.answer("bad")
    log.say("binary", [bad], False)
    log.say("binary", [good], True)
    log.say("binary", [good], True)
    assert [pair.weight for pair in log.read().pairs] == [1.0]


@pytest.mark.parametrize("kind", ["comparison", "ranking"])
def test_what_follows_from_a_ranking_is_not_counted_again(log, kind):
    a, b, c = (log.answer(text) for text in "abc")
    log.say("ranking", [a, b, c], [1, 2, 3])
    end = log.store.latest_seq()
    again = {"comparison": "first", "ranking": [1, 2]}[kind]
    log.say(kind, [a, c], again)
    assert log.read(after=end).pairs == ()
    log.say(kind, [a, c], again, user_id="bob")
    assert texts(log.read(after=end).pairs) == [("a", "c")]


def test_what_was_stated_before_the_ranking_that_implies_it_stays(log):
    a, b, c = (log.answer(text) for text in "abc")
    log.say("comparison", [a, c], "first")
    log.say("ranking", [a, b, c], [1, 2, 3])
    assert texts(log.read().pairs) == [("a", "c"), ("a", "b"), ("b", "c")]


def test_somebody_who_contradicts_themselves_is_taken_at_both_words(log):
    a, b = log.answer("a"), log.answer("b")
    log.say("comparison", [a, b], "first")
    log.say("comparison", [a, b], "second")
    assert texts(log.read().pairs) == [("a", "b"), ("b", "a")]


def test_the_same_rewrite_counts_once_and_another_one_as_well(log):
    answer = log.answer("Lost.")
    for rewrite in ("Today.", "Today.", "Tomorrow."):
        log.say("correction", [answer], rewrite)
    assert texts(log.read().pairs) == [("Today.", "Lost."), ("Tomorrow.", "Lost.")]
