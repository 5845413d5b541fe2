"""PPO's own settings, in real runs and where they are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from online_trl.config import ConfigError
from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer
from online_trl.registry import ModelRegistry
from online_trl.rewards.anchors import Anchor, AnchorSet, Standard
from online_trl.rewards.scorer import LiveReward, RewardScorer
from online_trl.types import ModelRole
from trainer_runs import brevity, logged, make, ones, rollout

ROOT = Path(__file__).parents[2]
# A reference that the policy differs from, so that there is a KL divergence from the first rollout on.
DRIFTED = {"max_steps": 1, "beta": 0.5, "learning_rate": 0.0}


def drift(trainer):
    with torch.no_grad():
        for parameter in trainer.model.base_model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize(("estimator", "formula"), [("k1", lambda log_ratio: log_ratio), ("k3", None)])
def test_the_kl_penalty_goes_into_the_reward_of_each_token(estimator, formula, tiny_policy, tmp_path, prompts):
    settings = {"beta": 0.5, "kl_estimator": estimator, "gamma": 1.0, "lam": 1.0}
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts, **settings)
    drift(trainer)
    batch = rollout(trainer)
    mask = batch["completion_mask"]
    log_ratio = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]) * mask
    kl = log_ratio if formula else (torch.exp(-log_ratio) - 1 + log_ratio) * mask
    # With a critic that says 0 and nothing discounted, a return is the sum of the rewards from a token on.
    expected = (1.0 - 0.5 * kl.flip(1).cumsum(1).flip(1)) * mask
    torch.testing.assert_close(batch["returns"], expected)
    assert trainer._metrics["train"]["objective/kl"] == [pytest.approx(kl.sum(1).mean().item(), rel=1e-4)]
    assert trainer._metrics["train"]["kl"] == [pytest.approx((kl.sum() / mask.sum()).item(), rel=1e-4)]


def test_the_kl_penalty_goes_into_the_loss_instead(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts, beta=0.5, kl_penalty="loss", gamma=1.0, lam=1.0)
    drift(trainer)
    batch = rollout(trainer)
    torch.testing.assert_close(batch["returns"], batch["completion_mask"].float())
    trainer.current_gradient_accumulation_steps = 1
    with_kl = trainer._compute_loss(trainer.model, batch)
    trainer.args.kl_penalty, kl = "reward", trainer._metrics["train"]["kl"][0]
    assert kl > 0
    torch.testing.assert_close(with_kl, trainer._compute_loss(trainer.model, batch) + 0.5 * kl)
    assert trainer.beta == 0.5


def test_a_completion_that_did_not_end_pays_the_penalty(tiny_policy, tmp_path, prompts):
    def scores(folder, **settings):
        trainer = make("ppo", tiny_policy, tmp_path / folder, ones, prompts, beta=0.0, lam=1.0, **settings)
        # Every second prompt is answered with the end alone.
        end = trainer.processing_class.eos_token_id
        generate = trainer._generate_single_turn

        def cut_short(*args, **kwargs):
            completion_ids, *others = generate(*args, **kwargs)
            completion_ids = [[end] if row % 2 else ids for row, ids in enumerate(completion_ids)]
            return completion_ids, *others

        trainer._generate_single_turn = cut_short
        return rollout(trainer)["returns"][:, 0].tolist()

    # 256 tokens, 8 each: that one of the others ends by chance is not seen with this seed.
    assert scores("without") == [1.0] * 8
    assert scores("with", missing_eos_penalty=0.75) == [0.25, 1.0] * 4


def test_whitened_rewards_have_variance_one_over_all_tokens(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, beta=0.0, whiten_rewards=True, gamma=0.0)
    batch = rollout(trainer)
    rewards = batch["returns"][batch["completion_mask"].bool()]  # with nothing to come, a return is the reward
    assert rewards.var().item() == pytest.approx(1.0, rel=1e-4)
    advantages = batch["advantages"][batch["completion_mask"].bool()]
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert advantages.var().item() == pytest.approx(1.0, rel=1e-4)


def test_what_no_reward_was_given_for_moves_neither_policy_nor_critic(tiny_policy, tmp_path, prompts):
    def none_at_all(completions, **columns):
        return [None] * len(completions)

    trainer = make("ppo", tiny_policy, tmp_path, none_at_all, prompts, max_steps=2)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert logged(trainer, "value_loss") == [0.0, 0.0]
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


def test_masked_completions_leave_the_losses_finite(tiny_policy, tmp_path, prompts):
    settings = {"mask_truncated_completions": True, "missing_eos_penalty": 1.0, "whiten_rewards": True}
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts, max_completion_length=1, **settings)
    trainer.train()
    assert logged(trainer, "loss") == logged(trainer, "value_loss") == [0.0] * 4
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_gradients_do_not_depend_on_how_a_batch_is_cut(tiny_policy, tmp_path, prompts):
    def gradients(folder, **settings):
        trainer = make("ppo", tiny_policy, tmp_path / folder, brevity, prompts, max_steps=1, **settings)
        end = trainer.processing_class.eos_token_id
        generate = trainer._generate_single_turn

        def of_many_lengths(*args, **kwargs):
            completion_ids, *others = generate(*args, **kwargs)
            return [[*ids[:row], end] for row, ids in enumerate(completion_ids)], *others

        trainer._generate_single_turn = of_many_lengths
        found = {}
        trainer.accelerator.clip_grad_norm_ = lambda parameters, *args, **kwargs: found.update(
            {name: each.grad.clone() for name, each in trainer.model.named_parameters() if each.grad is not None}
        )
        trainer.train()
        return found, logged(trainer, "value_loss")

    whole, loss = gradients("whole", critic="head")
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    parts, loss_of_parts = gradients("parts", critic="head", **cut)
    assert loss_of_parts == pytest.approx(loss, rel=1e-4)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6)


def test_the_table_of_completions_shows_what_the_critic_makes_of_each(tiny_policy, tmp_path, prompts):
    settings = {"log_completions": True, "num_completions_to_print": 0, "max_steps": 1, "learning_rate": 0.0}
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, beta=0.0, lam=1.0, **settings)
    trainer.train()
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    # With a critic that says 0, every token of a completion has the advantage of its reward among those of all tokens.
    assert table["advantage"].tolist() == pytest.approx(_whitened(table["brevity"]), abs=1e-4)
    assert table["advantage"].std() > 0.5


def _whitened(rewards):
    tokens = torch.tensor(rewards.tolist()).repeat_interleave(8)
    return ((tokens - tokens.mean()) / tokens.std())[::8].tolist()


def test_a_rollout_is_used_for_several_epochs_of_minibatches(tiny_policy, tmp_path, prompts):
    settings = {"num_iterations": 2, "steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_steps": 8}
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, per_device_train_batch_size=4, **settings)
    seen, compute_loss = [], trainer._compute_loss

    def recording(model, inputs):
        seen.append((len(inputs["returns"]), inputs["returns"].sum().item()))
        return compute_loss(model, inputs)

    trainer._compute_loss = recording
    trainer.train()
    assert len(logged(trainer, "objective/scores")) == 2  # rollouts, of 4 minibatches of 4, each used twice
    assert [size for size, _ in seen] == [4] * 16
    first, second = seen[:8], seen[8:]
    assert first[:4] == first[4:]
    assert second[:4] == second[4:]
    assert len({total for _, total in seen}) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "`gamma` is 1.5; it must be between 0.0 and 1.0"),
        ({"missing_eos_penalty": -1.0}, "`missing_eos_penalty` is -1.0; it must be at least 0.0"),
        ({"kl_estimator": "k2"}, "unknown kl_estimator `k2`; did you mean `k3`"),
        ({"kl_penalty": "rewards"}, "unknown kl_penalty `rewards`; did you mean `reward`"),
        ({"kl_penalty": "loss", "kl_estimator": "k1"}, "`kl_estimator` is `k1`, which has no useful gradient"),
        ({"kl_penalty": "loss", "beta": 0.0}, "`kl_penalty` is `loss`, but `beta`"),
        ({"loss_type": "sapo"}, "unknown loss_type `sapo`; did you mean `dapo`"),
        ({"use_liger_kernel": True}, "`use_liger_kernel` computes a loss that has no room for the critic's"),
        ({"sync_ref_model": True}, "`sync_ref_model` copies the policy with its critic"),
        ({"scale_rewards": "none"}, "`scale_rewards` scales within groups, which PPO has not"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalises within groups, which PPO has not"),
    ],
)
def test_a_mistake_in_the_settings_is_found_at_once(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        OnlinePPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


PICTURE = [{"role": "assistant", "content": None}]
PICTURE += [{"role": "user", "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "what?"}]}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": PICTURE}, "the prompts of `{}` hold images, which PPO's critic cannot see"),
        ({"prompt": [], "image": "cat.png"}, "`{}` has a column `image`, which PPO's critic cannot see"),
        # A later row may hold one.
        ({"prompt": [], "images": []}, "`{}` has a column `images`, .*; remove the column if it holds none"),
    ],
)
@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_prompts_with_images_are_refused_before_a_model_is_loaded(name, row, message, tmp_path):
    args = OnlinePPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ConfigError, match=message.format(name)):
        OnlinePPOTrainer("no/such-model", brevity, args, **{name: Dataset.from_list([row])})


@pytest.mark.parametrize("zero", [{"stage": 3}, {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}])
def test_a_zero3_that_would_save_no_critic_is_refused_before_a_model_is_loaded(zero, tmp_path, prompts):
    config = HfDeepSpeedConfig({"zero_optimization": zero})  # which is in force as long as it is held
    try:
        with pytest.raises(ConfigError, match="set `stage3_gather_16bit_weights_on_model_save` to true"):
            make("ppo", "no/such-model", tmp_path, brevity, prompts)
    finally:
        unset_hf_deepspeed_config()
        del config


@pytest.mark.parametrize("batch_size", [1, 3])
def test_any_batch_size_goes_with_one_completion_per_prompt(batch_size, tmp_path):
    args = OnlinePPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        eval_strategy="steps",
        eval_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    assert (args.num_generations, args.generation_batch_size) == (1, batch_size)
    assert type(args.num_generations) is int


EVERY_KIND = ["model", "head", "model-on-lora", "head-on-lora", "adapter-on-lora"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("accelerate_config", [f"accelerate_{name}_cpu.yaml" for name in ("ddp", "zero2", "zero3")])
@pytest.mark.slow
def test_two_processes_train_save_and_resume_every_kind_of_critic(accelerate_config, tiny_policy, tmp_path):
    """Beside the runs of `test_sharding.py`, which have a critic of their own and one on an adapter."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += [
        "--config_file",
        str(ROOT / "ds_configs" / accelerate_config),
        str(ROOT / "tests" / "sharded_critics.py"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*command, tiny_policy, str(tmp_path), *EVERY_KIND], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for kind in EVERY_KIND:
        folder = tmp_path / kind
        result = json.loads((folder / "result.json").read_text())
        # The first two steps do not reach every factor of an adapter, whose product begins at 0.
        assert set(result["moved"]) <= set(result["trained"])
        assert "critic.head.weight" in result["moved"]
        assert result["not_resumed"] == []
        assert result["value_loss"][1] < result["value_loss"][0]
        gathered = torch.load(folder / "gathered.pt")
        critic = load_file(next((folder / "saved" / "critic").glob("*.safetensors")))
        prefix = "critic.model." if kind.startswith("model") else "critic."
        assert all(weight.equal(gathered[prefix + name]) for name, weight in critic.items())
        (policy,) = (folder / "saved").glob("*.safetensors")
        assert not any("critic" in name or "score" in name for name in load_file(policy))


