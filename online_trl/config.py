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


INLINE, FOLLOW = "inline", "follow"
DROP, TRUNCATE = "drop", "truncate"


@dataclass
class RefreshArguments:
    """
    How the live reward model is refreshed, in the trainer or by `recipes/reward_refresh.py`.

    Args:
        refresh_rows (`int`, *optional*, defaults to `0`):
            Refresh as soon as so many new rows (answers and feedback) are in the log. `0` turns the trigger off.
        refresh_on_drift (`bool`, *optional*, defaults to `True`):
            Refresh as soon as the live version does significantly worse on new feedback than it did: people have
            changed.
        refresh_min_statements (`int`, *optional*, defaults to `16`):
            A refresh that is due waits until so many new statements to train on have been collected.
        refresh_start (`str`, *optional*, defaults to `"live"`):
            What a refresh starts from: `live`, the version in service, trained on what is new and a sample of what is
            old; or `initial`, the initial model, trained on all that is remembered. A version that has collapsed is
            made anew from the initial model in either case.
        refresh_replay (`float`, *optional*, defaults to `1.0`):
            Old statements mixed into a refresh that starts from the live version, drawn uniformly from all that is
            remembered, as a multiple of the fresh ones.
        refresh_half_life (`float`, *optional*, defaults to `0.0`):
            Age at which a statement counts half. `0` lets all count in full.
        refresh_drift_half_life (`float`, *optional*, defaults to `50.0`):
            The same for what was said before a change of what people want, counted back from the change. `0` lets it
            count as before.
        refresh_drift_reinit_head (`bool`, *optional*, defaults to `False`):
            Whether the first refresh after such a change starts from a new random head.
        refresh_age_unit (`str`, *optional*, defaults to `"rows"`):
            What both are counted in: `rows` of the log, or `hours`.
        refresh_heldout_fraction (`float`, *optional*, defaults to `0.2`):
            Share of the conversations that are never trained on but decide whether a refreshed reward model goes into
            service.
        refresh_anchors (`int`, *optional*, defaults to `64`):
            Answers that the scale of the scores is fixed on.
        refresh_anchor_life (`int`, *optional*, defaults to `50`):
            Versions after which they are drawn anew, without moving the scale. `0` keeps them.
        reward_pessimism (`float`, *optional*, defaults to `0.5`):
            What the policy is paid is the mean of the reward model's heads less so many standard deviations. `0` pays
            the mean.
        max_user_share (`float`, *optional*, defaults to `0.05`):
            Largest share of the weight of a batch of preferences that one user may carry; the weights of whoever has
            more are scaled down. `1` turns the bound off.
    """

    refresh_rows: int = field(
        default=0,
        metadata={"help": "Refresh the live reward model after so many new rows in the log; 0: never by rows."},
    )
    refresh_on_drift: bool = field(
        default=True, metadata={"help": "Refresh when the live version does worse on new feedback than it did."}
    )
    refresh_min_statements: int = field(
        default=16, metadata={"help": "A refresh that is due waits for so many new statements."}
    )
    refresh_start: str = field(
        default="live", metadata={"help": "What a refresh starts from: the live version, or the initial model."}
    )
    refresh_replay: float = field(
        default=1.0, metadata={"help": "Old statements mixed into a refresh, as a multiple of the fresh ones."}
    )
    refresh_half_life: float = field(
        default=0.0, metadata={"help": "Age at which a statement counts half; 0: all count in full."}
    )
    refresh_drift_half_life: float = field(
        default=50.0, metadata={"help": "The same for what was said before people changed."}
    )
    refresh_drift_reinit_head: bool = field(
        default=False, metadata={"help": "Start from a new random head after people changed."}
    )
    refresh_age_unit: str = field(default="rows", metadata={"help": "Whether ages are counted in rows or hours."})
    refresh_heldout_fraction: float = field(
        default=0.2, metadata={"help": "Share of the conversations kept for the gate of a refreshed reward model."}
    )
    refresh_anchors: int = field(default=64, metadata={"help": "Answers that the scale of the scores is fixed on."})
    refresh_anchor_life: int = field(
        default=50, metadata={"help": "Versions after which the anchors are drawn anew; 0: never."}
    )
    reward_pessimism: float = field(
        default=0.5, metadata={"help": "Standard deviations, over the heads, that the policy is not paid."}
    )
    max_user_share: float = field(
        default=0.05, metadata={"help": "Largest share of the weight of a batch of preferences that one user carries."}
    )

    def check_refresh_arguments(self) -> None:
        """
        Checks these fields.

        Raises:
            [`ConfigError`]: if one of them is out of bounds.
        """
        check_range("refresh_heldout_fraction", self.refresh_heldout_fraction, 0.0, 0.9)
        if not 0 < self.max_user_share <= 1:
            raise ConfigError(f"`max_user_share` is {self.max_user_share}; it must be above 0 and at most 1")
        for name in (
            "refresh_rows",
            "refresh_min_statements",
            "refresh_replay",
            "refresh_half_life",
            "refresh_drift_half_life",
            "refresh_anchor_life",
            "reward_pessimism",
        ):
            check_range(name, getattr(self, name), 0, None)
        check_range("refresh_anchors", self.refresh_anchors, 2, None)
        check_choice("refresh_start", self.refresh_start, ("live", "initial"))
        check_choice("refresh_age_unit", self.refresh_age_unit, ("rows", "hours"))


