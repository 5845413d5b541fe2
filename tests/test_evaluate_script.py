"""An evaluation of real, tiny models, as `online-trl evaluate`, the recipes and the loop run it."""

import json

import pytest
import torch
import yaml
from accelerate.tracking import GeneralTracker
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from feedback import add_comparisons
from online_trl.cli import main
from online_trl.config import ConfigError
from online_trl.evaluate_script import Evaluation, heldout_statements, log_to_trackers
from online_trl.evaluation_records import plain_evaluation, recorded_evaluations
from online_trl.evaluation_settings import EvaluationSettings
from online_trl.registry import Consumed, ModelRegistry, Sources, copy_model
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole, Purpose
from scoring_server import says, scoring_server

SMALL = {"num_prompts": 12, "max_completion_length": 6, "batch_size": 8, "device": "cpu"}


def brevity(completions, **columns):
    return [-len(completion[0]["content"]) for completion in completions]


def named(completions, answer, **columns):
    return [float(right in completion) for completion, right in zip(completions, answer, strict=True)]


@pytest.fixture(scope="module")
def registry(tiny_policy, tmp_path_factory):
    """Three policies, the second in service and the third with other weights, and two reward models."""
    folder = tmp_path_factory.mktemp("evaluation")
    registry = ModelRegistry(folder / "registry")
    for name in ("policy-0001", "policy-0002"):
        registry.publish(ModelRole.POLICY, copy_model(tiny_policy))
        registry.promote(name, "it is as good")
    reward = LlamaForSequenceClassification.from_pretrained(tiny_policy, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    for seed in range(2):
        torch.manual_seed(seed)
        torch.nn.init.normal_(reward.score.weight)
        reward.save_pretrained(folder / f"reward-{seed}")
        tokenizer.save_pretrained(folder / f"reward-{seed}")
        Consumed(Sources(frozenset({"row"}), frozenset())).write(folder / f"reward-{seed}")
        registry.publish(
            ModelRole.REWARD,
            copy_model(folder / f"reward-{seed}"),
            metrics={"reward_accuracy": 0.6 + seed / 10, "heldout_statements": 40.0},
        )
    registry.promote("reward-0001", "the first")
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.model.norm.weight, std=10)
    model.save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    registry.publish(
        ModelRole.POLICY, copy_model(folder / "other"), parent="policy-0002", reward_versions=("reward-0001",)
    )
    return registry


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        add_comparisons(store, 20)
        yield store


def test_a_version_is_measured_against_the_live_one_and_the_base(registry, store, tmp_path):
    rows = [{"prompt": f"seed {number}", "answer": "yes"} for number in range(5)]
    Dataset.from_list(rows).to_json(tmp_path / "task.jsonl")
    task = {"dataset_name": str(tmp_path / "task.jsonl"), "reward_func": "test_evaluate_script:named"}
    seen = []
    with scoring_server() as (url, script):
        script.always = lambda body: says("Verdict: A")
        settings = EvaluationSettings(
            **SMALL,
            judges=["live", "reward-0002", "trl.rewards:think_format_reward", "versus"],
            heldout_judge="reward-0002",
            reward_sources={"versus": {"kind": "pairwise_judge", "url": f"{url}/v1", "model": "big"}},
            tasks={"quiz": task},
        )
        evaluation = Evaluation(settings, registry, store, progress=lambda *step: seen.append(step)).evaluate(
            "policy-0003"
        )
    figures = evaluation.figures
    assert (evaluation.live, evaluation.base, evaluation.prompts) == ("policy-0002", "policy-0001", 12)
    assert evaluation.main_judge == "reward-0002"
    # The live version has the weights of the base, so both answer alike.
    for name in ("win_rate_vs", "length_ratio_vs", "score/live_vs", "task/quiz_vs", "refusals_vs", "distinct_1_vs"):
        assert figures[f"{name}_live"] == figures[f"{name}_base"]
    assert figures["win_rate_vs_live/reward-0002"] == figures["win_rate_vs_live"]
    assert figures["win_rate_vs_live/versus"].mean == 0.5, "a judge that likes the first place says nothing"
    assert figures["contradictions_vs_live/versus"].mean == 1.0
    assert figures["ties_vs_live/trl.rewards:think_format_reward"].mean == 1.0
    assert figures["kl"].mean > 0
    assert {"reward_gap", "gain/live", "task/quiz", "task/quiz_vs_live", "reward_ece"} <= figures.keys()
    assert (evaluation.reward_version, figures["reward_accuracy"].n) == ("reward-0001", 20)
    assert [point.at for point in evaluation.accuracy_by_reward_version] == ["reward-0001", "reward-0002"]
    assert {"policy-0003: answers", "policy-0001: task quiz", "judge versus"} <= {what for what, _, _ in seen}


def test_the_same_weights_win_half_and_lie_no_nats_apart(registry, store):
    settings = EvaluationSettings(**SMALL, judges=["test_evaluate_script:brevity"])
    evaluation = Evaluation(settings, registry, store).evaluate("policy-0001")
    assert evaluation.figures["win_rate_vs_live"].mean == 0.5
    assert evaluation.figures["ties_vs_live/test_evaluate_script:brevity"].mean == 1.0
    assert evaluation.figures["kl"].mean == pytest.approx(0, abs=1e-3)
    assert "win_rate_vs_base" not in evaluation.figures


