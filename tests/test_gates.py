import math

import pytest

from online_trl.gates import promotion_gate, reward_gate
from online_trl.types import Estimate

RIGHT, WRONG = 1.0, -1.0


def margins(right, wrong, ties=0):
    return [RIGHT] * right + [WRONG] * wrong + [0.0] * ties


def failed(decision):
    return [check.name for check in decision.checks if not check.passed]


def test_the_first_reward_model_must_not_be_worse_than_chance_beyond_noise():
    noise, bad = reward_gate(margins(14, 16), None), reward_gate(margins(8, 22), None)
    assert noise.accepted
    assert noise.reason == "accepted: the first version, accuracy 0.47 on 30 held-out pairs"
    assert not bad.accepted
    assert bad.reason == "refused: the accuracy 0.27 on 30 held-out pairs, 0.40 at best, is below 0.50"
    assert (bad.checks[0].value, bad.checks[0].threshold) == (pytest.approx(0.4), 0.5)


def test_the_first_reward_model_is_accepted_when_there_is_too_little_to_judge_it_by():
    assert reward_gate([], None).accepted
    assert reward_gate(margins(0, 19), None).accepted
    assert not reward_gate(margins(0, 20), None).accepted


def test_a_tie_counts_half():
    decision = reward_gate(margins(10, 5, ties=15), None)
    assert decision.reason == "accepted: the first version, accuracy 0.58 on 30 held-out pairs"


def test_a_candidate_as_good_as_the_live_version_is_accepted():
    decision = reward_gate(margins(30, 10), margins(30, 10))
    assert decision.accepted
    assert decision.reason == "accepted: accuracy 0.75 against 0.75 of the live version on 40 held-out pairs"


def test_a_candidate_that_is_clearly_worse_is_refused_with_the_numbers():
    decision = reward_gate(margins(30, 30), margins(54, 6))
    assert not decision.accepted
    assert failed(decision) == ["accuracy_difference"]
    assert decision.reason.startswith(
        "refused: accuracy 0.50 against 0.90 of the live version on 60 held-out pairs, a difference of -0.3"
    )


def test_a_loss_within_noise_is_accepted():
    # The live version is right where the candidate is wrong in 5 pairs, and the other way round in 3.
    candidate, live = margins(35, 5), margins(32, 0) + margins(0, 3) + margins(5, 0)
    assert sum(m > 0 for m in candidate) < sum(m > 0 for m in live)
    assert reward_gate(candidate, live).accepted


def test_tolerance_trades_accuracy_for_freshness():
    candidate, live = margins(70, 30), margins(80, 20)
    assert not reward_gate(candidate, live).accepted
    assert reward_gate(candidate, live, tolerance=0.1).accepted


def test_level_decides_how_sure_a_refusal_must_be():
    # Four pairs lost and none won: the chance that a resample holds none of them is about 1 in 50.
    candidate, live = margins(36, 4), margins(40, 0)
    assert not reward_gate(candidate, live, level=0.05).accepted
    assert reward_gate(candidate, live, level=0.01).accepted


def test_few_pairs_are_compared_by_their_means():
    assert reward_gate(margins(6, 4), margins(6, 4)).accepted
    assert not reward_gate(margins(6, 4), margins(7, 3)).accepted
    assert reward_gate(margins(6, 4), margins(7, 3), min_pairs=5).accepted


def test_without_a_pair_the_live_version_stays():
    decision = reward_gate([], [])
    assert not decision.accepted
    assert "no held-out pair" in decision.reason


def test_below_chance_is_refused_unless_the_live_version_is_no_better():
    # 16 against 18 of 40 is within noise, yet a model that is wrong more often than right does not go into service.
    assert failed(reward_gate(margins(18, 22), margins(0, 2) + margins(20, 18))) == ["accuracy"]
    assert reward_gate(margins(18, 22), margins(12, 28)).accepted


