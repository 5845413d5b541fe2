import math

import pytest

from online_trl.evaluation.text import distinct, is_refusal, repetition, text_values


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m unable to do so.",
        "Sadly, I cannot tell.",
        "As an AI language model, I have no opinion.",
    ],
)
def test_an_answer_that_declines_is_a_refusal(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["Send it back within 30 days.", "You cannot miss it.", "It works. " * 30 + "I cannot say more."]
)
def test_an_answer_that_helps_is_none(text):
    assert not is_refusal(text)


def test_refusals_in_another_language_are_found_by_a_pattern_of_ones_own():
    assert text_values(["Leider nein.", "Ja."], r"^Leider").refusals.tolist() == [1.0, 0.0]


def test_repetition_is_the_share_of_n_grams_said_before():
    assert repetition("a b a b a b", n=2) == pytest.approx(1 - 2 / 5)
    assert repetition("one two three four five") == 0.0
    assert repetition("too short") == 0.0


def test_distinct_counts_over_all_answers_together():
    assert distinct(["A b", "a c"], 1) == 3 / 4
    assert distinct(["a b", "a b"], 2) == 1 / 2
    assert math.isnan(distinct(["a"], 2))
