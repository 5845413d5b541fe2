"""What can be seen of answers without a judge: how long they are, whether they refuse, and how much they repeat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFUSAL_PATTERN = (
    r"(?i)\bI(?:['’]m| am)?\s+(?:really |very |so )?(?:sorry|afraid|unable to|not able to)\b"
    r"|\bI\s+(?:can(?:not|['’]t)|can not|won['’]t|will not|must decline)\b"
    r"|\bas an AI\b"
)
"""English phrases by which an answer declines to help."""

# A refusal says so at once; later on, the same words are about something else.
_OPENING = 200


@dataclass(frozen=True, slots=True)
class TextValues:
    """
    What can be seen of the answers of a policy.

    Args:
        length, refusals, repetition (arrays of shape `(answers,)`):
            For each answer, its words, whether it declines, and the share of 4-grams that it has said before.
        distinct_1 (`float`), distinct_2 (`float`):
            See [`distinct`].
    """

    length: NDArray[np.float64]
    refusals: NDArray[np.float64]
    repetition: NDArray[np.float64]
    distinct_1: float
    distinct_2: float


def text_values(texts: Sequence[str], refusal_pattern: str = REFUSAL_PATTERN) -> TextValues:
    """
    Measures answers.

    Args:
        texts (`Sequence[str]`):
            The answers.
        refusal_pattern (`str`, *optional*):
            See [`is_refusal`].
    """
    return TextValues(
        length=np.asarray([len(words(text)) for text in texts], dtype=float),
        refusals=np.asarray([is_refusal(text, refusal_pattern) for text in texts], dtype=float),
        repetition=np.asarray([repetition(text) for text in texts], dtype=float),
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
    )


def words(text: str) -> list[str]:
    """Returns the words of a text, between spaces, in lower case."""
    return text.lower().split()


def is_refusal(text: str, pattern: str = REFUSAL_PATTERN) -> bool:
    """
    Returns whether an answer begins by declining to help.

    Args:
        text (`str`):
            The answer.
        pattern (`str`, *optional*):
            Regular expression that is looked for in its first 200 characters. Defaults to English phrases.
    """
    return re.search(pattern, text[:_OPENING]) is not None


def repetition(text: str, n: int = 4) -> float:
    """
    Returns the share of an answer's n-grams that it has said before: 1 less the share of distinct ones, `seq-rep-n` of
    Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training" (https://huggingface.co/papers/1908.04319).

    Args:
        text (`str`):
            The answer. One of fewer than `n` words repeats nothing.
        n (`int`, *optional*, defaults to `4`):
            Words in an n-gram.
    """
    grams = _grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Sequence[str], n: int) -> float:
    """
    Returns the number of distinct n-grams in all answers together over that of all n-grams, `distinct-n` of Li et al.
    2016, "A Diversity-Promoting Objective Function for Neural Conversation Models"
    (https://huggingface.co/papers/1510.03055). It falls with the number of answers and their length: compare it on
    the same prompts.

    Args:
        texts (`Sequence[str]`):
            The answers. Without an n-gram among them the result is `nan`.
        n (`int`):
            Words in an n-gram.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[start : start + n]) for start in range(len(said) - n + 1)]
