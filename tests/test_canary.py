import json
import math
from dataclasses import asdict

import pytest

from online_trl.canary import CanarySettings, assign, decide_canary
from online_trl.config import ConfigError, from_mapping
from online_trl.types import CanaryAction, CanaryFeedback, Judgements, VersionFeedback

USERS = [f"user-{number}" for number in range(20_000)]


def said(share, users, each, name):
    """So many judgements of each of so many users, of whom a share always says 1 and the others 0."""
    values = [float(user < round(share * users)) for user in range(users) for _ in range(each)]
    return Judgements(tuple(values), tuple(f"{name}-{user}" for user in range(users) for _ in range(each)))


def arm(name, satisfaction, *, users=400, response_rate=0.2):
    return VersionFeedback(said(satisfaction, users, 2, name), said(response_rate, 1000, 4, name))


def decide(satisfaction, *, users=400, response_rate=0.2, comparisons=None, hours=0.0, **settings):
    feedback = CanaryFeedback(
        arm("new", satisfaction, users=users, response_rate=response_rate),
        arm("old", 0.6, users=2000),
        comparisons or Judgements(),
    )
    return decide_canary(
        feedback, settings=CanarySettings(comparisons=comparisons is not None, **settings), hours=hours
    )


def failed(decision):
    return [check.name for check in decision.checks if not check.passed]


def test_a_better_candidate_is_promoted():
    decision = decide(0.75)
    assert decision.action is CanaryAction.PROMOTE
    assert decision.reason.startswith("promoted, as satisfaction is higher: satisfaction +0.150 [+0.0")
    assert decision.reason.endswith("on 4800 judgements, responses to 20.0% of the answers, at least 18.0% asked")
    assert 0 < decision.satisfaction_difference.low < 0.15 < decision.satisfaction_difference.high
    assert (decision.response_rate, decision.live_response_rate) == (0.2, 0.2)
    assert failed(decision) == []


def test_a_worse_candidate_is_rolled_back():
    decision = decide(0.45)
    assert decision.action is CanaryAction.ROLL_BACK
    assert decision.reason.startswith("rolled back, as satisfaction is lower: ")
    assert failed(decision) == ["satisfaction_low", "satisfaction_high"]


def test_an_equal_candidate_goes_on_until_its_time_is_over():
    assert decide(0.6).action is CanaryAction.CONTINUE
    assert decide(0.6).reason.startswith("goes on, as no difference is proven: ")
    late = decide(0.6, hours=336.0)
    assert late.action is CanaryAction.ROLL_BACK
    assert late.reason.startswith("rolled back at the end of its time, as no difference is proven: ")
    assert decide(0.6, max_judgements=4800).action is CanaryAction.ROLL_BACK
    assert decide(0.6, max_judgements=4801).action is CanaryAction.CONTINUE


def test_a_candidate_that_makes_people_stop_voting_does_not_win():
    scarce = decide(0.75, response_rate=0.12)
    assert scarce.action is CanaryAction.ROLL_BACK
    assert scarce.reason.startswith("rolled back, as response rate is lower: satisfaction +0.150")
    doubtful = decide(0.75, response_rate=0.175)
    assert doubtful.action is CanaryAction.CONTINUE
    assert doubtful.reason.startswith("goes on, as satisfaction is higher, but fewer answers get a response: ")
    assert failed(doubtful) == ["response_rate"]
    assert decide(0.75, response_rate=0.175, hours=400.0).action is CanaryAction.ROLL_BACK


def test_a_handful_of_users_decides_nothing():
    decision = decide(1.0, users=19)
    assert decision.action is CanaryAction.CONTINUE
    assert (decision.satisfaction_difference.low, decision.satisfaction_difference.high) == (-1.0, 1.0)
    assert decide(1.0, users=40).action is CanaryAction.PROMOTE


def test_before_anybody_spoke_it_goes_on():
    silence = CanaryFeedback(VersionFeedback(), VersionFeedback())
    decision = decide_canary(silence, settings=CanarySettings(comparisons=True))
    assert decision.action is CanaryAction.CONTINUE
    assert math.isnan(decision.satisfaction_difference.mean)
    assert "satisfaction not judged, win rate not judged" in decision.reason


def test_comparisons_may_decide_either_way():
    better, worse = (decide(0.6, comparisons=said(share, 400, 1, "judge")) for share in (0.7, 0.3))
    assert better.action is CanaryAction.PROMOTE
    assert better.reason.startswith("promoted, as win rate is higher: ")
    assert better.win_rate.mean == pytest.approx(0.7)
    assert 0.5 < better.win_rate.low < 0.7 < better.win_rate.high < 1.0
    assert worse.action is CanaryAction.ROLL_BACK
    assert worse.reason.startswith("rolled back, as win rate is lower: ")


def test_thumbs_do_not_promote_what_loses_in_comparison():
    decision = decide(0.75, comparisons=said(0.3, 400, 1, "judge"))
    assert decision.action is CanaryAction.ROLL_BACK


def test_comparisons_share_the_error_rate():
    alone, shared = decide(0.7), decide(0.7, comparisons=Judgements())
    assert shared.satisfaction_difference.low < alone.satisfaction_difference.low
    assert shared.action is CanaryAction.PROMOTE


def test_few_errors_take_more_proof():
    usual, wary = decide(0.7), decide(0.7, false_promotion_rate=0.001, false_rollback_rate=0.2)
    assert wary.satisfaction_difference.low < usual.satisfaction_difference.low
    assert wary.satisfaction_difference.high < usual.satisfaction_difference.high


def test_a_decision_is_plain_json():
    decision = asdict(decide(0.75, comparisons=said(0.6, 50, 1, "judge")))
    assert json.loads(json.dumps(decision))["action"] == "promote"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"share": 1.5}, "`share` is 1.5; it must lie between 0 and 1"),
        ({"false_promotion_rate": 0}, "`false_promotion_rate` is 0.0; it must lie between 0 and 0.5"),
        ({"effect": 0.9}, "`effect` is 0.9"),
        ({"min_users": 2}, "`min_users` is 2; it must be at least 5"),
        ({"shares": 0.1}, "unknown key `shares` in canary; did you mean `share`"),
    ],
)
def test_a_mistake_in_the_settings_is_named(mapping, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(CanarySettings, mapping, where="canary")


def test_users_are_assigned_by_share_and_growing_it_moves_nobody_back():
    tenth = {user for user in USERS if assign(user, "first", 0.1)}
    half = {user for user in USERS if assign(user, "first", 0.5)}
    assert abs(len(tenth) / len(USERS) - 0.1) < 0.01
    assert abs(len(half) / len(USERS) - 0.5) < 0.015
    assert tenth < half


def test_another_canary_draws_anew():
    first, second = ({user for user in USERS if assign(user, name, 0.5)} for name in ("first", "second"))
    assert abs(len(first & second) / len(USERS) - 0.25) < 0.015


def test_the_assignment_is_the_same_in_every_process():
    assert [assign(user, "first", 0.5) for user in USERS[:8]] == [True, False, False, True, True, True, True, False]


def test_a_share_of_nobody_and_of_everybody():
    assert not any(assign(user, "first", 0.0) for user in USERS[:1000])
    assert all(assign(user, "first", 1.0) for user in USERS[:1000])
