"""TRL's own `PPOTrainer` on live feedback, where the installed TRL has one; what is said where it has none."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from feedback import WriteEachStep, add_comparisons
from online_trl.callbacks import EvaluateCallback
from online_trl.config import ConfigError
from online_trl.evaluate_script import Evaluation
from online_trl.evaluation_settings import EvaluationSettings
from online_trl.registry import copy_model
from online_trl.rewards.functions import RewardFunctionError
from online_trl.rewards.scorer import LiveReward
from online_trl.script import Job, run
from online_trl.types import ModelRole
from trainer_runs import brevity, logged, ones

HAS_PPO = Version(trl.__version__) < Version("1.13")
ROOT = Path(__file__).parents[2]

if HAS_PPO:
    from trl_ppo_run import make

needs_ppo = pytest.mark.skipif(not HAS_PPO, reason="TRL has no PPOTrainer since 1.13")


@pytest.mark.skipif(HAS_PPO, reason="this TRL has a PPOTrainer")
def test_a_newer_trl_is_told_what_to_use_instead():
    with pytest.raises(ImportError, match=r"no `PPOTrainer` since 1\.13\. Use `online_trl\.ppo\.OnlinePPOTrainer`"):
        importlib.import_module("online_trl.trl_ppo")


class Recorder:
    """A reward function that remembers what it was asked and what it said."""

    __name__ = "recorder"

    def __init__(self):
        self.asked = []
        self.said = []

    def __call__(self, prompts, completions, completion_ids, answer, **columns):
        rewards = [number / 7 - len(ids) / 100 for number, ids in zip(answer, completion_ids, strict=True)]
        self.asked += zip(prompts, completions, completion_ids, answer, strict=True)
        self.said += rewards
        return rewards


@needs_ppo
@pytest.mark.parametrize("kind", ["chat", "text"])
def test_what_reward_functions_say_reaches_the_trainer(kind, tiny_policy, tmp_path):
    # Prompts of several lengths, each with an answer by which it is known again.
    texts = [f"seed {'and ' * (index % 3)}{index}" for index in range(32)]
    prompts = [[{"role": "user", "content": text}] for text in texts] if kind == "chat" else texts
    dataset = Dataset.from_dict({"prompt": prompts, "answer": list(range(32))})
    recorder = Recorder()
    evaluation = {"eval_dataset": dataset.select(range(8))}
    trainer = make(
        tiny_policy,
        tmp_path,
        [recorder, ones],
        dataset,
        options=evaluation,
        num_sample_generations=1,
        reward_weights=[2.0, 0.5],
    )
    trainer.train()
    evaluated = 8  # after the first step, what the policy says to the prompts for evaluation
    assert len(recorder.said) == 16 + evaluated
    trained = [recorder.said[:8], recorder.said[8 + evaluated :]]
    expected = [2.0 * sum(rewards) / 8 + 0.5 for rewards in trained]
    assert logged(trainer, "objective/scores") == pytest.approx(expected, abs=1e-6)
    assert logged(trainer, "rewards/recorder/mean") == pytest.approx([sum(said) / 8 for said in trained], abs=1e-6)
    assert logged(trainer, "rewards/ones/mean") == [1.0, 1.0]

    tokenizer = trainer.processing_class
    for prompt, completion, ids, answer in recorder.asked:
        assert prompt == prompts[answer]
        text = completion[0]["content"] if kind == "chat" else completion
        assert text == tokenizer.decode(ids, skip_special_tokens=True)
        assert tokenizer.eos_token_id not in ids[:-1]


@needs_ppo
def test_a_completion_that_no_function_rates_stops_the_run(tiny_policy, tmp_path):
    def none_at_all(completions, **columns):
        return [None] * len(completions)

    prompts = Dataset.from_dict({"prompt": [f"seed {number}" for number in range(32)]})
    trainer = make(tiny_policy, tmp_path, [none_at_all], prompts)
    with pytest.raises(RewardFunctionError, match=r"none of the reward functions \(none_at_all\) rates"):
        trainer.train()


@needs_ppo
@pytest.mark.parametrize("long_prompts", ["drop", "truncate"])
def test_long_prompts_are_left_out_or_truncated(long_prompts, tiny_policy, tmp_path):
    texts = [f"{'seed ' * (20 * (index % 2) + 1)}{index}" for index in range(16)]
    dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in texts]})
    widths, seen = [], []

    def watch(prompts, **columns):
        seen.extend(prompt[0]["content"] for prompt in prompts)
        return [0.0] * len(prompts)

    limit = {"max_prompt_length": 12, "long_prompts": long_prompts}
    trainer = make(tiny_policy, tmp_path, [watch], dataset, episodes=32, local_rollout_forward_batch_size=8, **limit)
    generate = trainer.model.policy.generate

    def generate_and_note(input_ids, **options):
        widths.append(input_ids.shape[1])
        return generate(input_ids=input_ids, **options)

    trainer.model.policy.generate = generate_and_note
    trainer.train()
    assert len(widths) == 4
    assert max(widths) <= 12
    assert any(text.count("seed") > 1 for text in seen) == (long_prompts == "truncate")


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@needs_ppo
def test_the_reward_model_is_refreshed_and_fresh_prompts_arrive_while_it_trains(
    tiny_policy, tmp_path, prompts, store, registry
):
    add_comparisons(store, 40)
    seen = []

    def watch(prompts, **columns):
        seen.extend(prompt[0]["content"] for prompt in prompts)
        return [0.0] * len(prompts)

    live = LiveReward(registry)
    trainer = make(tiny_policy, tmp_path / "out", [live, watch], prompts, store=store, episodes=64, refresh_steps=2)
    trainer.add_callback(WriteEachStep(store))
    trainer.add_callback(StopAfter(5))
    trainer.train()

    assert trainer.state.global_step == 5  # of 8
    assert (tmp_path / "out" / "checkpoint-5" / "model.safetensors").is_file()
    versions = registry.versions(ModelRole.REWARD)
    assert [outcome.version for outcome in trainer.refreshes] == [version.name for version in versions]
    assert len(versions) == 1 + 2  # the first one, and one after steps 2 and 4
    assert trainer.feedback_cursor == versions[-1].feedback_interval[1]
    assert len(set(logged(trainer, "live_reward/version"))) >= 2
    means = logged(trainer, "rewards/live_reward/mean")
    assert means == pytest.approx(logged(trainer, "objective/scores"), abs=1e-6)
    fresh = [[prompt for prompt in seen[8 * step : 8 * step + 8] if "seed" not in prompt] for step in range(5)]
    # The dataloader is a batch ahead: it draws the second one before anybody has reacted to the first.
    assert [len(step) for step in fresh] == [4, 0, 4, 4, 4]
    assert any("fresh" in prompt for prompt in fresh[-1])

    trainer.save_model(str(tmp_path / "saved"))
    saved, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    policy = trainer.model.policy.state_dict()
    assert all(torch.equal(weight, policy[name]) for name, weight in saved.state_dict().items())


@needs_ppo
def test_its_policy_is_evaluated_while_it_trains_and_published_like_that_of_any_trainer(
    tiny_policy, tmp_path, prompts, registry
):
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
    trainer = make(tiny_policy, tmp_path / "out", [brevity], prompts, episodes=32)
    callback = EvaluateCallback(trainer, Evaluation(settings, registry).evaluate_folder, steps=2)
    trainer.add_callback(callback)
    job = Job(prompts=prompts, reward_funcs=[brevity], store=None, registry=registry)
    assert run(trainer, job) == "policy-0002"

    assert [each.policy_version for each in callback.evaluations] == ["step-2", "step-4"]
    assert logged(trainer, "eval_kl") == [each.figures["kl"].mean for each in callback.evaluations]
    assert logged(trainer, "eval_kl")[1] > 0  # it is the policy in training that was looked at
    published = load_file(registry.path("policy-0002") / "model.safetensors")
    policy = trainer.model.policy.state_dict()
    assert all(weight.equal(policy[name]) for name, weight in published.items())
    assert registry.get("policy-0002").parent == "policy-0001"


@needs_ppo
def test_what_it_cannot_do_is_refused(tiny_policy, tmp_path, prompts):
    with pytest.raises(ConfigError, match="are functions or the live reward"):
        make(tiny_policy, tmp_path, ["some/reward-model"], prompts)
    with pytest.raises(ConfigError, match="2 `reward_weights` for 1 `reward_funcs`"):
        make(tiny_policy, tmp_path, [brevity], prompts, reward_weights=[1.0, 2.0])
    trainer = make(tiny_policy, tmp_path, [brevity], prompts)
    with pytest.raises(ConfigError, match="cannot resume"):
        trainer.train(resume_from_checkpoint="checkpoint-1")
    trainer.processing_class.pad_token = trainer.processing_class.eos_token
    with pytest.raises(ConfigError, match="a `pad_token` other than its `eos_token`"):
        make(tiny_policy, tmp_path, [brevity], prompts, options={"processing_class": trainer.processing_class})


@needs_ppo
@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "zero2", "zero3"])
def test_two_processes_train_on_one_view_of_the_log(config, tiny_policy, tmp_path, store):
    add_comparisons(store, 40)
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "ds_configs" / f"accelerate_{config}_cpu.yaml")]
    script = str(ROOT / "tests" / "trl_ppo_run.py")
    subprocess.run(
        [*command, script, tiny_policy, str(tmp_path), store.url],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]


@needs_ppo
def test_the_rows_of_a_slice_are_those_of_the_batch_in_use(tiny_policy):
    from online_trl.trl_ppo.prompts import PromptCollator

    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    collator = PromptCollator(
        tokenizer, draw=lambda rows: rows, tokenize=lambda prompts: tokenizer(prompts)["input_ids"], slice_size=4
    )
    batches = [[{"prompt": "yes", "row": 10 * batch + row} for row in range(6)] for batch in range(2)]
    ids = [collator(rows)["input_ids"] for rows in batches]
    found = [collator.rows_of(each[part])[0] for each in ids for part in (slice(0, 4), slice(4, 6))]
    assert [[row["row"] for row in rows] for rows in found] == [[0, 1, 2, 3], [4, 5], [10, 11, 12, 13], [14, 15]]
