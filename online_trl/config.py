"""Settings: the fields that the online trainers add to TRL's configs, and the check of a YAML file.

Everything here loads without torch, so that a mistake in a configuration is found before a model is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

Options = TypeVar("Options")


class ConfigError(ValueError):
    """A setting is wrong; the message names it, the value, and what would be accepted."""


@dataclass
class OnlineArguments:
    """
    Fields that [`OnlineGRPOConfig`] and [`OnlinePPOConfig`] add to TRL's `GRPOConfig`.

    Args:
        fresh_prompt_fraction (`float`, *optional*, defaults to `0.5`):
            Share of the prompts of a generation batch that is taken from the feedback log, newest first. When the log
            has fewer new prompts, the rest comes from `train_dataset`.
        refresh_steps (`int`, *optional*, defaults to `50`):
            Refresh the live reward model every so many policy steps. `0` turns the trigger off.
        refresh_rows (`int`, *optional*, defaults to `0`):
            Refresh the live reward model as soon as so many new rows (answers and feedback) are in the log. `0` turns
            the trigger off.
        refresh_min_pairs (`int`, *optional*, defaults to `16`):
            A refresh that is due waits until so many new preference pairs have been collected.
        refresh_replay (`float`, *optional*, defaults to `1.0`):
            Old pairs mixed into a refresh, drawn uniformly from the history, as a multiple of the fresh ones.
        refresh_heldout_fraction (`float`, *optional*, defaults to `0.2`):
            Share of the conversations whose pairs are never trained on but decide whether a refreshed reward model
            goes into service.
        max_user_share (`float`, *optional*, defaults to `0.2`):
            Largest share of the weight of a batch of preferences that one user may carry; the weights of whoever has
            more are scaled down. `1` turns the bound off.
        reward_config (`dict` or `str`, *optional*):
            Keyword arguments of TRL's `RewardConfig` for each refresh, such as `{"learning_rate": 1e-4}`.
    """

    fresh_prompt_fraction: float = field(
        default=0.5,
        metadata={"help": "Share of the prompts of a generation batch that is taken from the feedback log."},
    )
    refresh_steps: int = field(
        default=50, metadata={"help": "Refresh the live reward model every so many policy steps; 0: never by steps."}
    )
    refresh_rows: int = field(
        default=0,
        metadata={"help": "Refresh the live reward model after so many new rows in the log; 0: never by rows."},
    )
    refresh_min_pairs: int = field(
        default=16, metadata={"help": "A refresh that is due waits for so many new preference pairs."}
    )
    refresh_replay: float = field(
        default=1.0, metadata={"help": "Old pairs mixed into a refresh, as a multiple of the fresh ones."}
    )
    refresh_heldout_fraction: float = field(
        default=0.2, metadata={"help": "Share of the conversations kept for the gate of a refreshed reward model."}
    )
    max_user_share: float = field(
        default=0.2,
        metadata={"help": "Largest share of the weight of preferences, and of the fresh prompts, of one user."},
    )
    reward_config: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of TRL's RewardConfig for each refresh, as JSON."}
    )

    def check_online_arguments(self) -> None:
        """
        Checks these fields; the configs call it before anything else.

        Raises:
            [`ConfigError`]: if one of them is out of bounds.
        """
        check_range("fresh_prompt_fraction", self.fresh_prompt_fraction, 0.0, 1.0)
        check_range("refresh_heldout_fraction", self.refresh_heldout_fraction, 0.0, 0.9)
        if not 0 < self.max_user_share <= 1:
            raise ConfigError(f"`max_user_share` is {self.max_user_share}; it must be above 0 and at most 1")
        for name in ("refresh_steps", "refresh_rows", "refresh_min_pairs", "refresh_replay"):
            check_range(name, getattr(self, name), 0, None)


def check_range(name: str, value: float, low: float, high: float | None) -> None:
    """
    Checks that a number lies within bounds.

    Raises:
        [`ConfigError`]: if it does not; the message names the setting and the bounds.
    """
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"`{name}` is {value}; it must be {bounds}")


def check_keys(keys: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """
    Checks that every key is known.

    Args:
        keys (`Iterable[str]`):
            Keys that somebody wrote.
        known (`Iterable[str]`):
            Keys that exist.
        where (`str`):
            Where they were written, for the message.

    Raises:
        [`ConfigError`]: naming the first unknown key and the nearest known one.
    """
    known = sorted(known)
    for key in keys:
        if key not in known:
            raise ConfigError(f"unknown key `{key}` in {where}{suggestion(key, known)}")


def check_config_file(path: str | Path, dataclass_types: Sequence[type]) -> dict[str, Any]:
    """
    Reads a YAML config file and checks that every key is a field of one of the dataclasses (or `env`, as in
    `TrlParser`).

    Args:
        path (`str` or `Path`):
            The YAML file.
        dataclass_types (`Sequence[type]`):
            The dataclasses that the file is about.

    Returns:
        `dict[str, Any]`: The file's mapping.

    Raises:
        [`ConfigError`]: if the file cannot be read, is not a mapping, or holds an unknown key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the config file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"the config file {path} must hold a mapping of settings, not {type(content).__name__}")
    known = {field_.name for type_ in dataclass_types for field_ in dataclasses.fields(type_) if field_.init}
    check_keys(map(str, content), known | {"env"}, where=str(path))
    return content


def from_mapping(type_: type[Options], values: Mapping[str, Any], *, where: str) -> Options:
    """
    Makes a dataclass of a mapping, as a YAML file gives it.

    Args:
        type_ (`type`):
            The dataclass.
        values (`Mapping[str, Any]`):
            Values by name.
        where (`str`):
            Where they were written, for the message.

    Raises:
        [`ConfigError`]: if a name is unknown, a value is missing, or one is of the wrong type or out of bounds.
    """
    fields = {field_.name: field_ for field_ in dataclasses.fields(type_) if field_.init}  # type: ignore[arg-type]
    check_keys(values, fields, where=where)
    for name, field_ in fields.items():
        needed = field_.default is dataclasses.MISSING and field_.default_factory is dataclasses.MISSING
        if needed and name not in values:
            raise ConfigError(f"`{name}` is missing in {where}")
    types = get_type_hints(type_)
    return type_(**{name: _checked(types[name], name, value, where) for name, value in values.items()})


def _checked(type_: Any, name: str, value: Any, where: str) -> Any:
    try:
        return TypeAdapter(type_).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"`{name}` in {where} is {value!r}: {error.errors()[0]['msg']}") from error


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """
    Checks that a setting is one of several names.

    Raises:
        [`ConfigError`]: naming the setting, the value, the nearest choice and all choices.
    """
    if value not in choices:
        raise ConfigError(f"unknown {name} `{value}`{suggestion(value, choices)}; known: {', '.join(choices)}")


def suggestion(word: str, known: Sequence[str]) -> str:
    """Returns "; did you mean …?" with the nearest known word, or nothing if none is near."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean `{nearest[0]}`?" if nearest else ""
