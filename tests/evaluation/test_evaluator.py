"""The evaluator on answers that are written here: exact figures, no model."""

import json
import math

import pytest

from evaluation.answers import PROMPTS, kindness, length, policy, said
from online_trl.estimates import mean_estimate
from online_trl.evaluation.evaluator import Contestant, Evaluator
from online_trl.evaluation.reward_quality import RewardQuality
from online_trl.evaluation.tasks import Task
from online_trl.evaluation_records import plain_evaluation, read_evaluation
from online_trl.rewards.functions import RewardFunctionError
from online_trl.types import AccuracyPoint, Estimate


def test_a_win_counts_one_and_a_tie_half():
    # Of 40 prompts it wins 10, ties 20 and loses 10.
    candidate = policy("policy-0002", "a b", "a b c", "a b c", "a")
    evaluator = Evaluator(
        prompts=PROMPTS, judges={"length": length}, live=policy("policy-0001", "a", "a b c", "a b c", "a b")
    )
    evaluation = evaluator.evaluate(candidate)
    figures = evaluation.figures
    assert figures["win_rate_vs_live/length"] == mean_estimate([1, 0.5, 0.5, 0] * 10, bounds=(0, 1))
    assert figures["win_rate_vs_live"] == figures["win_rate_vs_live/length"]
    assert figures["ties_vs_live/length"].mean == 0.5
    assert figures["score/length"].mean == figures["length"].mean == 2.25
    assert figures["length_ratio_vs_live"].mean == 1.0
    assert (evaluation.policy_version, evaluation.live, evaluation.base) == ("policy-0002", "policy-0001", None)
    assert not any("_vs_base" in name for name in figures)


def test_a_judge_of_pairs_sees_both_orders_and_its_contradictions_are_counted():
    shown = []

    def first_unless_kind(prompts, firsts, seconds):
        """Likes the first place, unless the answers differ in kindness, and has no say about the last question."""
        shown.extend(zip((one[0]["content"] for one in firsts), (two[0]["content"] for two in seconds), strict=True))
        return [_verdict(*row) for row in zip(prompts, firsts, seconds, strict=True)]

    def _verdict(prompt, first, second):
        kind = ["please" in answer[0]["content"] for answer in (first, second)]
        if prompt[0]["content"] == "question 39":
            return None
        return 1.0 if kind[0] == kind[1] else float(kind[0])

    evaluator = Evaluator(
        prompts=PROMPTS,
        pairwise_judges={"place": first_unless_kind},
        live=policy("policy-0001", "no"),
        batch_size=16,
    )
    figures = evaluator.evaluate(policy("policy-0002", "yes please", "yes")).figures
    assert len(shown) == 80
    assert shown.count(("yes please", "no")) == shown.count(("no", "yes please")) == 20
    # 20 wins; of the other 20 one has no verdict, and 19 are won by whoever stands first.
    assert figures["win_rate_vs_live/place"].mean == pytest.approx((20 + 19 / 2) / 39)
    assert figures["contradictions_vs_live/place"] == mean_estimate([1.0] * 19 + [0.0] * 20, bounds=(0, 1))
    assert figures["ties_vs_live/place"].mean == pytest.approx(19 / 39)
    assert figures["win_rate_vs_live/place"].n == 39


