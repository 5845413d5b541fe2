"""Reward sources as a recipe's YAML file names them. Every mistake is found here, before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..config import ConfigError, check_choice, check_keys, from_mapping, suggestion
from .functions import load_reward_function
from .judge import Judge
from .pairwise_judge import PairwiseJudge
from .remote_scorer import RemoteScorer
from .sources import RewardSource, check_reward_model

LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    model: str


_KINDS: dict[str, type[Any]] = {"function": _Function, "model": _Model, "judge": Judge, "remote": RemoteScorer}
PAIRWISE_KINDS: dict[str, type[Any]] = {**_KINDS, "pairwise_judge": PairwiseJudge}
"""What an evaluation may ask beside what pays a policy."""

_COMMON = ("normalise", "on_failure")


def read_reward_sources(
    sources: Mapping[str, Any], *, kinds: Mapping[str, type[Any]] = _KINDS
) -> dict[str, RewardSource]:
    """
    Makes the sources that `reward_sources` describes.

    Args:
        sources (`Mapping[str, Any]`):
            Options of each source by its name: its `kind` (`function`, `model`, `judge` or `remote`), the options of
            that kind, and `normalise` and `on_failure`.
        kinds (`Mapping[str, type]`, *optional*):
            What there is; [`PAIRWISE_KINDS`] for an evaluation.

    Returns:
        `dict[str, RewardSource]`: The sources by name.

    Raises:
        [`~online_trl.config.ConfigError`]: if an option is unknown, missing or wrong.
    """
    return {str(name): _read_source(str(name), options, kinds) for name, options in sources.items()}


def find_reward_source(name: str, named: Mapping[str, RewardSource]) -> RewardSource:
    """
    Finds what a name in `reward_funcs` stands for.

    Args:
        name (`str`):
            A name in `reward_sources`, `package.module:function`, or the folder or hub id of a reward model.
        named (`Mapping[str, RewardSource]`):
            The sources of `reward_sources`.

    Raises:
        [`~online_trl.config.ConfigError`]: if there is none.
    """
    if name in named:
        return named[name]
    if ":" in name:
        return RewardSource(reward=load_reward_function(name))
    try:
        check_reward_model(name)
    except ConfigError as error:
        raise ConfigError(
            f"unknown reward source `{name}`{suggestion(name, [LIVE, *named])}: it is not `{LIVE}`, not in "
            f"`reward_sources`, not of the form `package.module:function`, and {error}"
        ) from error
    return RewardSource(reward=name)


def _read_source(name: str, options: Any, kinds: Mapping[str, type[Any]]) -> RewardSource:
    try:
        if name == LIVE or ":" in name:
            raise ConfigError("the name means something else in `reward_funcs`; give it another one")
        if not isinstance(options, Mapping) or "kind" not in options:
            raise ConfigError(f"it must be a mapping with a `kind`: {', '.join(kinds)}")
        kind = str(options["kind"])
        check_choice("kind", kind, tuple(kinds))
        known = [field.name for field in fields(kinds[kind])]
        check_keys(map(str, options), ["kind", *_COMMON, *known], where="its options")
        own = from_mapping(kinds[kind], {key: options[key] for key in options if key in known}, where="its options")
        common = {key: str(options[key]) for key in options if key in _COMMON}
        return RewardSource(reward=_reward(own), name=name, **common)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"the reward source `{name}`: {error}") from error


def _reward(options: Any) -> Any:
    if isinstance(options, _Function):
        return load_reward_function(options.path)
    if isinstance(options, _Model):
        check_reward_model(options.model)
        return options.model
    return options
