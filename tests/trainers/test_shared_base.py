"""Policy, critic, reward model and reference on one base model in memory, through refreshes of the reward model."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from feedback import WriteEachStep, add_comparisons
from memory import models_of, weights_in_memory
from online_trl.registry import ModelRegistry
from online_trl.rewards.reward_trainer import OnlineRewardConfig, OnlineRewardTrainer, save_merged
from online_trl.rewards.scorer import LiveReward, RewardScorer
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole
from trainer_runs import REWARD, make

LORA = {"r": 2, "target_modules": "all-linear"}
CONVERSATIONS = [
    [{"role": "user", "content": f"question {index}"}, {"role": "assistant", "content": "yes no"[: index % 7]}]
    for index in range(8)
]


def run(folder, tiny_policy, **settings):
    """Trains with a refresh before the first step and after each one."""
    rows = [{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(32)]
    settings |= {"refresh_steps": 1, "refresh_min_statements": 4, "max_steps": 2, "num_iterations": 1}
    settings |= {"reward_config": {**REWARD, "num_heads": 2}, "peft_config": LoraConfig(**LORA)}
    with FeedbackStore(f"sqlite:///{folder / 'log.db'}") as store:
        add_comparisons(store, 40)
        rewards = [LiveReward(ModelRegistry(folder / "registry"))]
        trainer = make("ppo", tiny_policy, folder / "out", rewards, Dataset.from_list(rows), store=store, **settings)
        trainer.add_callback(WriteEachStep(store))
        trainer.train()
    return trainer


@pytest.fixture(scope="module")
def trainer(tiny_policy, tmp_path_factory):
    """One whose reward model is refreshed by an adapter, as its policy is trained."""
    return run(tmp_path_factory.mktemp("shared"), tiny_policy, reward_lora=LORA)


@pytest.fixture
def registry(trainer):
    return trainer.live_reward.registry


def test_four_models_share_one_base_through_refreshes(trainer, registry):
    policy, live = trainer.model, trainer.live_reward
    assert live.version == registry.live(ModelRole.REWARD).name
    assert len(registry.versions(ModelRole.REWARD)) >= 2

    models = models_of(trainer)
    frozen = {id(each) for each in policy.get_base_model().parameters() if not each.requires_grad}
    reward = {id(each): name for name, each in models["reward model"].named_parameters()}
    own = {name for number, name in reward.items() if number not in frozen}
    assert all("lora_" in name or ".score." in name for name in own)
    assert sum("lora_" in name for name in own) == 2 * 14
    # Each of the three adapters is a few per cent of this tiny base; the embeddings are most of it.
    base = weights_in_memory([policy.get_base_model().get_submodule("model.embed_tokens")])
    assert weights_in_memory(models.values()) < 4 * base
    alone = sum(weights_in_memory([model]) for model in models.values())
    assert weights_in_memory(models.values()) < 0.45 * alone


def test_a_version_scores_the_same_whole_and_as_an_adapter(trainer, registry):
    base = trainer.live_reward.base
    before = [parameter.clone() for parameter in base.parameters()]
    for version in registry.versions(ModelRole.REWARD):
        folder = registry.path(version.name)
        AutoModelForSequenceClassification.from_pretrained(folder)
        whole, adapter = RewardScorer(folder), RewardScorer(folder, base=base)
        torch.testing.assert_close(adapter.raw_scores(CONVERSATIONS), whole.raw_scores(CONVERSATIONS))
    assert all(torch.equal(one, other) for one, other in zip(base.parameters(), before, strict=True))


def test_a_refresh_goes_on_with_the_adapter_of_the_version_in_service(registry):
    first, second, *_ = registry.versions(ModelRole.REWARD)
    before, after = (
        load_file(registry.path(version.name) / "adapter" / "adapter_model.safetensors") for version in (first, second)
    )
    assert before.keys() == after.keys()
    for name in before:
        if "lora_A" in name:  # a new adapter would draw it anew
            assert torch.cosine_similarity(before[name].flatten(), after[name].flatten(), dim=0) > 0.9
            assert not before[name].equal(after[name])


def test_what_training_goes_on_with_is_the_version_itself(registry, tiny_policy, tmp_path):
    folder = registry.path("reward-0001")
    row = {"prompt": CONVERSATIONS[0][:1], "completion": CONVERSATIONS[0][1:], "label": True}
    args = OnlineRewardConfig(
        output_dir=str(tmp_path / "reward"), num_heads=2, use_cpu=True, bf16=False, report_to="none"
    )
    again = OnlineRewardTrainer(
        tiny_policy, args, train_dataset=Dataset.from_list([row]), peft_config=LoraConfig(**LORA),
        adapter=folder / "adapter",
    )  # fmt: skip
    save_merged(again, tmp_path / "again")
    torch.testing.assert_close(
        RewardScorer(tmp_path / "again").raw_scores(CONVERSATIONS), RewardScorer(folder).raw_scores(CONVERSATIONS)
    )


def test_a_reward_model_that_is_trained_whole_shares_nothing(tiny_policy, tmp_path):
    trainer = run(tmp_path, tiny_policy)
    policy = {id(each) for each in trainer.model.parameters()}
    assert policy.isdisjoint(id(each) for each in trainer.live_reward.scorer.model.parameters())
    live = trainer.live_reward
    assert not (live.registry.path(live.version) / "adapter").exists()


def test_a_base_of_half_precision_takes_a_head_of_full_precision(trainer):
    scorer = trainer.live_reward.scorer
    before = scorer.raw_scores(CONVERSATIONS)
    base = trainer.model.get_base_model()
    try:
        base.to(torch.bfloat16)  # as DeepSpeed does with all parameters
        torch.testing.assert_close(scorer.raw_scores(CONVERSATIONS), before, atol=0.1, rtol=0.1)
    finally:
        base.float()