@dataclass
class OnlineArguments(RefreshArguments):
    """
    Fields that [`OnlineGRPOConfig`] and [`OnlinePPOConfig`] add to TRL's `GRPOConfig`, beside those of
    [`RefreshArguments`].

    Args:
        fresh_prompt_fraction (`float`, *optional*, defaults to `0.5`):
            Share of the prompts of a generation batch that is taken from the feedback log, newest first; where a batch
            has only one, the share of the batches. When the log has fewer new prompts, the rest comes from
            `train_dataset`. To a prompt from the log, reward functions are passed `None` for every other column of the
            dataset.
        max_prompt_length (`int`, *optional*):
            Tokens of the longest prompt that is trained on, of `train_dataset` and of the log. Defaults to no limit.
        long_prompts (`str`, *optional*, defaults to `"drop"`):
            What becomes of a longer one: `drop` leaves it out, and logs how many as `prompts/dropped`; `truncate`
            keeps its last tokens, and logs the share as `prompts/truncated`.
        refresh_mode (`str`, *optional*, defaults to `"inline"`):
            Who refreshes the live reward model: `inline`, the trainer, between two policy steps; or `follow`, a
            process of its own, `recipes/reward_refresh.py`, whose versions the trainer takes over between two steps.
        refresh_steps (`int`, *optional*, defaults to `50`):
            Refresh the live reward model every so many policy steps. `0` turns the trigger off.
        reward_initial_model (`str`, *optional*):
            Hub id or folder of the model that the first reward model is made from, and that later ones are made anew
            from: a language model, or a reward model that others have trained. Defaults to the policy's model.
        reward_config (`dict` or `str`, *optional*):
            Keyword arguments of [`~online_trl.rewards.reward_trainer.OnlineRewardConfig`] for each refresh, such as
            `{"learning_rate": 1e-4}`.
        reward_lora (`dict` or `str`, *optional*):
            Keyword arguments of PEFT's `LoraConfig`, such as `{"r": 16}`, to refresh the reward model by an adapter,
            which is merged into the version that is published. Defaults to training all weights. Where the policy is
            trained by LoRA too, the trainer scores with the adapter on the policy's base, which is then in memory
            once; not under ZeRO-3.
    """

    fresh_prompt_fraction: float = field(
        default=0.5,
        metadata={"help": "Share of the prompts of a generation batch that is taken from the feedback log."},
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Tokens of the longest prompt that is trained on; by default there is no limit."},
    )
    long_prompts: str = field(
        default=DROP, metadata={"help": "What becomes of a longer prompt: drop, or truncate to its last tokens."}
    )
    refresh_mode: str = field(
        default=INLINE, metadata={"help": "Who refreshes the reward model: inline (the trainer) or follow."}
    )
    refresh_steps: int = field(
        default=50, metadata={"help": "Refresh the live reward model every so many policy steps; 0: never by steps."}
    )
    reward_initial_model: str | None = field(
        default=None,
        metadata={"help": "Model that the live reward model is made from; by default that of the policy."},
    )
    reward_config: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of OnlineRewardConfig for each refresh, as JSON."}
    )
    reward_lora: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of PEFT's LoraConfig for each refresh, as JSON."}
    )

    def check_online_arguments(self) -> None:
        """
        Checks these fields; the configs call it before anything else.

        Raises:
            [`ConfigError`]: if one of them is out of bounds.
        """
        self.check_refresh_arguments()
        check_range("fresh_prompt_fraction", self.fresh_prompt_fraction, 0.0, 1.0)
        if self.max_prompt_length is not None:
            check_range("max_prompt_length", self.max_prompt_length, 1, None)
        check_choice("long_prompts", self.long_prompts, (DROP, TRUNCATE))
        check_choice("refresh_mode", self.refresh_mode, (INLINE, FOLLOW))
        check_range("refresh_steps", self.refresh_steps, 0, None)
        if self.reward_initial_model is not None and self.refresh_mode == FOLLOW:
            raise ConfigError(
                "`reward_initial_model` is set, but with `refresh_mode` `follow` the reward model is made by "
                "`recipes/reward_refresh.py`; give it there, as `model_name_or_path`"
            )


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