@pytest.mark.parametrize("live", [None, margins(1, 1)])
def test_scores_that_are_not_numbers_are_refused(live):
    decision = reward_gate([1.0, math.nan], live)
    assert not decision.accepted
    assert decision.reason == "refused: 1 of 2 scores are not finite numbers"


def test_the_same_margins_give_the_same_decision():
    candidate, live = margins(50, 14), margins(55, 9)
    assert reward_gate(candidate, live) == reward_gate(candidate, live)


def test_both_models_must_have_judged_the_same_pairs():
    with pytest.raises(ValueError, match="2 margins of the candidate, 3 of the live version"):
        reward_gate([1.0, 1.0], [1.0, 1.0, 1.0])


def promote(**changes):
    measured = {
        "win_rate": Estimate(0.62, 0.53, 0.71, 118),
        "satisfaction": Estimate(0.71, 0.66, 0.76, 120),
        "live_satisfaction": Estimate(0.58, 0.52, 0.64, 120),
        "kl": 6.2,
        "length_ratio": 0.9,
    }
    return promotion_gate(**(measured | changes))


def test_a_policy_that_users_prefer_is_promoted():
    decision = promote()
    assert decision.accepted
    assert decision.reason == (
        "accepted: win rate 0.62 [0.53, 0.71] on 118 comparisons, satisfaction 0.71 against 0.58, KL 6.2 nats, "
        "answers 0.90 times as long"
    )
    assert failed(decision) == []


@pytest.mark.parametrize(
    ("changes", "check", "reason"),
    [
        (
            {"win_rate": Estimate(0.5, 0.46, 0.54, 600)},
            "win_rate",
            "the win rate 0.50 on 600 comparisons is not above 0.50",
        ),
        (
            {"win_rate": Estimate(0.6, 0.44, 0.76, 40)},
            "win_rate_low",
            "the interval of the win rate reaches down to 0.44, below 0.45",
        ),
        (
            {"satisfaction": Estimate(0.4, 0.35, 0.45, 120)},
            "satisfaction_difference",
            "satisfaction 0.40 against 0.58 of the live version is lower beyond noise",
        ),
        ({"kl": 61.0}, "kl", "the KL divergence of 61.0 nats is above 50.0"),
        ({"kl": math.nan}, "kl", "the KL divergence of nan nats is above 50.0"),
        ({"length_ratio": 0.2}, "length_ratio_low", "answers are 0.20 times as long, below 0.33"),
        ({"length_ratio": 3.5}, "length_ratio_high", "answers are 3.50 times as long, above 3.00"),
    ],
)
def test_one_bad_measurement_is_enough_to_refuse(changes, check, reason):
    decision = promote(**changes)
    assert not decision.accepted
    assert failed(decision) == [check]
    assert decision.reason == f"refused: {reason}"


def test_every_failed_check_is_in_the_reason():
    decision = promote(kl=61.0, length_ratio=3.5)
    assert decision.reason == (
        "refused: the KL divergence of 61.0 nats is above 50.0; answers are 3.50 times as long, above 3.00"
    )


def test_a_policy_that_nobody_compared_is_refused():
    decision = promote(win_rate=Estimate(math.nan, 0.0, 1.0, 0))
    assert not decision.accepted
    assert decision.reason == "refused: nobody compared it with the version in service"


@pytest.mark.parametrize("live", [None, Estimate(math.nan, 0.0, 1.0, 0)])
def test_satisfaction_is_compared_only_where_the_live_version_has_judgements(live):
    decision = promote(live_satisfaction=live, satisfaction=Estimate(0.1, 0.0, 0.2, 50))
    assert decision.accepted
    assert "satisfaction 0.10, KL" in decision.reason


def test_thresholds_can_be_set():
    assert promote(kl=61.0, max_kl=80.0).accepted
    assert not promote(slack=-0.05).accepted
    assert not promote(min_win_rate=0.65, slack=1.0).accepted
    assert not promote(length_bounds=(0.95, 1.05)).accepted
