"""Custom reward functions: found by a dotted path, and guarded so that a failure names the function and the batch."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from ..config import ConfigError

logger = logging.getLogger(__name__)

Rewards = Sequence["float | None"]
RewardFunction = Callable[..., "Rewards | Awaitable[Rewards]"]
OnFailure = Literal["stop", "drop"]

DROPPED = math.inf
"""What a source that is dropped for a batch returns for each completion. No other reward is infinite: once those of
all ranks are gathered, it tells each rank that the source has failed on one."""


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


def name_of(function: Any) -> str:
    """Returns what TRL calls a reward function, or an object that is called like one, in its logs."""
    function = _inner(function)
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def _inner(function: Any) -> Any:
    """What a `functools.partial` calls in the end."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def guard_reward_function(
    function: RewardFunction, *, name: str | None = None, on_failure: OnFailure = "stop"
) -> RewardFunction:
    """
    Wraps a reward function so that whatever goes wrong in it names it and the batch.

    Args:
        function (`Callable`):
            Reward function in TRL's signature, sync or async: a function, or an object that is called like one.
        name (`str`, *optional*):
            What it is called in the logs. Defaults to its own name.
        on_failure (`str`, *optional*, defaults to `"stop"`):
            What happens if it raises, or does not return one finite number or `None` for each completion: `"stop"`
            raises [`RewardFunctionError`]; `"drop"` warns, and returns [`DROPPED`] for each completion.

    Returns:
        `Callable`: A function of that name and the same kind. `None` stays allowed in what the function returns: it
        does not apply to that completion. The share of completions that it does not apply to is logged as
        `rewards/NAME/not_applicable`, and that of batches it is dropped for as `rewards/NAME/dropped`.
    """
    guard = _Guard(function, name, on_failure)
    # An object is async if its `__call__` is; TRL 1.12 sees that of functions only.
    inner = _inner(function)
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__):

        @functools.wraps(function, updated=())
        async def guarded_async(**batch: Any) -> Rewards:
            with guard.watch(batch) as rewards:
                rewards[:] = guard.checked(await function(**batch), batch)  # type: ignore[misc]
            return rewards

        guarded_async.__name__ = guard.name
        return guarded_async

    @functools.wraps(function, updated=())
    def guarded(**batch: Any) -> Rewards:
        with guard.watch(batch) as rewards:
            rewards[:] = guard.checked(function(**batch), batch)
        return rewards

    guarded.__name__ = guard.name
    return guarded


class _Guard:
    """What a guarded function does beside calling the function."""

    def __init__(self, function: RewardFunction, name: str | None, on_failure: OnFailure) -> None:
        self.name = name or name_of(function)
        self.on_failure = on_failure
        is_plain = name is None and inspect.isroutine(function)
        self._described = (
            f"the reward function `{function.__module__}:{function.__qualname__}`"
            if is_plain
            else f"the reward source `{self.name}`"
        )

    @contextmanager
    def watch(self, batch: dict[str, Any]) -> Iterator[list[float | None]]:
        """Gives the list to put the rewards in. What goes wrong before it is filled is a failure of the function."""
        rewards: list[float | None] = [DROPPED] * len(batch["prompts"])
        failed = False
        try:
            yield rewards
        except Exception as error:  # noqa: BLE001 - whatever somebody else's code raises is reported by name
            failure = error if isinstance(error, RewardFunctionError) else self._failure(error, batch)
            if self.on_failure == "stop":
                raise failure from (error if failure is not error else None)
            logger.warning("%s; it is dropped for this batch", failure)
            failed = True
        self._log(batch, rewards, failed)

    def checked(self, rewards: Any, batch: dict[str, Any]) -> list[float | None]:
        """Returns the rewards, if they are such for this batch."""
        count = len(batch["prompts"])
        rewards = list(rewards)
        if len(rewards) != count:
            raise RewardFunctionError(
                f"{self._described} returned {len(rewards)} rewards on {_describe(batch)}; it must return one for each"
            )
        for index, reward in enumerate(rewards):
            if reward is not None and not math.isfinite(reward):
                raise RewardFunctionError(
                    f"{self._described} returned {reward} for completion {index} of {_describe(batch)}; a reward is a "
                    "finite number, or None where the function does not apply"
                )
        return rewards

    def _failure(self, error: Exception, batch: dict[str, Any]) -> RewardFunctionError:
        return RewardFunctionError(f"{self._described} raised {type(error).__name__}: {error} on {_describe(batch)}")

    def _log(self, batch: dict[str, Any], rewards: list[float | None], failed: bool) -> None:
        log_metric = batch.get("log_metric")
        if log_metric is None:
            return
        if self.on_failure == "drop":
            log_metric(f"rewards/{self.name}/dropped", float(failed))
        missing = len(rewards) if failed else rewards.count(None)
        log_metric(f"rewards/{self.name}/not_applicable", missing / len(rewards))


def _describe(batch: dict[str, Any]) -> str:
    state = batch.get("trainer_state")
    step = f" at step {state.global_step}" if state is not None else ""
    return f"a batch of {len(batch['prompts'])} completions{step}, whose first prompt is {batch['prompts'][0]!r}"
