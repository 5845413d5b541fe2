import re

import pytest

from online_trl.config import ConfigError
from online_trl.rewards.judge import Judge
from online_trl.rewards.remote_scorer import RemoteScorer
from online_trl.rewards.source_options import find_reward_source, read_reward_sources
from online_trl.rewards.sources import RewardSource

JUDGE = {"kind": "judge", "url": "http://127.0.0.1:9/v1", "model": "big"}
REMOTE = {"kind": "remote", "url": "http://127.0.0.1:9/score"}
FUNCTION = {"kind": "function", "path": "trl.rewards:think_format_reward"}


def test_every_kind_is_made_with_its_options():
    named = read_reward_sources(
        {
            "helpful": {**JUDGE, "high": 5, "timeout": 10, "normalise": "running", "on_failure": "drop"},
            "safe": {**REMOTE, "batch_size": 4},
            "format": {**FUNCTION, "normalise": "batch"},
        }
    )
    helpful, safe, form = named.values()
    assert isinstance(helpful.reward, Judge)
    assert (helpful.reward.model, helpful.reward.high, helpful.reward.timeout) == ("big", 5.0, 10.0)
    assert (helpful.name, helpful.normalise, helpful.on_failure) == ("helpful", "running", "drop")
    assert isinstance(safe.reward, RemoteScorer)
    assert (safe.reward.batch_size, safe.normalise, safe.on_failure) == (4, "none", "stop")
    assert (form.reward.__name__, form.name, form.normalise) == ("think_format_reward", "format", "batch")
    assert find_reward_source("safe", named) is safe


def test_a_function_needs_no_options():
    source = find_reward_source("trl.rewards:think_format_reward", {})
    assert source == RewardSource(reward=source.reward)
    assert source.label == "think_format_reward"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("live", JUDGE, "the reward source `live`: the name means something else in `reward_funcs`"),
        ("my:judge", JUDGE, "the reward source `my:judge`: the name means something else"),
        ("x", "judge", "the reward source `x`: it must be a mapping with a `kind`: function, model, judge, remote"),
        ("x", {"url": "http://host"}, "must be a mapping with a `kind`"),
        ("x", {**JUDGE, "kind": "judgee"}, "the reward source `x`: unknown kind `judgee`; did you mean `judge`?"),
        ("x", {**JUDGE, "retires": 1}, "unknown key `retires` in its options; did you mean `retries`?"),
        ("x", {**JUDGE, "normalize": "batch"}, "unknown key `normalize` in its options; did you mean `normalise`?"),
        ("x", {**REMOTE, "model": "big"}, "unknown key `model` in its options"),
        ("x", {"kind": "judge", "url": "http://host/v1"}, "`model` is missing in its options"),
        ("x", {**JUDGE, "timeout": "soon"}, "`timeout` in its options is 'soon': Input should be a valid number"),
        ("x", {**JUDGE, "url": "host"}, "the reward source `x`: `url` is 'host', which is not the URL of a server"),
        ("x", {**JUDGE, "template": "{{ answer }}"}, "unknown key `answer` in `template`"),
        ("x", {**JUDGE, "api_key_variable": "NO_SUCH_KEY"}, "the environment variable `NO_SUCH_KEY`"),
        ("x", {**JUDGE, "normalise": None}, "the reward source `x`: unknown normalise `None`"),
        ("x", {"kind": "function", "path": "no_such_package:f"}, "cannot import the module"),
        ("x", {"kind": "model", "model": "/no/such/model"}, "cannot read the reward model `/no/such/model`"),
    ],
)
def test_a_mistake_is_named_with_its_source(name, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_reward_sources({name: options})


def test_a_name_that_nothing_has_is_refused_with_the_nearest():
    named = {"helpful": RewardSource(reward=print)}
    with pytest.raises(ConfigError, match=r"unknown reward source `helpfu1`; did you mean `helpful`\?: it is not"):
        find_reward_source("helpfu1", named)
    with pytest.raises(ConfigError, match=r"unknown reward source `liv`; did you mean `live`\?"):
        find_reward_source("liv", named)
