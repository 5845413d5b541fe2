import asyncio
import functools
import inspect
import logging

import pytest

from online_trl.config import ConfigError
from online_trl.rewards.functions import DROPPED, RewardFunctionError, guard_reward_function, load_reward_function

BATCH = {"prompts": ["first", "second"], "completions": ["a", "bb"], "completion_ids": [[1], [2, 2]]}


def length(completions, **columns):
    return [float(len(completion)) for completion in completions]


async def length_async(completions, **columns):
    return [float(len(completion)) for completion in completions]


def broken(completions, **columns):
    raise KeyError("answer")


async def broken_async(completions, **columns):
    raise KeyError("answer")


def sometimes(completions, **columns):
    return [None, 1.0]


def infinite(completions, **columns):
    return [0.0, float("inf")]


def one_short(completions, **columns):
    return [1.0]


class Lengths:
    async def __call__(self, completions, **columns):
        return [float(len(completion)) for completion in completions]


def call(function, **batch):
    return asyncio.run(function(**batch)) if inspect.iscoroutinefunction(function) else function(**batch)


def test_a_function_is_loaded_by_its_path():
    assert load_reward_function("trl.rewards:think_format_reward").__name__ == "think_format_reward"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trl.rewards", "`trl.rewards` is not of the form `package.module:function`"),
        ("no_such_package.rewards:f", "cannot import the module of the reward function `no_such_package.rewards:f`"),
        ("trl.rewards:no_such", "the module `trl.rewards` has no function `no_such`"),
    ],
)
def test_a_wrong_path_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        load_reward_function(path)


def test_a_guarded_function_keeps_name_kind_and_rewards():
    guarded, guarded_async = guard_reward_function(length), guard_reward_function(length_async)
    assert guarded(**BATCH) == asyncio.run(guarded_async(**BATCH)) == [1.0, 2.0]
    assert (guarded.__name__, guarded_async.__name__) == ("length", "length_async")
    assert inspect.iscoroutinefunction(guarded_async)
    assert not inspect.iscoroutinefunction(guarded)


def test_none_means_that_the_function_does_not_apply():
    assert guard_reward_function(sometimes)(**BATCH) == [None, 1.0]


@pytest.mark.parametrize("function", [broken, broken_async])
def test_an_error_names_the_function_and_the_batch(function):
    with pytest.raises(RewardFunctionError) as raised:
        call(guard_reward_function(function), **BATCH)
    assert str(raised.value) == (
        f"the reward function `{__name__}:{function.__name__}` raised KeyError: 'answer' on a batch of 2 completions, "
        "whose first prompt is 'first'"
    )
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_reward_that_is_not_finite_is_refused():
    with pytest.raises(
        RewardFunctionError, match=r"test_functions:infinite` returned inf for completion 1 of a batch"
    ):
        guard_reward_function(infinite)(**BATCH)


def test_too_few_rewards_are_refused():
    with pytest.raises(RewardFunctionError, match=r"test_functions:one_short` returned 1 rewards on a batch of 2 "):
        guard_reward_function(one_short)(**BATCH)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Lengths(), "Lengths"),
        (functools.partial(length_async, unit=1), "length_async"),
        (functools.partial(functools.partial(Lengths()), unit=1), "Lengths"),
    ],
)
def test_what_is_called_like_an_async_function_is_awaited(function, name):
    guarded = guard_reward_function(function)
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded(**BATCH)) == [1.0, 2.0]
    assert guarded.__name__ == name


@pytest.mark.parametrize("function", [broken, broken_async, infinite, one_short])
def test_a_source_that_may_be_dropped_warns_once_and_is_counted(function, caplog):
    metrics = {}
    guarded = guard_reward_function(function, name="taste", on_failure="drop")
    with caplog.at_level(logging.WARNING):
        assert call(guarded, **BATCH, log_metric=metrics.__setitem__) == [DROPPED, DROPPED]
    (warning,) = caplog.messages
    assert warning.startswith("the reward source `taste` r")
    assert "a batch of 2 completions, whose first prompt is 'first'" in warning
    assert warning.endswith("; it is dropped for this batch")
    assert metrics == {"rewards/taste/dropped": 1.0, "rewards/taste/not_applicable": 1.0}


def test_how_often_a_source_applies_is_counted():
    metrics = {}
    guarded = guard_reward_function(sometimes, on_failure="drop")
    assert guarded(**BATCH, log_metric=metrics.__setitem__) == [None, 1.0]
    assert metrics == {"rewards/sometimes/dropped": 0.0, "rewards/sometimes/not_applicable": 0.5}
