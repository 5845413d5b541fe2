import math

import pytest

from online_trl.config import ConfigError, from_mapping
from online_trl.gates import Budget, GuardMeasurement, PromotionThresholds, promotion_gate
from online_trl.types import Estimate

NOT_JUDGED = Estimate(math.nan, 0.0, 1.0, 0)


def promote(**changes):
    guards = {"kl": GuardMeasurement(6.2, 0.0), "length": GuardMeasurement(9.0, 10.0), **changes.pop("guards", {})}
    measured = {
        "win_rate": Estimate(0.62, 0.53, 0.71, 118),
        "satisfaction": Estimate(0.71, 0.66, 0.76, 120),
        "live_satisfaction": Estimate(0.58, 0.52, 0.64, 120),
        "guards": guards,
    }
    return promotion_gate(**(measured | changes))


def failed(decision):
    return [check.name for check in decision.checks if not check.passed]


def test_a_policy_that_users_prefer_is_promoted():
    decision = promote()
    assert decision.accepted
    assert decision.reason == (
        "accepted: win rate 0.62 [0.53, 0.71] on 118 comparisons, satisfaction 0.71 against 0.58, "
        "kl 6.2 against 0, length 9 against 10"
    )
    assert failed(decision) == []


def test_thumbs_alone_do_not_promote_what_pays_for_them_elsewhere():
    # What preceded the rollback of GPT-4o in 2025: users voted for an answer that had become worse in all else.
    guards = {
        "task/returns": GuardMeasurement(0.55, 0.61),
        "heldout_reward": GuardMeasurement(-0.4, 0.0),
        "refusals": GuardMeasurement(0.02, 0.05),
        "length": GuardMeasurement(45.0, 12.0),
        "kl": GuardMeasurement(80.0, 0.0),
        "reward_gap": GuardMeasurement(2.5, 0.5),
    }
    decision = promote(win_rate=Estimate(0.8, 0.75, 0.85, 400), guards=guards)
    assert not decision.accepted
    assert failed(decision) == ["kl", "length", "task/returns", "heldout_reward", "reward_gap"]
    assert decision.reason == (
        "refused: kl rose from 0 to 80, beyond its budget of 50; length rose from 12 to 45, beyond its budget of 36; "
        "task/returns fell from 0.61 to 0.55, beyond its budget of 0.59; "
        "heldout_reward fell from 0 to -0.4, beyond its budget of -0.1; "
        "reward_gap rose from 0.5 to 2.5, beyond its budget of 1.5"
    )


@pytest.mark.parametrize(
    ("changes", "check", "reason"),
    [
        (
            {"win_rate": Estimate(0.45, 0.4, 0.49, 600)},
            "win_rate_high",
            "the win rate 0.45 [0.40, 0.49] on 600 comparisons is below 0.50 beyond noise",
        ),
        (
            {"satisfaction": Estimate(0.4, 0.35, 0.45, 120)},
            "satisfaction_difference",
            "satisfaction 0.40 against 0.58 of the live version is lower beyond noise",
        ),
        ({"guards": {"kl": GuardMeasurement(61.0, 0.0)}}, "kl", "kl rose from 0 to 61, beyond its budget of 50"),
        ({"guards": {"kl": GuardMeasurement(math.nan, 0.0)}}, "kl", "kl could not be measured"),
        (
            {"guards": {"length": GuardMeasurement(2.0, 10.0)}},
            "length",
            "length fell from 10 to 2, beyond its budget of 3.3",
        ),
        (
            {"guards": {"refusals": GuardMeasurement(0.1, 0.05)}},
            "refusals",
            "refusals rose from 0.05 to 0.1, beyond its budget of 0.07",
        ),
    ],
)
def test_one_bad_measurement_is_enough_to_refuse(changes, check, reason):
    decision = promote(**changes)
    assert not decision.accepted
    assert failed(decision) == [check]
    assert decision.reason == f"refused: {reason}"


