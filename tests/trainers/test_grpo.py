"""Everything that TRL's `GRPOTrainer` can do, in `OnlineGRPOTrainer`: with a live reward, a log or neither."""

import warnings
from importlib import resources

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from feedback import add_comparisons
from hub_server import hub_server
from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.rewards.scorer import LiveReward
from online_trl.rewards.sources import RewardSource
from trainer_runs import LOSS_TYPES, REWARD, SETTINGS, brevity, logged, make


def losses(trainer_type, config_type, model, output_dir, prompts, **settings):
    args = config_type(output_dir=str(output_dir), **{**SETTINGS, "num_generations": 4, "max_steps": 2, **settings})
    trainer = trainer_type(model, brevity, args, train_dataset=prompts)
    trainer.train()
    return logged(trainer, "loss")


@pytest.mark.parametrize(
    "settings",
    [
        *({"loss_type": loss_type, "num_iterations": 2} for loss_type in LOSS_TYPES),
        {"loss_type": "grpo", "beta": 0.1, "gradient_accumulation_steps": 2, "steps_per_generation": 4},
        {"importance_sampling_level": "sequence", "scale_rewards": "batch", "num_iterations": 2},
        {"top_entropy_quantile": 0.5, "entropy_coef": 0.01},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_with_the_online_parts_off_the_losses_are_those_of_trl(settings, tiny_policy, tmp_path, prompts):
    ours = losses(OnlineGRPOTrainer, OnlineGRPOConfig, tiny_policy, tmp_path / "a", prompts, **settings)
    theirs = losses(GRPOTrainer, GRPOConfig, tiny_policy, tmp_path / "b", prompts, **settings)
    assert ours == theirs
    assert len(ours) == 2
    assert any(loss != 0 for loss in ours)


@pytest.fixture
def live(store, registry):
    add_comparisons(store, 40)
    return {"reward_funcs": [LiveReward(registry), brevity], "store": store}


def run(live, model, output_dir, prompts, *, args=None, **settings):
    """Trains two steps or more on a live reward and a log; `args` go to the trainer itself."""
    settings = {"num_generations": 4, "max_steps": 2, "reward_config": REWARD, "refresh_steps": 0, **settings}
    config = OnlineGRPOConfig(output_dir=str(output_dir), **{**SETTINGS, **settings})
    trainer = OnlineGRPOTrainer(model, args=config, train_dataset=prompts, **live, **(args or {}))
    trainer.train()
    return trainer


def test_an_adapter_is_trained_alone_and_saved(live, tiny_policy, tmp_path, prompts):
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = {"beta": 0.1, "num_iterations": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 2}
    trainer = run(live, tiny_policy, tmp_path, prompts, args={"peft_config": lora}, max_steps=4, **settings)
    before = AutoModelForCausalLM.from_pretrained(tiny_policy).state_dict()
    after = trainer.model.get_base_model().state_dict()
    assert all(torch.equal(before[name], after[name.replace("_proj.", "_proj.base_layer.")]) for name in before)
    assert any(weight.abs().sum() > 0 for name, weight in after.items() if "lora_B" in name)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()
    assert set(logged(trainer, "live_reward/version")) == {1.0}


def test_plain_prompts_are_trained_on(tiny_policy, tmp_path):
    plain = Dataset.from_list([{"prompt": f"seed {index}", "answer": index} for index in range(16)])
    seen = []

    def answers(prompts, completions, answer, **columns):
        seen.extend(zip(prompts, answer, strict=True))
        return [float(len(completion)) for completion in completions]

    trainer = make("grpo", tiny_policy, tmp_path, answers, plain, max_steps=2)
    trainer.train()
    assert len(seen) == 16
    assert all(prompt == f"seed {index}" for prompt, index in seen)


def test_a_streamed_dataset_takes_fresh_prompts(live, tiny_policy, tmp_path, prompts):
    asked = []

    def note(prompts, completions, interaction_id, **columns):
        asked.extend(
            (prompt[0]["content"].split()[0], one) for prompt, one in zip(prompts, interaction_id, strict=True)
        )
        return [0.0] * len(prompts)

    live["reward_funcs"].append(note)
    run(live, tiny_policy, tmp_path, prompts.to_iterable_dataset())
    # Two prompts a step with four completions each, of which the first step takes one from the log.
    assert [word for word, _ in asked].count("question") == 4
    assert all((one is not None) == (word == "question") for word, one in asked)


def test_evaluation_keeps_to_its_prompts_and_teaches_nothing(store, tiny_policy, tmp_path, prompts):
    add_comparisons(store, 20)
    held_out = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"held out {index}"}]} for index in range(8)]
    )
    seen = {True: [], False: []}

    def watched(prompts, completions, **columns):
        seen[trainer.model.training].extend(prompt[0]["content"] for prompt in prompts)
        return [float(len(completion[0]["content"])) for completion in completions]

    settings = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 8}
    config = OnlineGRPOConfig(
        output_dir=str(tmp_path), **{**SETTINGS, "num_generations": 4, "max_steps": 2, **settings}
    )
    trainer = OnlineGRPOTrainer(
        tiny_policy,
        RewardSource(reward=watched, name="watched", normalise="running"),
        config,
        train_dataset=prompts,
        eval_dataset=held_out,
        store=store,
    )
    trainer.train()
    assert len(seen[False]) == 2 * 8 * 4  # two evaluations of eight prompts with four completions each
    assert all(text.startswith("held out") for text in seen[False])
    assert not any(text.startswith("held out") for text in seen[True])
    assert trainer.reward_sources.state_dict()[0]["count"] == len(seen[True]) == 16
    assert len(logged(trainer, "eval_rewards/watched/raw_mean")) == 2
    cursor = trainer.online_collator.cursor
    trainer.evaluate()
    assert trainer.online_collator.cursor == cursor


