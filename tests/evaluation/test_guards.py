import pytest

from evaluation.answers import PROMPTS, kindness, length, policy
from online_trl.evaluation.evaluator import Evaluator
from online_trl.evaluation.guards import guard_measurements
from online_trl.evaluation.tasks import Task
from online_trl.gates import promotion_gate
from online_trl.types import Estimate


def polite(completions, **columns):
    return [float("please" in text) for text in completions]


def evaluate(*texts, live=("yes please", "no thanks please")):
    rows = [{"prompt": f"question {number}"} for number in range(10)]
    evaluator = Evaluator(
        prompts=PROMPTS,
        judges={"live": length, "other": kindness},
        live=policy("policy-0002", *live),
        base=policy("policy-0001", "please", "no"),
        proxy="live",
        heldout="other",
        tasks=[Task(name="manners", rows=rows, reward=polite)],
    )
    return guard_measurements(evaluator.evaluate(policy("policy-0003", *texts)))


def test_guards_are_the_candidate_s_and_the_live_version_s_own_values():
    guards = evaluate("I cannot say", "yes please")
    assert (guards["refusals"].candidate, guards["refusals"].incumbent) == (0.5, 0.0)
    assert (guards["length"].candidate, guards["length"].incumbent) == (2.5, 2.5)
    assert (guards["task/manners"].candidate, guards["task/manners"].incumbent) == (0.5, 1.0)
    # The base is kind to half of them, with a spread of 0.506.
    held = guards["heldout_reward"]
    assert (held.candidate, held.incumbent) == (pytest.approx(0), pytest.approx(0.5 / 0.506, rel=1e-3))
    assert "kl" not in guards


def test_users_who_like_it_better_do_not_carry_a_candidate_past_its_guards():
    liked = Estimate(0.9, 0.8, 0.95, 100)
    before = Estimate(0.5, 0.4, 0.6, 100)
    asked = {"win_rate": liked, "satisfaction": liked, "live_satisfaction": before}
    assert promotion_gate(**asked, guards=evaluate("yes please now", "no thanks please")).accepted
    refused = promotion_gate(**asked, guards=evaluate("yes yes yes yes yes yes yes", "I cannot say"))
    assert not refused.accepted
    for guard in ("heldout_reward fell", "task/manners fell", "refusals rose", "repetition rose"):
        assert guard in refused.reason
