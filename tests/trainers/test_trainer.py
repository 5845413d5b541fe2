"""The online trainers on tiny models: real TRL trainers, real log, real registry."""

import itertools
import shutil

import pandas
import pytest
import torch
from datasets import Dataset
from fastapi import Response
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from feedback import WriteEachStep, add_comparisons
from online_trl.config import ConfigError
from online_trl.grpo import OnlineGRPOConfig
from online_trl.rewards.functions import RewardFunctionError
from online_trl.rewards.remote_scorer import RemoteScorer
from online_trl.rewards.scorer import LiveReward
from online_trl.rewards.sources import RewardSource
from online_trl.trainer import reward_config
from online_trl.types import ModelRole, VersionStatus
from reward_models import save_reward_model
from scoring_server import scoring_server
from trainer_runs import REWARD, TRAINERS, brevity, broken, logged, make, ones


@pytest.mark.parametrize("kind", TRAINERS)
def test_reward_functions_sync_and_async_add_up_by_their_weights(kind, tiny_policy, tmp_path, prompts):
    trainer = make(kind, tiny_policy, tmp_path, [brevity, ones], prompts, reward_weights=[2.0, 0.5], max_steps=1)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "reward" in row]
    assert row["rewards/ones/mean"] == 1.0
    assert row["reward"] == pytest.approx(2.0 * row["rewards/brevity/mean"] + 0.5, abs=1e-5)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_failing_reward_function_is_named_with_its_batch(kind, tiny_policy, tmp_path, prompts):
    trainer = make(kind, tiny_policy, tmp_path, [brevity, broken], prompts)
    with pytest.raises(
        RewardFunctionError, match=r"trainer_runs:broken` raised KeyError.* a batch of 8 completions at "
    ):
        trainer.train()


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_failing_source_is_dropped_for_its_batch_alone(kind, tiny_policy, tmp_path, prompts, caplog):
    with scoring_server() as (url, script):
        script.replies = [Response(status_code=400)]
        scorer = RewardSource(reward=RemoteScorer(url=url), name="scorer", on_failure="drop")
        trainer = make(kind, tiny_policy, tmp_path, [brevity, scorer], prompts, max_steps=2, num_iterations=1)
        trainer.train()
    first, second = [row for row in trainer.state.log_history if "reward" in row]
    assert (first["rewards/scorer/dropped"], first["rewards/scorer/not_applicable"]) == (1.0, 1.0)
    assert first["reward"] == pytest.approx(first["rewards/brevity/mean"])
    assert (second["rewards/scorer/dropped"], second["rewards/scorer/not_applicable"]) == (0.0, 0.0)
    assert second["rewards/scorer/mean"] == pytest.approx(-10 * second["rewards/brevity/mean"], abs=1e-5)
    assert second["reward"] == pytest.approx(9 / 10 * second["rewards/scorer/mean"], abs=1e-5)
    (warning,) = [message for message in caplog.messages if "dropped" in message]
    assert warning.startswith("the reward source `scorer` raised RewardServerError: http://127.0.0.1:")


