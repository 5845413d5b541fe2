import math
from dataclasses import dataclass

import numpy as np
import pytest

from online_trl.gates import AnchorComparison, compare_anchors, reward_gate

RIGHT, WRONG, TIE = 1.0, 0.0, 0.5


def correct(right, wrong, ties=0):
    return [RIGHT] * right + [WRONG] * wrong + [TIE] * ties


def failed(decision):
    return [check.name for check in decision.checks if not check.passed]


def test_the_first_reward_model_must_not_be_worse_than_chance_beyond_noise():
    noise, bad = reward_gate(correct(14, 16), None), reward_gate(correct(8, 22), None)
    assert noise.accepted
    assert noise.reason == "accepted: accuracy 0.47 on 30 held-out statements, with no version to measure it against"
    assert not bad.accepted
    assert bad.reason == "refused: the accuracy 0.27 on 30 held-out statements, 0.40 at best, is below 0.50"
    assert (bad.checks[0].value, bad.checks[0].threshold) == (pytest.approx(0.4), 0.5)


def test_the_first_reward_model_is_accepted_when_there_is_too_little_to_judge_it_by():
    assert reward_gate([], None).accepted
    assert reward_gate(correct(0, 19), None).accepted
    assert not reward_gate(correct(0, 20), None).accepted


def test_a_tie_counts_half():
    decision = reward_gate(correct(10, 5, ties=15), None)
    assert (
        decision.reason == "accepted: accuracy 0.58 on 30 held-out statements, with no version to measure it against"
    )


def test_a_candidate_as_good_as_the_live_version_is_accepted():
    decision = reward_gate(correct(30, 10), correct(30, 10))
    assert decision.accepted
    assert decision.reason == "accepted: accuracy 0.75 against 0.75 of the live version on 40 held-out statements"


def test_a_candidate_that_is_clearly_worse_is_refused_with_the_numbers():
    decision = reward_gate(correct(30, 30), correct(54, 6))
    assert not decision.accepted
    assert failed(decision) == ["accuracy_difference"]
    assert decision.reason.startswith(
        "refused: accuracy 0.50 against 0.90 of the live version on 60 held-out statements, a difference of -0.3"
    )


def test_a_loss_within_noise_is_accepted():
    # The live version is right where the candidate is wrong in 5 pairs, and the other way round in 3.
    candidate, live = correct(35, 5), correct(32, 0) + correct(0, 3) + correct(5, 0)
    assert sum(candidate) < sum(live)
    assert reward_gate(candidate, live).accepted


def test_tolerance_trades_accuracy_for_freshness():
    candidate, live = correct(70, 30), correct(80, 20)
    assert not reward_gate(candidate, live).accepted
    assert reward_gate(candidate, live, tolerance=0.1).accepted


def test_level_decides_how_sure_a_refusal_must_be():
    # Four pairs lost and none won: the chance that a resample holds none of them is about 1 in 50.
    candidate, live = correct(36, 4), correct(40, 0)
    assert not reward_gate(candidate, live, level=0.05).accepted
    assert reward_gate(candidate, live, level=0.01).accepted


def test_few_statements_are_compared_by_their_means():
    assert reward_gate(correct(6, 4), correct(6, 4)).accepted
    assert not reward_gate(correct(6, 4), correct(7, 3)).accepted
    assert reward_gate(correct(6, 4), correct(7, 3), min_statements=5).accepted


def test_without_a_statement_the_live_version_stays():
    decision = reward_gate([], [])
    assert not decision.accepted
    assert "no held-out statement" in decision.reason


def test_below_chance_is_refused_unless_the_live_version_is_no_better():
    # 16 against 18 of 40 is within noise, yet a model that is wrong more often than right does not go into service.
    assert failed(reward_gate(correct(18, 22), correct(0, 2) + correct(20, 18))) == ["accuracy"]
    assert reward_gate(correct(18, 22), correct(12, 28)).accepted


