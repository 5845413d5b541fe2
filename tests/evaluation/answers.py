"""Policies whose answers are written in the tests."""

from __future__ import annotations

from online_trl.evaluation.evaluator import Contestant
from online_trl.types import SampledAnswer

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(40)]


def said(text, **tokens):
    return SampledAnswer(completion=[{"role": "assistant", "content": text}], **tokens)


def policy(name, *texts, asked=None, **more):
    """Answers the first question with the first text, the next with the next, and so on, over and over."""

    def generate(prompts):
        numbers = [int(prompt[-1]["content"].split()[-1]) for prompt in prompts]
        if asked is not None:
            asked.extend(numbers)
        return [said(texts[number % len(texts)]) for number in numbers]

    return Contestant(name=name, generate=generate, **more)


def length(completions, **columns):
    """A proxy that is easy to hack."""
    return [float(len(completion[0]["content"].split())) for completion in completions]


async def kindness(completions, **columns):
    """1 where an answer says please, 0 where it does not; nothing of one that is empty."""
    texts = [completion[0]["content"] for completion in completions]
    return [float("please" in text) if text else None for text in texts]