def test_a_policy_that_hacks_the_proxy_is_shown_by_the_gap():
    base = policy("policy-0001", "yes please", "yes well", "no thanks please now", "no")
    live = policy("policy-0002", "yes please please", "yes well", "no thanks please now", "no")
    evaluator = Evaluator(
        prompts=PROMPTS,
        judges={"live": length, "other": kindness},
        live=live,
        base=base,
        proxy="live",
        heldout="other",
    )
    honest = evaluator.evaluate(
        policy("policy-0003", "yes please now", "yes well please", "no thanks please now", "no please")
    )
    hacked = evaluator.evaluate(policy("policy-0004", "well " * 30, "yes " * 31, "please " + "no " * 30, "no " * 29))
    assert hacked.figures["gain/live"].low > 5
    assert hacked.figures["gain/other"].high < 0
    assert hacked.figures["win_rate_vs_base/live"].mean == 1.0
    assert hacked.figures["win_rate_vs_base"].mean < 0.5, "the held-out judge stands for all"
    assert hacked.figures["reward_gap"].low > 5
    of_live = evaluator.evaluate(live).figures["reward_gap"].mean
    assert of_live > 0
    vs_live = hacked.figures["reward_gap_vs_live"].mean
    assert vs_live == pytest.approx(hacked.figures["reward_gap"].mean - of_live)
    assert honest.figures["gain/other"].low > 0
    assert honest.figures["reward_gap"].mean < hacked.figures["reward_gap"].low
    assert hacked.figures["repetition"].low > 0.8 > honest.figures["repetition"].high
    assert hacked.figures["distinct_1_vs_base"].mean < 0
    assert (hacked.main_judge, hacked.proxy_judge, hacked.heldout_judge) == ("other", "live", "other")


def test_the_gain_is_in_standard_deviations_of_the_base():
    base = policy("policy-0001", "a", "a b c")  # a mean of 2 and a spread of √(40/39)
    figures = Evaluator(prompts=PROMPTS, judges={"length": length}, base=base).evaluate(policy("p", "a b c d")).figures
    assert figures["gain/length"].mean == pytest.approx(2 / math.sqrt(40 / 39))
    same = Evaluator(prompts=PROMPTS, judges={"length": length}, base=policy("b", "a")).evaluate(policy("p", "a b"))
    assert "gain/length" not in same.figures


def test_what_a_judge_has_no_say_about_is_left_out():
    evaluator = Evaluator(prompts=PROMPTS, judges={"kind": kindness}, live=policy("policy-0001", "no"))
    figures = evaluator.evaluate(policy("policy-0002", "please", "")).figures
    assert figures["win_rate_vs_live"].n == figures["score/kind"].n == 20
    assert figures["win_rate_vs_live"].mean == 1.0


def test_the_kl_divergence_is_the_mean_log_ratio_of_its_own_answers():
    def generate(prompts):
        return [said("a b", prompt_ids=[1], completion_ids=[2, 3], logprobs=[-1.0, -0.5]) for _ in prompts]

    def reference(answers):
        assert len(answers) <= 16
        return [[-1.25, -1.25] for _ in answers]

    evaluator = Evaluator(prompts=PROMPTS, reference_logprobs=reference, batch_size=16)
    assert evaluator.evaluate(Contestant(name="p", generate=generate)).figures["kl"].mean == 1.0
    assert "kl" not in evaluator.evaluate(policy("q", "a b")).figures
    short = Evaluator(prompts=PROMPTS, reference_logprobs=lambda answers: [[-1.0] for _ in answers])
    with pytest.raises(ValueError, match="not about the same tokens"):
        short.evaluate(Contestant(name="p", generate=generate))


def test_a_version_in_service_answers_once_whatever_is_compared_with_it():
    asked = []
    evaluator = Evaluator(prompts=PROMPTS, judges={"length": length}, live=policy("policy-0001", "a", asked=asked))
    for name in ("step-10", "step-20", "policy-0001"):
        evaluation = evaluator.evaluate(policy(name, "a b"))
    assert asked == list(range(40))
    assert "win_rate_vs_live" not in evaluation.figures, "it has no win rate against itself"


def test_tasks_are_scored_by_their_reward_function_and_compared():
    def exact(prompts, completions, completion_ids, answer):
        assert all(isinstance(text, str) for text in (*prompts, *completions))
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    rows = [{"prompt": f"question {number}", "answer": "yes" if number % 2 else "no"} for number in range(10)]
    evaluator = Evaluator(
        prompts=PROMPTS, tasks=[Task(name="quiz", rows=rows, reward=exact)], live=policy("policy-0001", "no", "yes")
    )
    figures = evaluator.evaluate(policy("policy-0002", "yes")).figures
    assert figures["task/quiz"] == mean_estimate([0.0, 1.0] * 5)
    assert figures["task/quiz_vs_live"] == mean_estimate([-1.0, 0.0] * 5)


