"""The guard metrics of a promotion, as an evaluation measured them."""

import math

import pytest

from evaluation.answers import PROMPTS, kindness, length, policy
from online_trl.evaluation.evaluator import Evaluator
from online_trl.evaluation.guards import guard_measurements
from online_trl.gates import DEFAULT_BUDGETS, promotion_gate
from online_trl.types import Estimate, PolicyEvaluation


def exact(value):
    return Estimate(value, value, value, 100)


def evaluated(**changes):
    figures = {
        "win_rate_vs_live": Estimate(0.7, 0.6, 0.8, 100),
        "length": 20.0,
        "length_vs_live": 2.0,
        "refusals": 0.02,
        "refusals_vs_live": 0.0,
        "repetition": 0.1,
        "repetition_vs_live": 0.05,
        "task/arithmetic": 0.5,
        "task/arithmetic_vs_live": -0.01,
        "gain/judge": 0.3,
        "gain/judge_vs_live": 0.1,
        "reward_gap": 0.4,
        "reward_gap_vs_live": 0.2,
        "kl": 12.0,
    } | changes
    named = {name: value if isinstance(value, Estimate) else exact(value) for name, value in figures.items()}
    return PolicyEvaluation(policy_version="policy-0002", figures=named, prompts=100, heldout_judge="judge")


def decide(evaluation):
    nobody = Estimate(math.nan, 0.0, 1.0, 0)
    return promotion_gate(
        win_rate=evaluation.figures["win_rate_vs_live"],
        satisfaction=nobody,
        live_satisfaction=None,
        guards=guard_measurements(evaluation),
    )


def test_each_guard_has_what_was_measured_of_both_versions_and_a_budget():
    guards = guard_measurements(evaluated())
    measured = {name: (guard.candidate, pytest.approx(guard.incumbent)) for name, guard in guards.items()}
    assert measured == {
        "length": (20.0, 18.0),
        "refusals": (0.02, 0.02),
        "repetition": (0.1, 0.05),
        "task/arithmetic": (0.5, 0.51),
        "heldout_reward": (0.3, 0.2),
        "reward_gap": (0.4, 0.2),
        "kl": (12.0, 0.0),
    }
    assert {name.partition("/")[0] for name in guards} <= set(DEFAULT_BUDGETS)
    assert decide(evaluated()).accepted


@pytest.mark.parametrize(
    ("figure", "value"), [("task/arithmetic_vs_live", -0.1), ("gain/judge_vs_live", -0.4), ("refusals_vs_live", 0.2)]
)
def test_what_judges_like_is_refused_where_a_guard_pays_for_it(figure, value):
    name = figure.removesuffix("_vs_live")
    own = evaluated().figures[name].mean
    decision = decide(evaluated(**{name: own, figure: value}))
    assert not decision.accepted
    guard = "heldout_reward" if name == "gain/judge" else name
    assert [check.name for check in decision.checks if not check.passed] == [guard]


@pytest.mark.parametrize(
    ("answers", "failed"),
    [
        # Longer, and as kind or kinder than before: what the proxy likes is no worse for the rest.
        (("yes please do", "no please", "yes please do", "no well thanks too"), []),
        # Longer still, and no kinder: the proxy alone gains.
        (("yes please well well", "no well well well", "yes please well well", "no well well well"), ["reward_gap"]),
        (("yes please well well", "no well well well", "yes well well", "no well"), ["reward_gap", "heldout_reward"]),
    ],
)
def test_a_candidate_that_only_the_proxy_likes_is_refused(answers, failed):
    live = policy("policy-0001", "yes please", "no", "yes please", "no well thanks")
    evaluator = Evaluator(
        prompts=PROMPTS,
        judges={"live": length, "other": kindness},
        live=live,
        base=live,
        proxy="live",
        heldout="other",
        main_judge="live",
    )
    evaluation = evaluator.evaluate(policy("policy-0002", *answers))
    decision = decide(evaluation)
    assert evaluation.figures["win_rate_vs_live"].low > 0.5
    assert [check.name for check in decision.checks if not check.passed] == failed
    assert decision.accepted is (not failed)


def test_without_a_version_in_service_nothing_is_compared():
    figures = {name: value for name, value in evaluated().figures.items() if not name.endswith("_vs_live")}
    alone = PolicyEvaluation(policy_version="policy-0001", figures=figures, prompts=100)
    assert set(guard_measurements(alone)) == {"kl"}
