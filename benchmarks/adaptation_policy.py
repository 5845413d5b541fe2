"""What a policy answers: batched sampling, and its mean satisfaction on questions that training never asks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from online_trl.simulation import helpdesk
from online_trl.simulation.taste import Taste

MAX_TOKENS = 48
_BATCH_SIZE = 256

Answered = list[tuple[str, str]]
"""Questions, each with an answer."""


def load_policy(folder: Path) -> tuple[Any, Any]:
    """Returns the model and the tokenizer of a checkpoint."""
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def sample(model: Any, tokenizer: Any, questions: Sequence[str], *, seed: int) -> list[str]:
    """Returns one answer to each question, sampled at temperature 1; what is drawn elsewhere is not affected."""
    was_training = model.training
    model.eval()
    texts: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(questions), _BATCH_SIZE):
            texts += _sample_batch(model, tokenizer, questions[start : start + _BATCH_SIZE])
    model.train(was_training)
    return texts


def _sample_batch(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    prompts = [[{"role": "user", "content": question}] for question in questions]
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, padding_side="left", return_dict=True, return_tensors="pt"
    )
    output = model.generate(
        **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_TOKENS, use_cache=True
    )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def examine(model: Any, tokenizer: Any, *, questions: int, answers: int, seed: int) -> Answered:
    """
    Asks held-out questions.

    Args:
        model, tokenizer:
            The policy.
        questions (`int`):
            How many different questions.
        answers (`int`):
            How many answers to each; those to the same question stand side by side.
        seed (`int`):
            Decides the questions and what is sampled.
    """
    drawn = random.Random(f"examination/{seed}").sample(helpdesk.held_out_questions(), questions)
    asked = [question.text for question in drawn for _ in range(answers)]
    return list(zip(asked, sample(model, tokenizer, asked, seed=seed), strict=True))


def satisfaction(taste: Taste, answered: Answered) -> float:
    """Returns the mean satisfaction with answers."""
    return sum(taste.satisfaction(question, answer) for question, answer in answered) / len(answered)