@pytest.mark.parametrize("live", [None, correct(1, 1)])
def test_scores_that_are_not_numbers_are_refused(live):
    decision = reward_gate([1.0, math.nan], live)
    assert not decision.accepted
    assert decision.reason == "refused: 1 of 2 scores are not finite numbers"


def test_the_same_numbers_give_the_same_decision():
    candidate, live = correct(50, 14), correct(55, 9)
    assert reward_gate(candidate, live) == reward_gate(candidate, live)


def test_both_models_must_have_judged_the_same_statements():
    with pytest.raises(ValueError, match="2 numbers of the candidate, 3 of the live version"):
        reward_gate([1.0, 1.0], [1.0, 1.0, 1.0])


def test_each_number_comes_from_a_statement_that_judged_both():
    with pytest.raises(ValueError, match="3 numbers of the candidate, 1 weights"):
        reward_gate([1.0] * 3, None, weights=[1.0])


def test_statements_count_by_their_weight():
    candidate, live = correct(30, 30), correct(0, 30) + correct(30, 0)
    heavy, light = [1.0] * 30 + [0.1] * 30, [0.1] * 30 + [1.0] * 30
    better = reward_gate(candidate, live, weights=heavy)
    assert better.accepted
    assert better.reason == "accepted: accuracy 0.91 against 0.09 of the live version on 60 held-out statements"
    assert not reward_gate(candidate, live, weights=light).accepted


def test_statements_of_weight_0_are_left_out():
    decision = reward_gate(correct(30, 30), correct(30, 0) + correct(30, 0), weights=[1.0] * 30 + [0.0] * 30)
    assert decision.reason == "accepted: accuracy 1.00 against 1.00 of the live version on 30 held-out statements"
    assert "no held-out statement" in reward_gate([1.0], [1.0], weights=[0.0]).reason


def test_few_statements_that_weigh_something_are_few():
    weights = [1.0] * 10 + [0.001] * 90
    candidate, live = correct(5, 5) + correct(45, 45), correct(6, 4) + correct(45, 45)
    assert not reward_gate(candidate, live, weights=weights).accepted
    assert reward_gate(candidate, live).accepted


def test_numbers_between_right_and_wrong_count_in_part():
    decision = reward_gate([0.75, 0.25] * 20, [0.5] * 40)
    assert decision.reason == "accepted: accuracy 0.50 against 0.50 of the live version on 40 held-out statements"


def test_anchors_are_compared_by_spread_and_by_rank():
    assert compare_anchors([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 1000.0]).rank_correlation == pytest.approx(1.0)
    compared = compare_anchors([0.0, 1.0, 1.0, 2.0], [4.0, 2.0, 0.0, -2.0])
    # Ranks 0, 1.5, 1.5, 3 against 3, 2, 1, 0.
    assert compared.rank_correlation == pytest.approx(-4.5 / math.sqrt(4.5 * 5))
    assert (compared.spread, compared.live_spread) == (pytest.approx(math.sqrt(0.5)), pytest.approx(math.sqrt(5)))
    assert compare_anchors([1.0, 1.0], [0.0, 1.0]) == AnchorComparison(0.0, 0.5, 0.0)


def test_a_candidate_that_tells_the_anchors_no_longer_apart_is_refused():
    same = correct(30, 10)
    decision = reward_gate(same, same, anchors=AnchorComparison(0.1, 1.0, 0.9))
    assert failed(decision) == ["anchor_spread"]
    assert decision.reason == (
        "refused: its scores of the anchors spread by 0.1, below 0.2, which is 0.2 times the spread of the live "
        "version"
    )
    assert reward_gate(same, same, anchors=AnchorComparison(0.2, 1.0, 0.9)).accepted
    assert reward_gate(same, same, anchors=AnchorComparison(0.1, 1.0, 0.9), min_spread_ratio=0.1).accepted


