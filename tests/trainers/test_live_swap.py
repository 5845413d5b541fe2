"""The reward version changes under a running trainer; or it should, and cannot."""

import re
import shutil

import pandas
import pytest
from transformers import TrainerCallback

from feedback import WriteEachStep, add_comparisons
from online_trl.registry import RegistryError
from online_trl.rewards.scorer import LiveReward
from online_trl.types import ModelRole
from reward_models import save_reward_model
from trainer_runs import REWARD, TRAINERS, logged, make


@pytest.fixture
def publish(tiny_policy, registry):
    """Puts a reward version into service; returns its name."""

    def write(folder):
        save_reward_model(tiny_policy, folder)

    def publish():
        version = registry.publish(ModelRole.REWARD, write)
        return registry.promote(version.name, "for the test").name

    return publish


class AtStep(TrainerCallback):
    """Does something at the end of some steps."""

    def __init__(self, acts):
        self.acts = acts

    def on_step_end(self, args, state, control, **kwargs):
        self.acts.get(state.global_step, lambda: None)()


@pytest.mark.parametrize("kind", TRAINERS)
def test_each_step_logs_the_version_that_paid_it(kind, tiny_policy, tmp_path, prompts, store, registry):
    add_comparisons(store, 20)
    settings = {"max_steps": 6, "num_iterations": 2, "refresh_steps": 1, "refresh_min_statements": 4}
    trainer = make(
        kind,
        tiny_policy,
        tmp_path / "out",
        [LiveReward(registry)],
        prompts,
        store=store,
        callbacks=[WriteEachStep(store)],
        log_completions=True,
        num_completions_to_print=0,
        reward_config={**REWARD, "max_steps": 1},
        **settings,
    )
    trainer.train()
    # A rollout serves two steps, and a new version comes after each.
    used = [version for version in trainer.live_reward.versions_used for _ in range(2)]
    assert len(set(used)) == 3
    assert [f"reward-{int(number):04d}" for number in logged(trainer, "live_reward/version")] == used
    tables = [pandas.read_parquet(path) for path in sorted((tmp_path / "out" / "completions").glob("*.parquet"))]
    assert [set(table["reward_version"]) for table in tables] == [{version} for version in used]


@pytest.mark.parametrize("kind", TRAINERS)
def test_an_evaluation_is_no_payment(kind, tiny_policy, tmp_path, prompts, registry, publish):
    publish()
    live = LiveReward(registry)
    settings = {"max_steps": 2, "num_iterations": 2, "refresh_mode": "follow"}
    settings |= {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": prompts.select(range(8))}
    # One version comes in the middle of the only rollout, and one after the last step.
    publishing = AtStep({1: publish, 2: publish})
    trainer = make(kind, tiny_policy, tmp_path, [live], prompts, callbacks=[publishing], **settings)
    trainer.train()
    assert logged(trainer, "eval_live_reward/version") == [2.0, 3.0]
    assert logged(trainer, "live_reward/version") == [1.0, 1.0]
    assert live.versions_used == ["reward-0001"]


@pytest.mark.parametrize("kind", TRAINERS)
def test_without_new_feedback_it_trains_on_what_is_known_and_says_so_once(
    kind, tiny_policy, tmp_path, prompts, store, registry, caplog
):
    add_comparisons(store, 40)
    trainer = make(
        kind, tiny_policy, tmp_path, [LiveReward(registry)], prompts, store=store, refresh_steps=1, max_steps=4,
        reward_config=REWARD,
    )  # fmt: skip
    trainer.train()
    assert len(logged(trainer, "loss")) == 4
    assert [version.name for version in registry.versions(ModelRole.REWARD)] == ["reward-0001"]
    (said,) = [message for message in caplog.messages if "refresh of the reward model waits" in message]
    assert re.match(
        f"the log {store.url} holds 0 new statements to train on since row {store.latest_seq()}, .* waits for 16 .*"
        "going on with the version in service",
        said,
    )


@pytest.mark.parametrize(("kind", "damage"), [("grpo", "gone"), ("ppo", "changed")])
def test_a_version_that_cannot_be_read_is_not_taken_over(
    kind, damage, tiny_policy, tmp_path, prompts, registry, publish, caplog
):
    def spoil():
        folder = registry.path(publish())
        shutil.rmtree(folder) if damage == "gone" else (folder / "config.json").write_text("{}")

    publish()
    live = LiveReward(registry)
    settings = {"max_steps": 6, "refresh_mode": "follow", "logging_steps": 3}
    trainer = make(
        kind, tiny_policy, tmp_path, [live], prompts, callbacks=[AtStep({2: spoil, 4: publish})], **settings
    )
    trainer.train()
    assert logged(trainer, "live_reward/version") == [1.0, 3.0]  # the last one, and no mean of several
    (warning,) = [message for message in caplog.messages if message.startswith("going on with")]
    assert warning.startswith("going on with reward-0001, for the version in service cannot be read: ")
    assert "reward-0002" in warning


@pytest.mark.parametrize(("kind", "damage"), [("grpo", "gone"), ("ppo", "changed")])
def test_a_run_does_not_begin_or_resume_with_a_version_that_cannot_be_read(
    kind, damage, tiny_policy, tmp_path, prompts, registry, publish
):
    first = publish()
    settings = {"max_steps": 1, "refresh_mode": "follow", "save_strategy": "steps", "save_steps": 1}
    make(kind, tiny_policy, tmp_path, [LiveReward(registry)], prompts, **settings).train()
    folder = registry.path(first)
    shutil.rmtree(folder) if damage == "gone" else (folder / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match=f"{first}.*; restore them from a copy, or go back to an earlier version"):
        make(kind, tiny_policy, tmp_path, [LiveReward(registry)], prompts, **settings)
    publish()
    trainer = make(kind, tiny_policy, tmp_path, [LiveReward(registry)], prompts, **{**settings, "max_steps": 2})
    with pytest.raises(RegistryError, match=f"{first}"):
        trainer.train(resume_from_checkpoint=True)