def test_benchmarks_are_compared_as_two_samples():
    live = policy(
        "policy-0001", "a", benchmarks=lambda: {"t/acc": Estimate(0.5, 0.2, 0.8, 10), "t/f1": Estimate(0.1, 0, 1, 10)}
    )
    candidate = policy("policy-0002", "a", benchmarks=lambda: {"t/acc": Estimate(0.6, 0.2, 1.0, 10)})
    figures = Evaluator(prompts=PROMPTS, live=live).evaluate(candidate).figures
    assert figures["harness/t/acc"].mean == 0.6
    assert figures["harness/t/acc_vs_live"] == Estimate(
        pytest.approx(0.1), pytest.approx(-0.4), pytest.approx(0.6), 10
    )
    assert "harness/t/f1_vs_live" not in figures


def test_the_record_survives_json_and_leaves_out_what_was_not_measured():
    quality = RewardQuality(
        version="reward-0002",
        accuracy=Estimate(0.7, 0.6, 0.8, 50),
        ece=0.1,
        over_feedback=(AccuracyPoint("1-9", Estimate(0.7, 0.6, 0.8, 50)),),
        by_version=(AccuracyPoint("reward-0001", Estimate(0.6, 0.5, 0.7, 40)),),
    )
    evaluator = Evaluator(
        prompts=PROMPTS,
        judges={"length": length},
        live=policy("policy-0001", ""),
        measure_reward=lambda: quality,
        settings={"temperature": 1.0},
    )
    evaluation = evaluator.evaluate(policy("policy-0002", "a"))
    assert "length_ratio_vs_live" not in evaluation.figures, "nothing is so many times as long as nothing"
    assert evaluation.figures["reward_ece"].mean == 0.1
    text = json.dumps(plain_evaluation(evaluation), allow_nan=False)
    again = read_evaluation(json.loads(text))
    assert json.dumps(plain_evaluation(again)) == text
    assert again.accuracy_over_feedback == quality.over_feedback
    assert evaluation.scalars["reward_accuracy_low"] == 0.6
    assert "reward_ece_low" not in evaluation.scalars


def test_progress_is_told_batch_by_batch():
    seen = []
    evaluator = Evaluator(
        prompts=PROMPTS, judges={"length": length}, batch_size=30, progress=lambda *step: seen.append(step)
    )
    evaluator.evaluate(policy("p", "a"))
    assert seen == [("p: answers", 30, 40), ("p: answers", 40, 40), ("judge length", 30, 40), ("judge length", 40, 40)]


def test_a_judge_that_fails_is_named():
    def broken(completions, **columns):
        raise KeyError("answer")

    with pytest.raises(RewardFunctionError, match="the reward source `careful` raised KeyError"):
        Evaluator(prompts=PROMPTS, judges={"careful": broken}).evaluate(policy("p", "a"))


def test_a_policy_that_leaves_out_an_answer_is_refused():
    with pytest.raises(ValueError, match="p: answers: 0 results for 32 rows"):
        Evaluator(prompts=PROMPTS).evaluate(Contestant(name="p", generate=lambda prompts: []))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "no prompts"),
        ({"judges": {"a": length}, "pairwise_judges": {"a": length}}, "two judges share the name `a`"),
        ({"judges": {"a": length}, "heldout": "b"}, "`heldout` is `b`, which is not a judge; there are a"),
        ({"pairwise_judges": {"a": length}, "proxy": "a"}, "`proxy` is `a`, which is not a judge; there are none"),
    ],
)
def test_a_mistake_is_found_before_anybody_answers(options, message):
    with pytest.raises(ValueError, match=message):
        Evaluator(**{"prompts": PROMPTS, **options})