def test_one_of_the_two_must_have_risen():
    even, wide = Estimate(0.5, 0.46, 0.54, 600), Estimate(0.6, 0.44, 0.76, 40)
    assert promote(win_rate=even).accepted
    assert promote(satisfaction=Estimate(0.57, 0.52, 0.62, 120)).accepted
    decision = promote(win_rate=even, satisfaction=Estimate(0.57, 0.52, 0.62, 120))
    assert failed(decision) == ["rises"]
    assert decision.reason == (
        "refused: the win rate 0.50 [0.46, 0.54] on 600 comparisons is not above 0.50; "
        "satisfaction 0.57 against 0.58, a difference of -0.01 ± 0.08, is no rise"
    )
    unproven = promote(win_rate=wide, satisfaction=Estimate(0.6, 0.5, 0.7, 30))
    assert failed(unproven) == ["rises"]
    assert "reaches below 0.45" in unproven.reason


def test_what_is_not_judged_is_left_out():
    assert promote(win_rate=NOT_JUDGED).accepted
    assert promote(live_satisfaction=None).accepted
    assert promote(satisfaction=NOT_JUDGED).reason.startswith(
        "accepted: win rate 0.62 [0.53, 0.71] on 118 comparisons,"
    )


@pytest.mark.parametrize("live", [None, NOT_JUDGED])
def test_a_policy_that_nobody_judged_beside_the_live_one_is_refused(live):
    decision = promote(win_rate=NOT_JUDGED, live_satisfaction=live)
    assert not decision.accepted
    assert decision.reason == "refused: nobody judged it beside the version in service"


def test_thresholds_come_from_a_mapping():
    thresholds = from_mapping(
        PromotionThresholds,
        {"slack": -0.05, "budgets": {"kl": {"rise": 5}, "politeness": {"fall": 0.1}}},
        where="gate",
    )
    assert thresholds.budgets["kl"] == Budget(rise=5.0)
    decision = promote(guards={"politeness": GuardMeasurement(0.7, 0.9)}, thresholds=thresholds)
    assert failed(decision) == ["kl", "politeness"]


def test_thresholds_can_be_set():
    far = {"kl": GuardMeasurement(61.0, 0.0)}
    assert promote(guards=far, thresholds=PromotionThresholds(budgets={"kl": Budget(rise=80.0)})).accepted
    assert promote(win_rate=Estimate(0.6, 0.44, 0.76, 40), live_satisfaction=None).accepted is False
    lenient = PromotionThresholds(slack=0.1)
    assert promote(win_rate=Estimate(0.6, 0.44, 0.76, 40), live_satisfaction=None, thresholds=lenient).accepted
    strict = PromotionThresholds(min_win_rate=0.65)
    assert not promote(live_satisfaction=None, thresholds=strict).accepted


def test_a_guard_that_was_asked_for_has_to_be_measured():
    thresholds = PromotionThresholds(budgets={"task": Budget(fall=0.01), "heldout_reward": Budget(fall=0.1)})
    reasons = promote(thresholds=thresholds).reason
    assert reasons == (
        "refused: heldout_reward, which has a budget, was not measured; task, which has a budget, was not measured"
    )
    measured = {"task/a": GuardMeasurement(0.6, 0.605), "heldout_reward": GuardMeasurement(0.0, 0.0)}
    assert promote(guards=measured, thresholds=thresholds).accepted


def test_one_task_may_have_a_budget_of_its_own():
    guards = {"task/a": GuardMeasurement(0.5, 0.54), "task/b": GuardMeasurement(0.5, 0.54)}
    thresholds = PromotionThresholds(budgets={"task/a": Budget(fall=0.05)})
    assert failed(promote(guards=guards, thresholds=thresholds)) == ["task/b"]


def test_a_guard_needs_a_budget():
    with pytest.raises(ValueError, match="guard `charm` has no budget"):
        promote(guards={"charm": GuardMeasurement(1.0, 1.0)})
    with pytest.raises(ConfigError, match="needs a `fall`, a `rise` or both"):
        Budget()
    with pytest.raises(ConfigError, match="`fall` is -1"):
        Budget(fall=-1.0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"slak": 0.1}, "unknown key `slak` in gate; did you mean `slack`"),
        ({"min_win_rate": 1.5}, "`min_win_rate` is 1.5; it must be between 0.0 and 1.0"),
        ({"budgets": {"kl": {"rise": "much"}}}, "`budgets` in gate"),
        ({"budgets": {"kl": {"rize": 1.0}}}, "`budgets` in gate|needs a `fall`"),
    ],
)
def test_a_mistake_in_the_thresholds_is_named(mapping, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(PromotionThresholds, mapping, where="gate")
