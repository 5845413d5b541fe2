"""A policy in training is evaluated, and trains as if it were not."""

import pytest
import torch

from online_trl.callbacks import EvaluateCallback
from online_trl.evaluate_script import Evaluation
from online_trl.evaluation_settings import EvaluationSettings
from online_trl.registry import ModelRegistry, copy_model
from online_trl.types import ModelRole
from trainer_runs import brevity, logged, make


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_policy_in_training_is_evaluated_and_trains_as_if_it_were_not(kind, tiny_policy, prompts, tmp_path):
    registry = ModelRegistry(tmp_path / "registry")
    registry.publish(ModelRole.POLICY, copy_model(tiny_policy))
    registry.promote("policy-0001", "the first")
    prompts.to_json(tmp_path / "prompts.jsonl")
    settings = EvaluationSettings(
        dataset_name=str(tmp_path / "prompts.jsonl"),
        num_prompts=4,
        judges=["trainer_runs:brevity"],
        max_completion_length=6,
        device="cpu",
    )
    evaluation = Evaluation(settings, registry)
    plain = make(kind, tiny_policy, tmp_path / "plain", brevity, prompts)
    plain.train()
    evaluated = make(kind, tiny_policy, tmp_path / "evaluated", brevity, prompts)
    callback = EvaluateCallback(evaluated, evaluation.evaluate_folder, steps=2)
    evaluated.add_callback(callback)
    evaluated.train()

    assert [each.policy_version for each in callback.evaluations] == ["step-2", "step-4"]
    figures = callback.evaluations[-1].figures
    assert logged(evaluated, "eval_win_rate_vs_live")[-1] == figures["win_rate_vs_live"].mean
    assert logged(evaluated, "eval_kl") == [each.figures["kl"].mean for each in callback.evaluations]
    assert logged(evaluated, "reward") == logged(plain, "reward")
    assert len(logged(evaluated, "loss")) == 4
    assert evaluated.model.training
    for one, other in zip(plain.model.parameters(), evaluated.model.parameters(), strict=True):
        assert torch.equal(one, other)
