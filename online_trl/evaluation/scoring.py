"""Judges, asked: any reward function in TRL's signature, or one that sees two answers at once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rewards.functions import RewardFunction, guard_reward_function
from ..types import Message, SampledAnswer

PairwiseFunction = Callable[..., "Sequence[float | None] | Awaitable[Sequence[float | None]]"]
"""A judge that sees two answers: `(prompts, firsts, seconds)` to 1 where the first is better, 0 where the second is,
0.5 for a tie, `None` where it does not say; sync or async."""

Scores = NDArray[np.float64]


def reward_scores(
    function: RewardFunction,
    name: str,
    prompts: Sequence[Any],
    answers: Sequence[SampledAnswer],
    columns: dict[str, list[Any]] | None = None,
) -> list[float]:
    """
    Scores answers by a reward function.

    Args:
        function (`Callable`):
            A reward function in TRL's signature, sync or async.
        name (`str`):
            What it is called where it fails.
        prompts (`Sequence`), answers (`Sequence[SampledAnswer]`):
            What is scored. Where a prompt is plain text, the function gets the answer as text too.
        columns (`dict[str, list]`, *optional*):
            Further columns that it gets.

    Returns:
        `list[float]`: NaN where the function does not apply.

    Raises:
        [`~online_trl.rewards.functions.RewardFunctionError`]: if it fails, or returns no rewards for these answers.
    """
    completions = [
        answer.text if isinstance(prompt, str) else answer.completion
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    batch = {
        "prompts": list(prompts),
        "completions": completions,
        "completion_ids": [answer.completion_ids or [] for answer in answers],
    }
    return _numbers(_result(guard_reward_function(function, name=name)(**batch, **(columns or {}))))


def preferences(
    function: PairwiseFunction,
    prompts: Sequence[list[Message]],
    firsts: Sequence[SampledAnswer],
    seconds: Sequence[SampledAnswer],
) -> list[float]:
    """
    Asks a judge that sees two answers.

    Args:
        function (`Callable`):
            The judge.
        prompts (`Sequence[list[Message]]`), firsts (`Sequence[SampledAnswer]`), seconds (`Sequence[SampledAnswer]`):
            What it sees, in the order in which it sees it.

    Returns:
        `list[float]`: In [0, 1]: 1 where it prefers the first; NaN where it does not say.
    """
    asked = {
        "prompts": list(prompts),
        "firsts": [answer.completion for answer in firsts],
        "seconds": [answer.completion for answer in seconds],
    }
    return _numbers(_result(function(**asked)))


def _result(returned: Any) -> Any:
    return asyncio.run(_awaited(returned)) if inspect.isawaitable(returned) else returned


async def _awaited(returned: Awaitable[Any]) -> Any:
    return await returned


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else float(value) for value in values]