def test_a_reward_model_is_loaded_by_trl_and_its_scale_comes_back_from_a_checkpoint(tiny_policy, tmp_path, prompts):
    folder = str(tmp_path / "model")
    save_reward_model(tiny_policy, folder)
    rewards = [RewardSource(reward=folder, name="quality", normalise="running")]
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = make("grpo", tiny_policy, tmp_path / "out", rewards, prompts, max_steps=2, **saving)
    trainer.train()
    assert logged(trainer, "rewards/quality/mean")[0] == pytest.approx(0.0, abs=1e-5)
    (before,) = trainer.reward_sources.state_dict()
    assert before["count"] == 16
    assert before["mean"] == pytest.approx(sum(logged(trainer, "rewards/quality/raw_mean")) / 2)

    again = make("grpo", tiny_policy, tmp_path / "out", rewards, prompts, max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert again.reward_sources.state_dict()[0]["count"] == 24


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_reward_model_is_made_and_refreshed_while_the_policy_trains(
    kind, tiny_policy, tmp_path, prompts, store, registry
):
    add_comparisons(store, 40)
    trainer = make(
        kind,
        tiny_policy,
        tmp_path / "out",
        [LiveReward(registry), brevity],
        prompts,
        store=store,
        max_steps=6,
        refresh_steps=2,
        refresh_min_statements=4,
        reward_config=REWARD,
        log_completions=True,
        num_completions_to_print=0,
    )
    writer = WriteEachStep(store)
    trainer.add_callback(writer)
    trainer.train()

    versions = registry.versions(ModelRole.REWARD)
    assert [outcome.version for outcome in trainer.refreshes] == [version.name for version in versions]
    assert len(versions) == 1 + 3  # the first one, and one after steps 2, 4 and 6
    intervals = [version.feedback_interval for version in versions]
    assert intervals[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(intervals))
    accepted = [version.name for version in versions if version.status is not VersionStatus.REFUSED]
    assert trainer.live_reward.version == accepted[-1] == registry.live(ModelRole.REWARD).name
    assert len(set(logged(trainer, "live_reward/version"))) >= 2

    tables = [pandas.read_parquet(path) for path in sorted((tmp_path / "out" / "completions").glob("*.parquet"))]
    assert {"reward_version", "live_reward", "brevity"} <= set(tables[-1].columns)
    seen = " ".join(str(prompt) for table in tables for prompt in table["prompt"])
    assert "fresh" in seen


def test_the_reward_model_may_be_made_from_another_model_than_the_policy(
    tiny_policy, tmp_path, prompts, store, registry
):
    add_comparisons(store, 20)
    other = AutoModel.from_pretrained(tiny_policy)
    for parameter in other.parameters():
        parameter.data += 0.01
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_policy).save_pretrained(tmp_path / "other")
    trainer = make(
        "grpo",
        tiny_policy,
        tmp_path / "out",
        LiveReward(registry),
        prompts,
        store=store,
        max_steps=1,
        refresh_min_statements=4,
        reward_initial_model=str(tmp_path / "other"),
        reward_config={**REWARD, "freeze_backbone": True},
    )
    trainer.train()
    folder = registry.path(registry.versions(ModelRole.REWARD)[-1].name)
    made = AutoModelForSequenceClassification.from_pretrained(folder).base_model.state_dict()
    assert all(torch.equal(weight, made[name]) for name, weight in other.state_dict().items())


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_policy_is_saved_without_the_critic_and_loads_in_plain_transformers(kind, tiny_policy, tmp_path, prompts):
    trainer = make(kind, tiny_policy, tmp_path, brevity, prompts, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    assert not any(key.startswith("critic") for key in load_file(tmp_path / "saved" / "model.safetensors"))
    assert (tmp_path / "saved" / "critic").is_dir() == (kind == "ppo")


@pytest.mark.parametrize(("kind", "paper"), [("grpo", "2402.03300"), ("ppo", "1909.08593")])
def test_the_model_card_names_the_method_and_its_paper(kind, paper, tiny_policy, tmp_path, prompts):
    make(kind, tiny_policy, tmp_path, brevity, prompts).create_model_card()
    card = ModelCard.load(tmp_path / "README.md")
    assert {"trl", kind, "online-trl"} <= set(card.data.tags)
    assert f"arxiv.org/abs/{paper}" in card.text.replace("huggingface.co/papers", "arxiv.org/abs")


def test_plain_prompts_beside_a_log_are_refused_before_a_model_is_loaded(store, tmp_path):
    plain = Dataset.from_list([{"prompt": "seed"}] * 8)
    with pytest.raises(ConfigError, match="prompts of `train_dataset` are plain text"):
        make("grpo", "no/such-model", tmp_path, brevity, plain, store=store)


def test_plain_prompts_to_evaluate_on_beside_a_log_are_refused_before_a_model_is_loaded(store, prompts, tmp_path):
    plain = Dataset.from_list([{"prompt": "seed"}] * 8)
    with pytest.raises(ConfigError, match=r"prompts of `eval_dataset\['short'\]` are plain text"):
        make("grpo", "no/such-model", tmp_path, brevity, prompts, store=store, eval_dataset={"short": plain})


class Spoil(TrainerCallback):
    """Takes the live reward version away after the first step."""

    def __init__(self, live):
        self.live = live

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            shutil.rmtree(self.live.registry.path(self.live.version))


def test_a_reward_version_that_vanished_is_made_anew(tiny_policy, tmp_path, prompts, store, registry, caplog):
    add_comparisons(store, 40)
    live = LiveReward(registry)
    settings = {"max_steps": 4, "refresh_steps": 2, "refresh_min_statements": 4, "reward_config": REWARD}
    callbacks = [Spoil(live), WriteEachStep(store)]
    trainer = make("grpo", tiny_policy, tmp_path, [live], prompts, store=store, callbacks=callbacks, **settings)
    trainer.train()
    first, second, *_ = trainer.refreshes
    assert second.restarted == f"{first.version} has vanished from the registry"
    assert "has vanished from the registry: the reward model is made anew" in caplog.text
    assert len(logged(trainer, "loss")) == 4


def test_another_call_of_train_refreshes_as_often(tiny_policy, tmp_path, prompts, store, registry):
    add_comparisons(store, 40)
    settings = {"max_steps": 4, "refresh_steps": 2, "refresh_min_statements": 4, "reward_config": REWARD}
    trainer = make("grpo", tiny_policy, tmp_path, [LiveReward(registry)], prompts, store=store, **settings)
    trainer.add_callback(WriteEachStep(store))
    trainer.train()
    first = len(trainer.refreshes)
    trainer.train()
    # Without the first version, which there is now, and with what was said since the last refresh.
    assert len(trainer.refreshes) - first >= first - 1


def test_a_live_reward_with_nothing_to_learn_from_is_refused_before_a_model_is_loaded(registry, prompts, tmp_path):
    with pytest.raises(ConfigError, match="no version in its registry"):
        make("grpo", "no/such-model", tmp_path, [LiveReward(registry)], prompts)


def test_too_little_feedback_for_a_first_reward_model_says_what_to_do(tiny_policy, registry, prompts, store, tmp_path):
    add_comparisons(store, 3)
    trainer = make("grpo", tiny_policy, tmp_path, [LiveReward(registry)], prompts, store=store)
    with pytest.raises(ConfigError, match=r"16 are needed: .*online-trl import"):
        trainer.train()


def test_resuming_without_a_checkpoint_is_refused(tiny_policy, tmp_path, prompts):
    trainer = make("grpo", tiny_policy, tmp_path, brevity, prompts)
    with pytest.raises(ConfigError, match="nothing to resume from"):
        trainer.train(resume_from_checkpoint=True)


def test_a_reference_that_follows_the_policy_comes_back_from_a_checkpoint(tiny_policy, tmp_path, prompts):
    settings = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.9, "beta": 0.1}
    settings |= {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    straight = make("grpo", tiny_policy, tmp_path, brevity, prompts, max_steps=6, **settings)
    straight.train()
    resumed = make("grpo", tiny_policy, tmp_path, brevity, prompts, max_steps=6, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(resumed, "loss") == pytest.approx(logged(straight, "loss"), abs=1e-6)
    references = [dict(each.ref_model.named_parameters()) for each in (straight, resumed)]
    torch.testing.assert_close(references[1], references[0])
    policy = AutoModelForCausalLM.from_pretrained(tiny_policy)
    assert not all(torch.equal(each, references[0][name]) for name, each in policy.named_parameters())


def test_a_wrong_key_for_the_reward_model_is_refused_with_the_nearest(tiny_policy, registry, store, prompts, tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown key `learning_rat` in `reward_config`; did you mean `learning_rate`"
    ):
        make(
            "grpo",
            tiny_policy,
            tmp_path,
            [LiveReward(registry)],
            prompts,
            store=store,
            reward_config={"learning_rat": 1},
        )


def test_a_run_is_resumed_with_what_it_had(tiny_policy, tmp_path, prompts, store):
    make("grpo", tiny_policy, tmp_path, brevity, prompts, max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ConfigError, match="written with `num_iterations` 1, not 2: resume with what it had"):
        make("grpo", tiny_policy, tmp_path, brevity, prompts, num_iterations=2).train(resume_from_checkpoint=True)
    following = make("grpo", tiny_policy, tmp_path, brevity, prompts, sync_ref_model=True, beta=0.1)
    with pytest.raises(ConfigError, match="written without `sync_ref_model`: resume without it"):
        following.train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="written without a `store`: resume without it, or start anew"):
        make("grpo", tiny_policy, tmp_path, brevity, prompts, store=store).train(resume_from_checkpoint=True)


def test_the_first_reward_model_is_made_of_the_policys_revision(tmp_path):
    loaded = {"model_init_kwargs": {"revision": "v2", "trust_remote_code": True, "dtype": "bfloat16"}}
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, **loaded}
    made = reward_config(OnlineGRPOConfig(**settings))
    assert (made.model_init_kwargs, made.trust_remote_code) == ({"revision": "v2"}, True)
    of_another = reward_config(OnlineGRPOConfig(reward_initial_model="some/other", **settings))
    assert (of_another.model_init_kwargs, of_another.trust_remote_code) == (None, False)