def test_a_candidate_that_disagrees_about_everything_must_have_proven_that_it_is_right():
    anchors = AnchorComparison(1.0, 1.0, -0.4)
    unproven = reward_gate(correct(30, 10), correct(30, 10), anchors=anchors)
    assert failed(unproven) == ["rank_correlation"]
    assert unproven.reason == (
        "refused: its rank correlation with the live version on the anchors is -0.40, below 0.30, and it is not "
        "better beyond noise"
    )
    assert reward_gate(correct(30, 10), correct(10, 30), anchors=anchors).accepted
    # More often right, but not beyond noise: what a proven version says is not given up for that.
    assert failed(reward_gate(correct(24, 6), correct(22, 8), anchors=anchors)) == ["rank_correlation"]
    assert reward_gate(correct(30, 10), correct(30, 10), anchors=anchors, min_rank_correlation=-0.5).accepted


@pytest.mark.parametrize("live", [correct(2, 8), correct(9, 10), correct(15, 15)])
def test_a_live_version_that_is_not_known_to_be_better_than_chance_may_be_disagreed_with(live):
    anchors = AnchorComparison(1.0, 1.0, -0.4)
    one_more = [RIGHT if index == live.index(WRONG) else value for index, value in enumerate(live)]
    assert reward_gate(one_more, live, anchors=anchors).accepted
    assert failed(reward_gate(live, live, anchors=anchors)) == ["rank_correlation"]


def test_anchor_scores_that_are_not_numbers_are_refused():
    same = correct(30, 10)
    assert "anchor_spread" in failed(reward_gate(same, same, anchors=compare_anchors([math.nan, 1.0], [0.0, 1.0])))


def test_an_equal_candidate_is_refused_no_more_often_than_the_level_says():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        candidate, live = (rng.random((2, 256)) < 0.75).astype(float).tolist()
        weights = rng.choice([0.25, 0.5, 1.0], 256).tolist()
        refused += not reward_gate(candidate, live, weights=weights).accepted
    assert refused / 120 <= 0.07


@dataclass
class World:
    """Users with a linear taste, and reward models fitted to what they say."""

    rng: np.random.Generator
    taste: np.ndarray

    def statements(self, count, *, flipped=0.0):
        differences = self.rng.standard_normal((count, self.taste.size))
        chosen = self.rng.random(count) < 1 / (1 + np.exp(-differences @ self.taste))
        return differences, np.where(self.rng.random(count) < flipped, ~chosen, chosen)

    def fit(self, start, differences, chosen, steps=100):
        for _ in range(steps):
            start = start + differences.T @ (chosen - 1 / (1 + np.exp(-differences @ start))) / (2 * len(chosen))
        return start

    def judge(self, candidate, live, differences, chosen):
        anchors = self.rng.standard_normal((64, self.taste.size))
        right = [(((differences @ model) > 0) == chosen).astype(float) for model in (candidate, live)]
        return reward_gate(*right, anchors=compare_anchors(anchors @ candidate, anchors @ live))


def worlds(count):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        taste = rng.standard_normal(12)
        yield World(rng, 1.6 * taste / np.linalg.norm(taste))


def test_a_candidate_trained_on_flipped_labels_is_refused():
    refused = 0
    for world in worlds(40):
        live = world.fit(np.zeros(12), *world.statements(800))
        candidate = world.fit(live, *world.statements(400, flipped=0.3))
        # A fifth of the poisoned interval is held out as well.
        clean, poisoned = world.statements(412), world.statements(100, flipped=0.3)
        refused += not world.judge(candidate, live, *map(np.concatenate, zip(clean, poisoned, strict=True))).accepted
    assert refused / 40 >= 0.6


def test_a_candidate_that_learned_a_turned_taste_is_accepted():
    for world in worlds(20):
        live = world.fit(np.zeros(12), *world.statements(800))
        world.taste = -world.taste
        candidate = world.fit(live, *world.statements(400))
        decision = world.judge(candidate, live, *world.statements(60))
        assert decision.accepted
        assert decision.checks[-1].value < 0
