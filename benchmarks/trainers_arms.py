"""
One run of one trainer for the benchmark of the trainers, in a process of its own:

    python benchmarks/trainers_arms.py ARM.json RESULT.json

where `ARM.json` holds the fields of [`Arm`]. TRL's `PPOTrainer` needs TRL 1.12 before the installed TRL in the path.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback

from online_trl.demo import prepare_process
from online_trl.registry import ModelRegistry
from online_trl.rewards.scorer import LiveReward
from online_trl.simulation import helpdesk
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction, ModelRole
from trainers_clock import Parts, StepClock, Turns, now, peak_memory
from trainers_models import random_prompts


@dataclass(frozen=True, kw_only=True)
class Arm:
    """
    What is run.

    Args:
        trainer (`str`):
            `grpo` or `ppo`.
        ours (`bool`):
            Our trainer, or TRL's.
        models (`str`):
            Folder with a `policy` and a `reward` model.
        task (`str`, *optional*, defaults to `"speed"`):
            `speed`: the reward model pays for answers of full length. `concise`: a function pays for short answers
            that name the item asked for, and how the reward rises is recorded.
        rollouts (`int`), batch (`int`), micro (`int`), tokens (`int`), words (`int`):
            Rollouts of the run, completions in each, how many go through a model at once, tokens of a completion and
            words of a prompt.
        epochs (`int`), generations (`int`):
            Epochs over a rollout, and completions per prompt.
        refresh_steps (`int`):
            Steps between two refreshes of the reward model; 0: none.
        settings (`dict`):
            Further settings of the trainer.
    """

    trainer: str
    ours: bool
    models: str
    task: str = "speed"
    rollouts: int = 12
    batch: int = 64
    micro: int = 64
    tokens: int = 48
    words: int = 16
    epochs: int = 1
    generations: int = 1
    refresh_steps: int = 0
    bf16: bool = False
    use_cpu: bool = True
    lora: bool = False
    seed: int = 0
    learning_rate: float = 1e-5
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> str:
        return str(Path(self.models) / "policy")

    @property
    def reward(self) -> str:
        return str(Path(self.models) / "reward")


class Concise:
    """A verifiable reward in [0, 1]: names the item asked for, in few words. It remembers the mean of each rollout."""

    __name__ = "concise"

    def __init__(self) -> None:
        self.means: list[float] = []

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        rewards = []
        for prompt, completion in zip(prompts, completions, strict=True):
            item = helpdesk.read_question(prompt[-1]["content"]).item
            words = helpdesk.words(completion[0]["content"])
            named = item in completion[0]["content"].lower()
            rewards.append(float(named) * min(1.0, 10 / max(1, len(words))))
        self.means.append(sum(rewards) / len(rewards))
        return rewards


class Users:
    """They ask and compare answers between two steps, so that there are fresh prompts and feedback."""

    def __init__(self, store: FeedbackStore, prompts: list[Any]) -> None:
        self.store = store
        self.prompts = prompts
        self.count = 0

    def talk(self, comparisons: int = 8) -> None:
        for _ in range(comparisons):
            prompt = self.prompts[self.count % len(self.prompts)]
            self.count += 1
            answers = self.store.add_interactions(
                [
                    Interaction(
                        # As long as those of the other side, which has no log: all of a batch are padded alike.
                        prompt=prompt,
                        completion=[{"role": "assistant", "content": text}],
                        policy_version="policy-0001",
                        session_id=f"session-{self.count}",
                        user_id=f"user-{self.count % 50}",
                    )
                    for text in ("w1 w2 w3", "w7 w8 w9")
                ]
            )
            ids = [answer.interaction_id for answer in answers]
            self.store.add_feedback(
                Feedback(
                    kind=FeedbackKind.COMPARISON, interaction_ids=ids, value="first", user_id=f"user-{self.count % 50}"
                )
            )


def run_arm(arm: Arm, folder: Path) -> dict[str, Any]:
    """Trains once and returns how fast, with how much memory, and where the time went."""
    concise = Concise()
    with FeedbackStore(f"sqlite:///{folder / 'log.db'}") as store:
        trainer, between = _make_trainer(arm, folder, store, concise)
        steps = arm.epochs if _steps_per_epoch(arm) else 1
        clock, parts = StepClock(between, Turns(os.environ.get("TURNS", ""), steps)), Parts()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        _watch(trainer, parts)
        started, _ = now()
        trainer.train()
        total = now()[0] - started
    rollouts = clock.rollouts
    processor = [busy for _, busy in rollouts]
    timed = sum(seconds for seconds, _ in clock.steps)
    return {
        **asdict(arm),
        "rollout_seconds": [by_clock for by_clock, _ in rollouts],
        "rollout_processor_seconds": processor,
        "processor_seconds": statistics.median(processor),
        "tokens_per_second": arm.batch * arm.tokens / statistics.median(by_clock for by_clock, _ in rollouts),
        "peak_memory": peak_memory(),
        "parts": {
            "refresh": 0.0,
            **parts.seconds,
            "the rest": total - clock.turns.waited - sum(parts.seconds.values()),
        },
        "refreshes": len(getattr(trainer, "refreshes", [])),
        "refresh_share": parts.seconds["refresh"] / timed,
        "curve": concise.means,
    }


def _steps_per_epoch(arm: Arm) -> bool:
    """Whether a step of the trainer is one epoch over the rollout; to TRL's `PPOTrainer` it is all of them."""
    return arm.ours or arm.trainer == "grpo"