class SwapAt(TrainerCallback):
    """Puts a reward version into service, as a process beside the trainer would."""

    def __init__(self, registry, version, step):
        self.registry, self.version, self.step = registry, version, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.registry.promote(self.version, "a test")


def publish_rewards(registry, policy, *, scales, with_anchors):
    """Publishes reward models whose raw scores differ in scale, and so in their mean; the first one goes live."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    anchors = tuple(
        Anchor([{"role": "user", "content": f"seed {index}"}, {"role": "assistant", "content": "quick dog" * index}])
        for index in range(16)
    )
    head = torch.randn_like(model.score.weight)
    names = []
    for scale in scales:
        torch.nn.init.zeros_(model.score.weight).data.add_(scale * head)

        def write(folder):
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
            if with_anchors:
                scores = RewardScorer(folder).raw_scores([anchor.conversation for anchor in anchors])
                Standard(AnchorSet(anchors), scores.tolist()).write(folder)

        names.append(registry.publish(ModelRole.REWARD, write).name)
    registry.promote(names[0], "a test")
    return names


def test_a_swap_of_the_reward_model_does_not_shake_the_values(tiny_policy, tmp_path, prompts):
    def value_losses(folder, *, with_anchors):
        registry = ModelRegistry(tmp_path / folder)
        _, larger = publish_rewards(registry, tiny_policy, scales=(1.0, 10.0), with_anchors=with_anchors)
        settings = {"refresh_mode": "follow", "num_iterations": 1, "cliprange_value": 5.0, "vf_coef": 1.0}
        settings |= {"max_steps": 12, "per_device_train_batch_size": 16}
        trainer = make("ppo", tiny_policy, tmp_path / "out", [LiveReward(registry)], prompts, **settings)
        trainer.callback_handler.callbacks.insert(0, SwapAt(registry, larger, 8))
        trainer.train()
        assert trainer.live_reward.versions_used == ["reward-0001", "reward-0002"]
        losses = logged(trainer, "value_loss")
        return sum(losses[:8]) / 8, max(losses[8:])

    before, after = value_losses("standardised", with_anchors=True)
    assert after < 2 * before
    before, after = value_losses("raw", with_anchors=False)
    assert after > 20 * before
