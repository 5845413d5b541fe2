"""Custom reward functions: found by a dotted path, and guarded so that a failure names the function and the batch."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..config import ConfigError

Rewards = Sequence["float | None"]
RewardFunction = Callable[..., "Rewards | Awaitable[Rewards]"]


class RewardFunctionError(RuntimeError):
    """A reward function failed or returned something that is not a list of rewards."""


def load_reward_function(path: str) -> RewardFunction:
    """
    Imports a reward function in TRL's signature, `(prompts, completions, completion_ids, **columns)`, sync or async.

    Args:
        path (`str`):
            `package.module:function`.

    Returns:
        `Callable`: The function.

    Raises:
        [`~online_trl.config.ConfigError`]: if the path has another form, the module cannot be imported, or it has no
            such function.

    Example:

    ```python
    >>> from online_trl.rewards.functions import load_reward_function

    >>> load_reward_function("trl.rewards:think_format_reward").__name__
    'think_format_reward'

    ```
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"the reward function `{path}` is not of the form `package.module:function`")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"cannot import the module of the reward function `{path}`: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"the module `{module_name}` has no function `{name}` (asked for as `{path}`)")
    return function


def guard_reward_function(function: RewardFunction) -> RewardFunction:
    """
    Wraps a reward function so that whatever goes wrong in it names it and the batch.

    Args:
        function (`Callable`):
            Reward function in TRL's signature, sync or async.

    Returns:
        `Callable`: A function of the same name and kind that raises [`RewardFunctionError`] if the function raises or
        returns a number that is not finite. `None` stays allowed: the function does not apply to that completion.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def guarded_async(**batch: Any) -> Rewards:
            try:
                rewards = await function(**batch)
            except Exception as error:
                raise _failure(function, error, batch) from error
            return _check_finite(function, rewards, batch)

        return guarded_async

    @functools.wraps(function)
    def guarded(**batch: Any) -> Rewards:
        try:
            rewards = function(**batch)
        except Exception as error:
            raise _failure(function, error, batch) from error
        return _check_finite(function, rewards, batch)  # type: ignore[arg-type]

    return guarded


def _failure(function: RewardFunction, error: Exception, batch: dict[str, Any]) -> RewardFunctionError:
    return RewardFunctionError(f"{_describe(function)} raised {type(error).__name__}: {error} on {_batch(batch)}")


def _check_finite(function: RewardFunction, rewards: Rewards, batch: dict[str, Any]) -> Rewards:
    for index, reward in enumerate(rewards):
        if reward is not None and not math.isfinite(reward):
            raise RewardFunctionError(
                f"{_describe(function)} returned {reward} for completion {index} of {_batch(batch)}; a reward is a "
                "finite number, or None where the function does not apply"
            )
    return rewards


def _describe(function: RewardFunction) -> str:
    return f"the reward function `{function.__module__}:{function.__qualname__}`"


def _batch(batch: dict[str, Any]) -> str:
    state = batch.get("trainer_state")
    step = f" at step {state.global_step}" if state is not None else ""
    return f"a batch of {len(batch['prompts'])} completions{step}, whose first prompt is {batch['prompts'][0]!r}"
