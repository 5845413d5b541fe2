from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from online_trl.rewards.asking import (
    WorthSelection,
    double_thompson,
    presentable,
    random_pair,
    thompson_probabilities,
    worth_asking,
)

# Three answers, four heads. Best in the eyes of the heads: 0, 0, 1, 2.
# Variances of the differences: 0 and 1: of (2, 2, -2, 0): 2.75; 0 and 2: of (1, 3, 0, -2): 3.25;
# 1 and 2: of (-1, 1, 2, -2): 2.5.
SCORES = np.array([[3.0, 4.0, 0.0, 0.0], [1.0, 2.0, 2.0, 0.0], [2.0, 1.0, 0.0, 2.0]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_first_is_a_heads_best_and_second_what_the_heads_disagree_about_most():
    expected = [[0, 0, 0.5], [0.25, 0, 0], [0.25, 0, 0]]
    np.testing.assert_array_equal(thompson_probabilities(SCORES), expected)


def test_ties_share_the_probability():
    scores = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 4.0]])
    # One head ties the first two, the other prefers the third, about which both disagree as much with either.
    expected = [[0, 0, 0.25], [0, 0, 0.25], [0.25, 0.25, 0]]
    np.testing.assert_array_equal(thompson_probabilities(scores), expected)


@pytest.mark.parametrize("scores", [np.array([[5.0], [1.0], [0.1]]), np.array([[0.1] * 3, [0.3] * 3, [0.7] * 3])])
def test_without_disagreement_all_pairs_are_as_likely(scores: np.ndarray):
    expected = (1 - np.eye(3)) / 6
    np.testing.assert_array_equal(thompson_probabilities(scores), expected)
    assert worth_asking(scores) == 0


def test_propensity_is_that_of_the_pair_in_any_order_and_both_orders_come():
    draw = rng()
    pairs = [double_thompson(SCORES, draw) for _ in range(4000)]
    assert {frozenset((pair.first, pair.second)): pair.propensity for pair in pairs} == {
        frozenset((0, 2)): 0.75,
        frozenset((0, 1)): 0.25,
    }
    for first, second, probability in ((0, 2, 0.375), (2, 0, 0.375), (0, 1, 0.125), (1, 0, 0.125)):
        share = sum((pair.first, pair.second) == (first, second) for pair in pairs) / 4000
        assert share == pytest.approx(probability, abs=0.03)


def test_propensities_of_all_pairs_add_up_to_one():
    for seed in range(20):
        scores = rng(seed).normal(size=(8, 4))
        seen = {}
        for _ in range(300):
            pair = double_thompson(scores, rng(len(seen)))
            seen[frozenset((pair.first, pair.second))] = pair.propensity
        matrix = thompson_probabilities(scores)
        both = {frozenset(pair): matrix[pair] + matrix[pair[::-1]] for pair in itertools.combinations(range(8), 2)}
        assert sum(both.values()) == pytest.approx(1)
        assert seen.items() <= both.items()


def test_control_draws_any_pair():
    draw = rng()
    pairs = [random_pair(np.zeros((4, 1)), draw) for _ in range(6000)]
    assert {pair.propensity for pair in pairs} == {1 / 6}
    for first, second in itertools.permutations(range(4), 2):
        share = sum((pair.first, pair.second) == (first, second) for pair in pairs) / 6000
        assert share == pytest.approx(1 / 12, abs=0.02)


def test_worth_is_the_largest_variance_of_a_preference():
    third = math.log(3)
    # The heads say that the first is preferred to the second with probabilities 1/4 and 3/4.
    assert worth_asking(np.array([[0.0, third], [third, 0.0]])) == pytest.approx(0.0625)
    # Both are sure, and say the opposite; neither overflows.
    assert worth_asking(np.array([[0.0, 2000.0], [2000.0, 0.0], [0.0, 2000.0]])) == 0.25
    # By how much something is better is in doubt, and that it is better is not.
    assert worth_asking(np.array([[0.0, 0.0], [40.0, 80.0]])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rule", [thompson_probabilities, worth_asking, lambda scores: random_pair(scores, rng())])
def test_one_answer_cannot_be_compared(rule):
    with pytest.raises(ValueError, match="needs two answers; there are scores of 1"):
        rule(np.zeros((1, 3)))


def test_only_what_may_be_as_good_as_the_plain_answer_is_shown():
    scores = np.array(
        [
            [4.0, -4.0],  # the answer that would have been given: mean 0, and shown whatever its lower bound is
            [0.5, -1.5],  # mean -0.5, deviation 1: lower bound -1.5
            [0.5, -0.5],  # mean 0, deviation 0.5: lower bound -0.5
            [3.0, 1.0],  # mean 2, deviation 1: lower bound 1
        ]
    )
    assert presentable(scores).tolist() == [0, 2, 3]
    assert presentable(scores, slack=2.0).tolist() == [0, 1, 2, 3]
    assert presentable(scores, slack=0.0).tolist() == [0, 3]
    assert presentable(scores, caution=0.0, slack=0.0).tolist() == [0, 2, 3]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("is_constant", [False, True])
def test_selection_takes_its_share_whatever_the_values_are(share: float, is_constant: bool):
    draw = rng()
    selection = WorthSelection(share, draw)
    taken = [selection.takes(0.0 if is_constant else draw.lognormal()) for _ in range(4000)]
    assert np.mean(taken) == pytest.approx(share, abs=0.02)


def test_share_is_right_from_the_first_value_on():
    first = [WorthSelection(0.3, rng(seed)).takes(1.0) for seed in range(2000)]
    assert np.mean(first) == pytest.approx(0.3, abs=0.03)


def test_selection_takes_the_most_worthwhile_and_follows_a_change():
    selection = WorthSelection(0.25, rng(), window=8)
    for worth in range(8):
        selection.takes(worth)
    # The window is now 1 to 8 with the new one.
    assert selection.takes(8)
    assert not selection.takes(3.5)
    # After many small values, a middling one is among the best.
    for _ in range(8):
        selection.takes(0.01)
    assert selection.takes(3.5)
