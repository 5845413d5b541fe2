"""What a rollout of PPO holds for the loss, token by token, and what of the settings the loss takes."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from online_trl.config import ConfigError
from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer
from trainer_runs import brevity, logged, make, ones, rollout


def says_the_token(trainer):
    """Makes the critic value each state by the last token that led to it."""
    trainer.model.critic.forward = lambda input_ids, attention_mask: input_ids.float()


def test_a_value_is_that_of_the_state_before_its_token(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts)
    says_the_token(trainer)
    batch = rollout(trainer)
    before = torch.cat([batch["prompt_ids"][:, -1:], batch["completion_ids"][:, :-1]], dim=1)
    assert torch.equal(batch["old_values"], before.float() * batch["completion_mask"])


def test_scores_add_up_by_their_weights(tiny_policy, tmp_path, prompts):
    settings = {"reward_weights": [2.0, 0.5], "beta": 0.0, "gamma": 1.0, "lam": 1.0}
    trainer = make("ppo", tiny_policy, tmp_path, [ones, lambda completions, **columns: [3.0] * 8], prompts, **settings)
    batch = rollout(trainer)
    # The critic says 0, and the reward comes with the last token.
    torch.testing.assert_close(batch["returns"], 3.5 * batch["completion_mask"])


def test_completions_without_a_reward_are_neither_learned_from_nor_counted(tiny_policy, tmp_path, prompts):
    def every_second(completions, **columns):
        return [1.0, None] * (len(completions) // 2)

    trainer = make("ppo", tiny_policy, tmp_path, every_second, prompts, beta=0.5)
    says_the_token(trainer)
    batch = rollout(trainer)
    assert batch["value_mask"].sum(dim=1).bool().tolist() == [True, False] * 4
    for name in ("advantages", "returns", "old_values"):
        assert not batch[name][1::2].any()
        assert batch[name][::2].any()
    assert trainer._metrics["train"]["objective/scores"] == [1.0]


def test_what_a_tool_said_is_not_learned_from(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts)
    batch = rollout(trainer)
    batch["tool_mask"] = torch.ones_like(batch["completion_mask"])
    batch["tool_mask"][:, 2:4] = 0
    assert torch.equal(trainer._learnable(batch), batch["completion_mask"] * batch["tool_mask"])


def test_each_rank_is_paid_for_its_own_completions(tiny_policy, tmp_path, prompts, monkeypatch):
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts)
    for rank in (0, 1):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", rank)
        assert trainer._local(torch.arange(8), 4).tolist() == list(range(4 * rank, 4 * rank + 4))


def loss_of(trainer, batch, **settings):
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    trainer.current_gradient_accumulation_steps = 1
    return trainer._compute_loss(trainer.model, batch).item()


def test_the_value_loss_has_its_coefficient_and_its_clip_range(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts)
    batch = rollout(trainer)
    without = loss_of(trainer, batch, vf_coef=0.0)
    (value_loss,) = trainer._metrics["train"]["value_loss"]
    assert loss_of(trainer, batch, vf_coef=0.7) == pytest.approx(without + 0.7 * value_loss, rel=1e-5)
    # The values have moved past what was asked of them: only what lies within the clip range counts.
    trainer.model.critic.forward = lambda input_ids, attention_mask: torch.full(input_ids.shape, 5.0)
    batch["old_values"], batch["returns"] = torch.zeros_like(batch["returns"]), batch["value_mask"] * 5.0
    losses = [loss_of(trainer, batch, vf_coef=1.0, cliprange_value=clip) - without for clip in (0.5, 4.0)]
    assert losses == pytest.approx([0.5 * 4.5**2, 0.5 * 1.0**2], rel=1e-4)


def test_every_end_that_the_model_knows_is_an_end(tiny_policy, tmp_path, prompts):
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    model.generation_config.eos_token_id = [model.config.eos_token_id, 7]
    trainer = make("ppo", model, tmp_path, ones, prompts)
    assert sorted(trainer._eos_token_ids()) == sorted([model.config.eos_token_id, 7])


def test_the_critic_spares_its_activations_with_the_policy(tiny_policy, tmp_path, prompts):
    for setting in (False, True):
        trainer = make("ppo", tiny_policy, tmp_path, ones, prompts, gradient_checkpointing=setting)
        assert [model.is_gradient_checkpointing for model in trainer.model.critic.models] == [setting]


def test_plain_prompts_are_trained_on(tiny_policy, tmp_path, prompts):
    plain = prompts.map(lambda row: {"prompt": row["prompt"][0]["content"]})

    def length(completions, **columns):
        return [len(completion) / 10 for completion in completions]

    trainer = make("ppo", tiny_policy, tmp_path, length, plain, max_steps=2)
    trainer.train()
    assert logged(trainer, "reward")[0] > 0


def test_an_optimiser_that_does_not_know_the_critic_is_refused_before_a_model_is_loaded(tmp_path, prompts):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    args = OnlinePPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ConfigError, match="does not know the critic"):
        OnlinePPOTrainer("no/such-model", brevity, args, prompts, optimizers=(optimizer, None))
