"""What can go wrong with prompts, completions and rewards, in both trainers."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import GRPOConfig

from feedback import add_comparisons
from online_trl.config import ConfigError
from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.rewards.functions import RewardFunctionError
from online_trl.rewards.scorer import LiveReward
from trainer_runs import REWARD, SETTINGS, TRAINERS, brevity, logged, make, ones

LONG = " ".join(["lazy dog"] * 16)


@pytest.fixture(params=TRAINERS)
def kind(request):
    return request.param


def assert_finite(trainer):
    assert all(math.isfinite(loss) for loss in logged(trainer, "loss"))
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_empty_completions_are_scored_and_learned_from(kind, tiny_policy, tmp_path, prompts, store, registry):
    add_comparisons(store, 40)
    end = AutoTokenizer.from_pretrained(tiny_policy).eos_token_id
    rewards, nothing = [LiveReward(registry), brevity], {"sequence_bias": [[[end], 100.0]]}
    settings = {"max_steps": 2, "refresh_steps": 0, "reward_config": REWARD, "generation_kwargs": nothing}
    trainer = make(kind, tiny_policy, tmp_path, rewards, prompts, store=store, **settings)
    trainer.train()
    assert logged(trainer, "completions/max_length")[0] == 1.0
    assert logged(trainer, "rewards/brevity/mean")[0] == 0.0
    assert math.isfinite(logged(trainer, "rewards/live_reward/mean")[0])
    assert_finite(trainer)


def test_a_batch_in_which_every_completion_is_cut_off_teaches_nothing(kind, tiny_policy, tmp_path, prompts):
    settings = {"mask_truncated_completions": True, "max_completion_length": 1, "beta": 0.0, "max_steps": 1}
    trainer = make(kind, tiny_policy, tmp_path, brevity, prompts, **settings)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert logged(trainer, "completions/clipped_ratio")[0] == 1.0
    assert all(torch.equal(before[name], weight) for name, weight in trainer.model.named_parameters())


def test_equal_rewards_leave_the_policy_of_grpo_as_it_is(tiny_policy, tmp_path, prompts):
    trainer = make("grpo", tiny_policy, tmp_path, ones, prompts, max_steps=2)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert logged(trainer, "loss") == [0.0, 0.0]
    assert logged(trainer, "frac_reward_zero_std") == [1.0, 1.0]
    assert all(torch.equal(before[name], weight) for name, weight in trainer.model.named_parameters())


def test_equal_rewards_teach_the_critic_of_ppo(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, ones, prompts)
    trainer.train()
    assert not logged(trainer, "frac_reward_zero_std")  # said of groups, with one completion in each
    assert logged(trainer, "value_loss")[-1] < logged(trainer, "value_loss")[0]
    assert_finite(trainer)


def test_a_function_may_leave_completions_out(kind, tiny_policy, tmp_path, prompts):
    def every_second(completions, **columns):
        return [None if index % 2 else 1.0 for index in range(len(completions))]

    trainer = make(kind, tiny_policy, tmp_path, every_second, prompts, max_steps=2)
    trainer.train()
    assert logged(trainer, "rewards/every_second/mean")[0] == 1.0
    assert logged(trainer, "rewards/every_second/not_applicable")[0] == 0.5
    assert_finite(trainer)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_function_that_gives_no_number_stops_the_step(value, kind, tiny_policy, tmp_path, prompts):
    def divided(completions, **columns):
        return [1.0] * (len(completions) - 1) + [value]

    trainer = make(kind, tiny_policy, tmp_path, [brevity, divided], prompts)
    with pytest.raises(
        RewardFunctionError, match=rf"divided` returned {value} for completion 7 of a batch of 8 completions at step 0"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


class Diverge(TrainerCallback):
    """Makes the live reward say nothing, after the first step."""

    def on_step_end(self, args, state, control, **kwargs):
        torch.nn.init.constant_(self.live.scorer.model.score.weight, torch.nan)


def test_a_live_reward_that_gives_no_number_stops_the_step(kind, tiny_policy, tmp_path, prompts, store, registry):
    add_comparisons(store, 40)
    settings = {"num_iterations": 1, "refresh_steps": 0, "reward_config": REWARD}
    trainer = make(kind, tiny_policy, tmp_path, [brevity, LiveReward(registry)], prompts, store=store, **settings)
    diverge = Diverge()
    diverge.live = trainer.live_reward
    trainer.add_callback(diverge)
    with pytest.raises(
        RewardFunctionError,
        match=r"`live_reward` gave nan for completion 0 of a batch of 8 completions at step 1, and 8",
    ):
        trainer.train()


def test_a_reward_model_that_gives_no_number_stops_the_step(tiny_policy, tmp_path, prompts):
    folder = tmp_path / "quality"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_policy, num_labels=1)
    torch.nn.init.constant_(model.score.weight, torch.inf)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_policy).save_pretrained(folder)
    trainer = make("grpo", tiny_policy, tmp_path / "out", [brevity, str(folder)], prompts)
    with pytest.raises(
        RewardFunctionError, match=r"the reward model `.*/quality` gave (nan|-?inf) for completion 0 of"
    ):
        trainer.train()


@pytest.fixture
def mixed():
    """Eight short prompts, and eight that take more than 24 tokens."""
    texts = [*(f"seed {index}" for index in range(8)), *(f"{LONG} {index}" for index in range(8))]
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])


def test_long_prompts_of_a_dataset_are_left_out(kind, tiny_policy, tmp_path, mixed, caplog):
    trainer = make(kind, tiny_policy, tmp_path, brevity, mixed, max_steps=2, max_prompt_length=24)
    assert len(trainer.train_dataset) == 8
    (warning,) = [message for message in caplog.messages if "max_prompt_length" in message]
    assert warning.startswith(
        "8 of the 16 prompts of `train_dataset` are longer than `max_prompt_length`, which is 24"
    )
    trainer.train()
    assert logged(trainer, "prompts/dropped")[0] == 8


def test_long_prompts_of_a_stream_and_of_the_log_are_left_out(kind, tiny_policy, tmp_path, mixed, store):
    add_comparisons(store, 3)
    add_comparisons(store, 3, prompt=LONG)
    seen = []

    def watched(prompts, completions, **columns):
        seen.extend(prompt[0]["content"] for prompt in prompts)
        return [float(len(completion[0]["content"])) for completion in completions]

    settings = {"max_prompt_length": 24, "max_steps": 2, "num_iterations": 1}
    trainer = make(kind, tiny_policy, tmp_path, watched, mixed.to_iterable_dataset(), store=store, **settings)
    trainer.train()
    assert len(seen) == 16
    assert any(text.startswith("question") for text in seen)
    assert not any(text.startswith(LONG) for text in seen)
    assert logged(trainer, "prompts/dropped")[0] >= 6  # two answers to each of the three in the log


class Look(TrainerCallback):
    """Takes the completions that the step was made of."""

    def on_step_end(self, args, state, control, **kwargs):
        (self.batch,) = self.trainer._buffered_inputs


def test_long_prompts_are_cut_to_their_last_tokens(kind, tiny_policy, tmp_path, mixed):
    cut = {"max_prompt_length": 24, "long_prompts": "truncate", "max_steps": 1}
    long = mixed.select(range(8, 16))
    trainer = make(kind, tiny_policy, tmp_path, brevity, long, **cut)
    look = Look()
    look.trainer = trainer
    trainer.add_callback(look)
    trainer.train()
    whole = trainer.processing_class.apply_chat_template(list(long["prompt"]), add_generation_prompt=True)["input_ids"]
    assert all(row in [ids[-24:] for ids in whole] for row in look.batch["prompt_ids"].tolist())
    assert logged(trainer, "prompts/truncated") == [1.0]


def test_evaluation_prompts_may_be_of_any_length(tiny_policy, tmp_path, mixed):
    trainer = make("grpo", tiny_policy, tmp_path, brevity, mixed, max_prompt_length=24, long_prompts="truncate")
    trainer.model.eval()
    assert max(len(ids) for ids in trainer._tokenize_prompts(list(mixed["prompt"]))[0]) > 24


def test_a_dataset_of_long_prompts_alone_is_refused(tiny_policy, tmp_path, mixed):
    with pytest.raises(ConfigError, match="every prompt of `train_dataset` is longer than `max_prompt_length`"):
        make("grpo", tiny_policy, tmp_path, brevity, mixed, max_prompt_length=1)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"long_prompts": "truncate"}, {"rollout_func": ones}, "a `rollout_func` tokenises its prompts itself"),
        ({}, {"environment_factory": dict}, "known only once its environment has added to it"),
        ({}, {"environment_factory": {"room": dict}, "store": "a log"}, "with several environments each prompt"),
        ({"dataloader_num_workers": 2}, {"store": "a log"}, "`dataloader_num_workers` is 2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_a_model_is_loaded(settings, given, message, tmp_path):
    args = OnlineGRPOConfig(output_dir=str(tmp_path), max_prompt_length=8, **SETTINGS, **settings)
    with pytest.raises(ConfigError, match=message):
        OnlineGRPOTrainer("no/such-model", brevity, args, **given)


def test_arguments_without_our_fields_are_refused(tmp_path):
    args = GRPOConfig(output_dir=str(tmp_path), **SETTINGS)
    with pytest.raises(TypeError, match="`args` is a `GRPOConfig`; it must be an `OnlineGRPOConfig`"):
        OnlineGRPOTrainer("no/such-model", brevity, args)