class Ledger(TrainerCallback):
    """What an integration such as TensorBoard or Weights & Biases is."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs))


def test_what_is_logged_reaches_the_integrations(live, tiny_policy, tmp_path, prompts):
    ledger = Ledger()
    run(live, tiny_policy, tmp_path, prompts, args={"callbacks": [ledger]})
    row = ledger.rows[0]
    names = {"reward", "rewards/live_reward/mean", "rewards/brevity/mean", "live_reward/version", "loss", "step_time"}
    assert names <= set(row)


TOOL_CALL = '<tool_call>\n{"name": "double", "arguments": {"number": 21}}\n</tool_call>'


@pytest.fixture
def calling_policy(tiny_policy, tmp_path):
    """A policy whose template knows tools and which has a token for a whole tool call; and what makes it take that."""
    folder = tmp_path / "calling"
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", TOOL_CALL])
    tokenizer.eos_token = "<|im_end|>"
    template = resources.files("trl").joinpath("chat_templates/qwen3.jinja")
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    call, end = tokenizer.convert_tokens_to_ids([TOOL_CALL, "<|im_end|>"])
    return str(folder), {"sequence_bias": [[[call], 50.0], [[call, end], 100.0]]}


def double(number: int) -> int:
    """
    Doubles a number.

    Args:
        number: What to double.

    Returns:
        Twice the number.
    """
    return 2 * number


class Room:
    """An environment with a tool and a reward of its own."""

    def reset(self, **columns):
        self.prompts = [message["content"] for message in columns["prompt"]]

    def look(self) -> str:
        """Looks around."""
        return "nothing"

    def get_reward(self):
        return float(len(self.prompts))


def test_tools_are_called_and_an_environment_pays(live, calling_policy, tmp_path, prompts):
    model, forced = calling_policy
    settings = {"generation_kwargs": forced, "max_tool_calling_iterations": 2, "max_completion_length": 128}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'environment_factory'")
        trainer = run(
            live,
            model,
            tmp_path,
            prompts,
            args={"tools": [double], "environment_factory": Room},
            max_steps=1,
            per_device_train_batch_size=4,
            **settings,
        )
    assert logged(trainer, "tools/call_frequency") == [2.0]
    assert logged(trainer, "tools/failure_frequency") == [0.0]
    assert logged(trainer, "rewards/Room/mean") == [1.0]
    assert logged(trainer, "rewards/Room/not_applicable") == [0.0]
    assert len(logged(trainer, "rewards/live_reward/mean")) == 1


def test_a_rollout_of_ones_own_is_scored(live, tiny_policy, tmp_path, prompts):
    told = []

    def rollout(prompts, trainer):
        encoded = trainer.processing_class.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
        answers = trainer.processing_class(["yes", "no"] * (len(prompts) // 2))["input_ids"]
        zeros = [[0.0] * len(ids) for ids in answers]
        turns = [len(prompt) for prompt in prompts]
        return {"prompt_ids": encoded, "completion_ids": answers, "logprobs": zeros, "turns": turns}

    def turns_taken(completions, turns, **columns):
        told.extend(turns)
        return [float(one) for one in turns]

    live["reward_funcs"].append(turns_taken)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func'")
        trainer = run(live, tiny_policy, tmp_path, prompts, args={"rollout_func": rollout})
    assert told == [1] * 16
    assert logged(trainer, "rewards/brevity/mean") == pytest.approx([-0.25, -0.25])
    assert logged(trainer, "rewards/live_reward/std")[0] > 0


def test_vllm_is_left_to_trl(tiny_policy, tmp_path, prompts):
    # It cannot be installed where the tests run: TRL's own check is what the settings reach.
    with pytest.raises(ImportError, match="vLLM is not available"):
        make("grpo", tiny_policy, tmp_path, brevity, prompts, use_vllm=True, vllm_mode="colocate")


def test_completions_come_from_continuous_batching(live, tiny_policy, tmp_path, prompts):
    small = {"num_blocks": 32, "max_batch_tokens": 64}
    batching = {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": small}
    trainer = run(live, tiny_policy, tmp_path, prompts, max_steps=1, **batching)
    assert logged(trainer, "completions/mean_length")[0] > 0
    assert len(logged(trainer, "rewards/live_reward/mean")) == 1


def test_the_policy_is_pushed_to_the_hub_with_our_tag(live, tiny_policy, tmp_path, prompts, monkeypatch):
    with hub_server() as (url, files):
        monkeypatch.setattr("transformers.utils.hub._hf_api", HfApi(endpoint=url, token="hf_test"))
        run(
            live, tiny_policy, tmp_path / "out", prompts, max_steps=1, push_to_hub=True, hub_model_id="ours/policy"
        ).push_to_hub()
    pushed = {path.removeprefix("ours/policy/"): content for path, content in files.items()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training_args.bin"} <= set(pushed)
    assert pushed["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert {"trl", "grpo", "online-trl"} <= set(ModelCard(pushed["README.md"].decode()).data.tags)