def _make_trainer(arm: Arm, folder: Path, store: FeedbackStore, concise: Concise) -> tuple[Any, Callable[[], Any]]:
    prompts, between = _prompts(arm), lambda: None
    dataset = Dataset.from_dict({"prompt": prompts})
    if arm.trainer == "ppo" and not arm.ours:
        return _trl_ppo(arm, folder, dataset, concise), between
    reward: Any = concise if arm.task == "concise" else arm.reward
    options: dict[str, Any] = {"train_dataset": dataset, "peft_config": _lora() if arm.lora else None}
    if not arm.ours:
        from trl import GRPOConfig, GRPOTrainer

        return GRPOTrainer(arm.policy, reward, GRPOConfig(**_engine_settings(arm, folder)), **options), between
    if arm.trainer == "ppo":
        from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer

        settings = {**_engine_settings(arm, folder), "vf_coef": 0.1, "cliprange_value": 0.2}
        return OnlinePPOTrainer(arm.policy, [reward], OnlinePPOConfig(**settings), **options), between
    from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer

    users = Users(store, prompts)
    users.talk(64)
    live = LiveReward(_registry(arm, folder, store))
    reward_config = {"per_device_train_batch_size": 16, "learning_rate": 1e-4}
    online = {"refresh_steps": arm.refresh_steps, "refresh_on_drift": False, "reward_config": reward_config}
    args = OnlineGRPOConfig(**_engine_settings(arm, folder), **online)
    return OnlineGRPOTrainer(arm.policy, [live], args, store=store, **options), users.talk


def _prompts(arm: Arm) -> list[Any]:
    if arm.task == "concise":
        return [[{"role": "user", "content": question.text}] for question in helpdesk.train_questions()]
    tokenizer = AutoTokenizer.from_pretrained(arm.policy)
    return random_prompts(512, arm.words, len(tokenizer), seed=arm.seed)


def _registry(arm: Arm, folder: Path, store: FeedbackStore) -> ModelRegistry:
    from online_trl.registry import copy_model

    registry = ModelRegistry(folder / "registry")
    version = registry.publish(
        ModelRole.REWARD, copy_model(Path(arm.reward)), feedback_interval=(0, store.latest_seq())
    )
    registry.promote(version.name, "the benchmark's")
    return registry


def _common(arm: Arm, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": arm.micro,
        "gradient_accumulation_steps": arm.batch // arm.micro // int(os.environ.get("WORLD_SIZE", "1")),
        "temperature": 1.0,
        "learning_rate": arm.learning_rate,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": arm.use_cpu,
        "bf16": arm.bf16,
        "seed": arm.seed,
        "dataloader_pin_memory": False,
        # TRL's `PPOTrainer` neither clips gradients nor checkpoints activations, whatever its settings say.
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        **arm.settings,
    }


def _engine_settings(arm: Arm, folder: Path) -> dict[str, Any]:
    """Settings of the trainers on the engine of TRL's `GRPOTrainer`."""
    common = _common(arm, folder)
    full_length = {"generation_kwargs": {"min_new_tokens": arm.tokens}} if arm.task == "speed" else {}
    return {
        "max_steps": arm.rollouts * arm.epochs,
        "num_generations": arm.generations,
        "num_iterations": arm.epochs,
        "steps_per_generation": common["gradient_accumulation_steps"],
        "max_completion_length": arm.tokens,
        "beta": 0.05,
        "epsilon": 0.2,
        **full_length,
        **common,
    }


def _trl_ppo(arm: Arm, folder: Path, dataset: Dataset, concise: Concise) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from online_trl.trl_ppo import OnlineTRLPPOConfig, OnlineTRLPPOTrainer
    from online_trl.trl_ppo.trainer import PPOTrainer

    args = OnlineTRLPPOConfig(
        **_common(arm, folder),
        total_episodes=arm.rollouts * arm.batch,
        local_rollout_forward_batch_size=arm.micro,
        response_length=arm.tokens,
        stop_token="eos" if arm.task == "concise" else None,
        num_ppo_epochs=arm.epochs,
        num_sample_generations=0,
        kl_coef=0.05,
    )
    peft_config = _lora() if arm.lora else None
    if arm.task == "concise":
        return OnlineTRLPPOTrainer(arm.policy, [concise], args, train_dataset=dataset, peft_config=peft_config)
    tokenizer = AutoTokenizer.from_pretrained(arm.policy, padding_side="left")
    ids = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        for prompt in dataset["prompt"]
    ]
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        # As TRL's other trainers load what they train, whatever it was saved in.
        model=AutoModelForCausalLM.from_pretrained(arm.policy, dtype="float32"),
        ref_model=None if arm.lora else AutoModelForCausalLM.from_pretrained(arm.policy, dtype="float32"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(arm.reward),
        value_model=AutoModelForSequenceClassification.from_pretrained(arm.policy, num_labels=1, dtype="float32"),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        peft_config=peft_config,
    )


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _watch(trainer: Any, parts: Parts) -> None:
    if hasattr(trainer, "_generate_and_score_completions"):
        parts.watch(trainer, "_generate", "generation")
        parts.watch(trainer, "_calculate_rewards", "scoring")
        if getattr(trainer, "refresh_callback", None) is not None:
            parts.watch(trainer.refresh_callback.schedule, "run_if_due", "refresh")
            # Each refresh asks for a checkpoint, and nothing else does here.
            parts.watch(trainer, "_save_checkpoint", "refresh")
        return
    from trl.experimental.ppo import ppo_trainer

    parts.watch(ppo_trainer, "batch_generation", "generation")
    parts.watch(getattr(trainer.reward_model, trainer.reward_model.base_model_prefix), "forward", "scoring")


def main() -> None:
    arm, result = (Path(argument) for argument in sys.argv[1:])
    prepare_process()
    measured = run_arm(Arm(**json.loads(arm.read_text())), result.parent)
    if os.environ.get("RANK", "0") == "0":
        result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
