"""
What the first reward model is made from: a model that tells the help desk's answers apart, whatever anybody likes.

Reward models are made from models that have read enough to know a polite answer from a blunt one. The base policy has
only learned to write, and its half a million weights say little about what it read. Taught to name the traits of an
answer, the same weights say much, and a reward is little more than how much each trait counts.

Source of the idea: Wang et al. 2024, "Interpretable Preferences via Multi-Objective Reward Modeling and
Mixture-of-Experts" (https://arxiv.org/abs/2406.12845), whose reward is a few weights on a backbone that was taught the
attributes of answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from . import helpdesk

TRAITS = (
    "polite",
    "blunt",
    "names the item",
    "names another item",
    "explains the action",
    "hedges",
    "hedges twice",
    "rambles",
    "rambles twice",
    "whole",
)
"""What the backbone is taught to tell: how the answer was written, not how it pleases."""

_BROKEN_SHARE = 0.25
_UNKNOWN = float("nan")


def train_reward_backbone(
    output_dir: str | Path,
    *,
    base_policy: str | Path,
    seed: int,
    max_steps: int = 2000,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """
    Trains the backbone on from the base policy and saves it, with the tokenizer, in `output_dir`. It has no head.

    Args:
        output_dir (`str` or `Path`):
            Folder to save in; created if missing.
        base_policy (`str` or `Path`):
            Folder of the base policy, as [`~online_trl.simulation.base_policy.train_base_policy`] leaves it.
        seed (`int`):
            Decides the answers, the first weights of the head and the order of the data.
        max_steps (`int`, *optional*, defaults to `2000`):
            Optimizer steps. Manners take about 200, whether the right action is explained about 1000.
        batch_size (`int`, *optional*, defaults to `32`):
            Answers per step.
        learning_rate (`float`, *optional*, defaults to `2e-3`):
            Peak learning rate.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Added to the trainer, for example to show progress.

    Returns:
        `Path`: `output_dir`.
    """
    output_dir = Path(output_dir)
    tokenizer = AutoTokenizer.from_pretrained(base_policy)
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base_policy, num_labels=len(TRAITS))
    trainer = _TraitTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output_dir),
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=max(1, max_steps // 40),
            adam_beta2=0.98,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(described_answers(min(16_000, max_steps * batch_size), seed)),
        data_collator=_Collator(tokenizer),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # whoever wants to see progress passes a callback
    trainer.train()
    model.base_model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return output_dir


def described_answers(n: int, seed: int) -> list[dict[str, Any]]:
    """
    Returns `n` answers to questions of the training pool, each with its traits.

    Args:
        n (`int`):
            How many.
        seed (`int`):
            The same seed gives the same answers.

    Returns:
        `list[dict[str, Any]]`: Rows of `messages`, in TRL's conversational format, and `traits`, one number for each
        of [`TRAITS`]: 1 where the answer has it, 0 where not, NaN where nobody knows, since the answer is broken.
    """
    rng = random.Random(f"traits/{seed}")
    return [_described_answer(rng) for _ in range(n)]


def _described_answer(rng: random.Random) -> dict[str, Any]:
    question = rng.choice(helpdesk.train_questions())
    style = helpdesk.Style(
        manner=rng.choice(("polite", "plain", "blunt")),
        item=rng.choices(("right", "wrong", "none"), (50, 30, 20))[0],
        action=rng.choices(("right", "wrong"), (60, 40))[0],
        hedges=rng.randrange(3),
        ramblings=rng.randrange(3),
    )
    answer = helpdesk.write_answer(question, style, rng)
    traits = _traits(style)
    if rng.random() < _BROKEN_SHARE:
        answer = _broken(answer, helpdesk.write_answer(question, style, rng), rng)
        traits = [*[_UNKNOWN] * (len(TRAITS) - 1), 0.0]
    messages = [{"role": "user", "content": question.text}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "traits": traits}


def _traits(style: helpdesk.Style) -> list[float]:
    has = {
        "polite": style.manner == "polite",
        "blunt": style.manner == "blunt",
        "names the item": style.item == "right",
        "names another item": style.item == "wrong",
        "explains the action": style.action == "right",
        "hedges": style.hedges > 0,
        "hedges twice": style.hedges > 1,
        "rambles": style.ramblings > 0,
        "rambles twice": style.ramblings > 1,
        "whole": True,
    }
    return [float(has[trait]) for trait in TRAITS]


def _broken(answer: str, other: str, rng: random.Random) -> str:
    """Breaks an answer off, goes on in the middle of another, leaves words out of it or says some twice."""
    words, others = answer.split(), other.split()
    start = rng.randrange(1, len(words) - 1)
    end = min(len(words), start + rng.randrange(2, 8))
    return " ".join(
        rng.choice(
            (
                words[:start],
                words[:start] + others[rng.randrange(1, len(others)) :],
                words[:start] + words[end:],
                words[:end] + words[start:],
            )
        )
    )


class _Collator:
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs: Any = self.tokenizer.apply_chat_template(
            [row["messages"] for row in rows],
            padding=True,
            padding_side="right",
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
        )
        return {**inputs, "labels": torch.tensor([row["traits"] for row in rows])}


class _TraitTrainer(Trainer):
    """Asks for the traits after each word of an answer: asked at its end alone, relations take far longer to learn."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        hidden = model.base_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state
        logits = model.score(hidden)
        labels = inputs["labels"][:, None, :].expand_as(logits)
        asked = inputs["assistant_masks"][:, :, None].bool() & ~labels.isnan()
        return binary_cross_entropy_with_logits(logits[asked], labels[asked])
