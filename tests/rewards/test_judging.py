import math

import numpy as np
import pytest

from online_trl.gates import reward_gate
from online_trl.rewards.judging import correctness, evidence_weights, judging_weights, pseudo_values
from online_trl.types import FeedbackKind, PreferencePair, Ranking, UnpairedLabel

ANSWER = [{"role": "assistant", "content": "yes"}]
BEHIND = {"prompt": [{"role": "user", "content": "?"}], "feedback_ids": ("f",), "seq": 1}


def pair(weight=1.0):
    return PreferencePair(chosen=ANSWER, rejected=ANSWER, kind=FeedbackKind.COMPARISON, weight=weight, **BEHIND)


def ranking(*ranks, weight=1.0):
    completions = [ANSWER] * len(ranks)
    return Ranking(completions=completions, ranks=ranks, kind=FeedbackKind.RANKING, weight=weight, **BEHIND)


def label(up, weight=1.0):
    return UnpairedLabel(completion=ANSWER, label=up, score=float(up), weight=weight, **BEHIND)


def test_a_pair_is_right_if_the_chosen_answer_scores_higher():
    assert correctness([pair()] * 3, [[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("ranks", "scores", "share"),
    [
        ((1, 2, 3), [3.0, 2.0, 1.0], 1.0),
        ((1, 2, 3), [1.0, 2.0, 3.0], 0.0),
        ((1, 2, 3), [3.0, 1.0, 2.0], 2 / 3),
        ((1, 2, 3), [3.0, 1.0, 1.0], 2.5 / 3),
        # Of the three pairs, the one on one rank asks for nothing.
        ((2, 1, 1), [0.0, 5.0, 1.0], 1.0),
        ((2, 1, 1), [2.0, 5.0, 1.0], 0.5),
        ((4, 7), [1.0, 0.0], 1.0),
        ((1, 1), [9.0, 0.0], 0.5),
    ],
)
def test_a_ranking_is_as_right_as_the_share_of_its_pairs_that_are_in_order(ranks, scores, share):
    assert correctness([ranking(*ranks)], [scores]) == [pytest.approx(share)]


def test_a_label_is_as_right_as_the_share_of_its_opposites_on_the_right_side():
    statements = [label(True), label(True), label(False), label(False)]
    assert correctness(statements, [[3.0], [1.0], [2.0], [1.0]]) == [1.0, 0.25, 0.5, 0.75]


def test_opposites_count_by_their_weight():
    statements = [label(True), label(False, weight=3.0), label(False, weight=1.0)]
    assert correctness(statements, [[1.0], [0.0], [2.0]]) == [0.75, 1.0, 0.0]


def test_labels_are_judged_among_labels_alone():
    statements = [pair(), label(True), ranking(1, 2), label(False)]
    assert correctness(statements, [[0.0, 1.0], [5.0], [1.0, 0.0], [6.0]]) == [0.0, 0.0, 1.0, 0.0]


def test_what_puts_no_answer_above_another_is_half_right_and_has_no_weight():
    statements = [label(True, 0.5), ranking(1, 1), ranking(1, 2, weight=0.3), pair(0.7)]
    assert correctness(statements, [[4.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]) == [0.5, 0.5, 1.0, 1.0]
    assert judging_weights(statements) == [0.0, 0.0, 0.3, 0.7]
    assert judging_weights([label(True, 0.5), label(False, 0.2)]) == [0.5, 0.2]


def test_scores_that_are_not_numbers_are_right_about_nothing():
    statements = [pair(), label(True), label(False), label(False), ranking(1, 2)]
    correct = correctness(statements, [[math.nan, 1.0], [1.0], [math.inf], [0.0], [1.0, 0.0]])
    assert [math.isnan(number) for number in correct] == [True, False, True, False, False]
    assert correct[1] == correct[3] == correct[4] == 1.0


def test_of_nothing_there_is_nothing():
    assert correctness([], []) == judging_weights([]) == []


def test_every_answer_has_a_score():
    with pytest.raises(ValueError, match="2 statements and the scores of 1"):
        correctness([pair(), pair()], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="statement 1 has 3 answers and 2 scores"):
        correctness([pair(), ranking(1, 2, 3)], [[1.0, 0.0], [1.0, 0.0]])


def test_pseudo_values_have_the_mean_of_the_shares_and_the_spread_of_an_auc():
    statements = [pair(), *[label(True)] * 3, label(False)]
    correct = [1.0, 1.0, 1.0, 0.0, 2 / 3]
    values = pseudo_values(statements, correct)
    # The mean of the labels is 2/3; three quarters of them are thumbs up.
    assert values == pytest.approx([1.0, *[2 / 3 + (share - 2 / 3) * 4 / 3 for share in (1.0, 1.0, 0.0)], 2 / 3])
    assert np.mean(values) == pytest.approx(np.mean(correct))


def test_pseudo_values_go_by_weight_and_leave_out_what_is_not_a_number():
    statements = [label(True, 3.0), label(True), label(False, 0.5), label(False)]
    scores = [[2.0], [0.0], [1.0], [math.nan]]
    correct = correctness(statements, scores)
    values = pseudo_values(statements, correct)
    assert correct[:3] == [1.0, 0.0, 0.75]
    assert values[:3] == pytest.approx([0.75 + 0.25 * 9 / 8, 0.75 - 0.75 * 9 / 8, 0.75])
    assert math.isnan(values[3])
    weights = [3.0, 1.0, 0.5]
    assert np.average(values[:3], weights=weights) == pytest.approx(np.average(correct[:3], weights=weights))


def test_labels_are_evidence_as_far_as_there_are_of_both_kinds():
    statements = [pair(0.5), label(True, 0.6), *[label(True)] * 3, label(False, 0.4)]
    # 3.6 of the 4 that the labels weigh are thumbs up.
    assert evidence_weights(statements) == pytest.approx([0.5, *(weight * 0.36 for weight in (0.6, 1, 1, 1, 0.4))])
    assert evidence_weights([pair(), label(True)]) == [1.0, 0.0]
    assert evidence_weights([]) == []


@pytest.mark.parametrize("statements", [[], [label(True)] * 3, [pair(), label(False), ranking(1, 1)]])
def test_without_opposites_pseudo_values_are_what_they_are_made_of(statements):
    correct = [0.5] * len(statements)
    assert pseudo_values(statements, correct) == correct


def test_a_model_that_is_no_worse_on_thumbs_is_refused_as_seldom_as_the_level_says():
    rng = np.random.default_rng(0)
    statements = [label(number % 5 > 0) for number in range(60)]
    weights = judging_weights(statements)
    refused = {"as they are": 0, "pseudo": 0}
    for _ in range(100):
        shares = [correctness(statements, rng.normal(size=(60, 1)).tolist()) for _ in range(2)]
        pseudo = [pseudo_values(statements, each) for each in shares]
        for name, (candidate, live) in (("as they are", shares), ("pseudo", pseudo)):
            decision = reward_gate(candidate, live, weights=weights, min_accuracy=0.0)
            refused[name] += not decision.accepted
    assert refused["pseudo"] <= 10
    assert refused["as they are"] > 15