def test_answers_that_are_not_drawn_from_the_policy_as_it_is_have_no_kl(registry, store):
    settings = EvaluationSettings(**SMALL, judges=[], temperature=0.5)
    assert "kl" not in Evaluation(settings, registry, store).evaluate("policy-0003").figures


def test_the_reward_model_is_judged_by_what_it_was_not_trained_on(registry, store, tmp_path):
    statements = heldout_statements(store, registry, "reward-0001")
    assert [each.seq for each in statements] == [row.seq for row in store.feedback()]
    learned = store.feedback()[0].feedback_id
    folder = tmp_path / "learned"
    folder.mkdir()
    (folder / "weights").write_text("w")
    Consumed(Sources(frozenset({learned}), frozenset())).write(folder)
    version = registry.publish(ModelRole.REWARD, copy_model(folder), parent="reward-0001")
    assert len(heldout_statements(store, registry, version.name)) == len(statements) - 1


def test_prompts_of_an_evaluation_come_first(registry, store):
    asked = store.interactions()[0]
    prompt = [{"role": "user", "content": "held out"}]
    store.add_interaction(
        type(asked)(
            prompt=prompt,
            completion=asked.completion,
            policy_version="policy-0001",
            session_id="s",
            user_id="u",
            purpose=Purpose.EVALUATION,
        )
    )
    evaluation = Evaluation(EvaluationSettings(**SMALL, judges=[]), registry, store)
    assert list(evaluation.evaluator.prompts[:2]) == [prompt, [{"role": "user", "content": "question 19"}]]
    assert len(evaluation.evaluator.prompts) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judges": ["lives"]}, "unknown reward source `lives`; did you mean `live`?"),
        ({"judges": ["reward-0009"]}, "unknown reward source `reward-0009`"),
        (
            {"judges": ["a"], "reward_sources": {"a": {"kind": "judges"}}},
            "unknown kind `judges`; did you mean `judge`?",
        ),
        ({"tasks": {"quiz": {"dataset_name": "/no/such.jsonl", "reward_func": "trl.rewards:x"}}}, "no function `x`"),
        ({"dataset_name": "/no/such.jsonl"}, "cannot load the dataset `/no/such.jsonl`"),
        ({"report_to": ["wandbb"]}, "unknown report_to `wandbb`"),
        ({"judges": ["live", "reward-0001"], "heldout_judge": "reward-0001"}, "took part in making policy-0003"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_loaded(options, message, registry, store, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *path: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Evaluation(EvaluationSettings(**{**SMALL, **options}), registry, store).evaluate("policy-0003")


def test_without_a_log_or_a_dataset_there_is_nothing_to_ask(registry):
    with pytest.raises(ConfigError, match="there are no prompts to evaluate on"):
        Evaluation(EvaluationSettings(), registry)


def test_trackers_get_the_figures_below_eval(registry, store):
    lines = []

    class Notes(GeneralTracker):
        name = "notes"
        requires_logging_directory = False
        tracker = None

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None, **kwargs):
            lines.append((step, values))

    settings = EvaluationSettings(**SMALL, judges=["test_evaluate_script:brevity"])
    evaluation = Evaluation(settings, registry, store).evaluate("policy-0003")
    log_to_trackers(evaluation, [Notes()])
    ((step, values),) = lines
    assert step == 3
    assert values["eval/win_rate_vs_live"] == evaluation.figures["win_rate_vs_live"].mean
    assert values["eval/win_rate_vs_live_low"] == evaluation.figures["win_rate_vs_live"].low


def evaluate(registry, store, tmp_path, *arguments):
    config = {**SMALL, "judges": ["live", "test_evaluate_script:brevity"]}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))
    places = [
        "--registry",
        str(registry.location),
        "--store",
        str(store.url),
        "--config",
        str(tmp_path / "evaluate.yaml"),
    ]
    return main(["evaluate", *places, *arguments])


def test_the_command_prints_and_records_the_same_figures(registry, store, tmp_path, capsys):
    assert evaluate(registry, store, tmp_path, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["policy_version"] == "policy-0003", "the newest one"
    (recorded,) = recorded_evaluations(registry.evaluations("policy-0003"))
    assert plain_evaluation(recorded) == printed
    assert evaluate(registry, store, tmp_path, "--version", "policy-0001") == 0
    table = capsys.readouterr().out
    (recorded,) = recorded_evaluations(registry.evaluations("policy-0001"))
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    assert rows["win_rate_vs_live"][1] == f"{recorded.figures['win_rate_vs_live'].mean:.2f}"
    assert rows["distinct_1"][1:3] == [f"{recorded.figures['distinct_1'].mean:.2f}", "–"]
    assert "proxy live; accuracy of reward-0001" in " ".join(table.split())


def test_ctrl_c_leaves_nothing_recorded(registry, store, tmp_path, monkeypatch):
    def interrupted(completions, **columns):
        raise KeyboardInterrupt

    before = len(registry.evaluations("policy-0002"))
    monkeypatch.setattr("test_evaluate_script.brevity", interrupted)
    assert evaluate(registry, store, tmp_path, "--version", "policy-0002") == 130
    assert len(registry.evaluations("policy-0002")) == before


def test_a_version_that_does_not_exist_is_named(registry, store, tmp_path, capsys):
    assert evaluate(registry, store, tmp_path, "--version", "policy-0009") == 2
    assert "no version `policy-0009`" in capsys.readouterr().err
