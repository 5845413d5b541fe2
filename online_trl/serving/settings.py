"""How the server behaves towards those who call it: one dataclass, which a YAML file may fill."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limits import parse

from ..config import ConfigError, check_range, from_mapping
from ..store import Screening
from ..types import FeedbackKind
from .schemas import MOST_ANSWERS

_ORIGIN = re.compile(r"https?://[^/?#@\sA-Z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """
    Settings of the server, beside what it serves and where; [`read_settings`] makes them of what somebody wrote.

    Args:
        public_url (`str`, *optional*):
            Address under which clients reach the server if not directly, such as `https://chat.example.org`, for the
            feedback URLs that it signs and for telling its own page from foreign ones.
        allowed_origins (`list[str]`, *optional*):
            Web origins other than the server's own whose pages may call it, such as `https://chat.example.org`.
        feedback_url_seconds (`int`, *optional*, defaults to `604800`):
            How long a signed feedback URL is good for.
        feedback_url_kinds (`list[FeedbackKind]`, *optional*, defaults to all):
            What a signed feedback URL may be used for. `comparison` and `ranking` are left out where there is one
            answer only.
        max_body_bytes (`int`, *optional*, defaults to `4194304`):
            Largest request body that is read.
        rate_limit_per_key (`str`, *optional*):
            Requests that one key, or one signed feedback URL, may send, such as `6000/minute`. No limit by default.
        rate_limit_per_user (`str`, *optional*):
            Requests for answers and statements that one named user may send, such as `300/minute`; each statement of
            a batch counts. No limit by default.
        comparison_strategy (`str`, *optional*, defaults to `"double_thompson"`):
            How the two answers are chosen that a client gets which welcomes a comparison (`X-Comparison: welcome`):
            `double_thompson` goes by where the heads of the reward model in service disagree, and takes any two where
            there is none; `random` always takes any two; `off` never asks.
        comparison_share (`float`, *optional*, defaults to `0.05`):
            Share of the requests that welcome a comparison which get one, on average and at most.
        comparison_candidates (`int`, *optional*, defaults to `8`):
            Answers that `double_thompson` chooses from.
        comparison_looks (`float`, *optional*, defaults to `2.0`):
            For how many requests candidates are generated for each one that `double_thompson` asks about: those where
            the heads disagree most. `1` asks about any. Each look costs `comparison_candidates` answers in place of
            one, and whoever waits for it gets no stream before all are there.
        comparison_rate_per_user (`str`, *optional*, defaults to `"6/hour"`):
            How often a user may be asked; those without a name count as one.
        comparison_registry (`str`, *optional*):
            Registry whose live reward model chooses. Defaults to the one whose policy is served.
        loop_dir (`str`, *optional*):
            `output_dir` of the `online-trl run` around this server, whose state the dashboard tells.
        pin_sessions (`bool`, *optional*, defaults to `False`):
            Whether a conversation stays with the policy version that answered it first, unless that is rolled back.
        log_messages (`bool`, *optional*, defaults to `False`):
            Whether the text of messages and feedback may stand in the server's own log.
        rating_bounds (`dict[str, tuple[float, float]]`, *optional*):
            Lowest and highest value of each named score that other services' clients send as a number, such as
            `{"stars": [1, 5]}`; 0 and 1 for names that are not in it.
        burst_rows (`int`, *optional*, defaults to `120`):
            Rows of feedback that one user may send within `burst_seconds` before further ones are quarantined. `0`
            turns the check off.
        burst_seconds (`int`, *optional*, defaults to `60`):
            See `burst_rows`.
        near_duplicates (`int`, *optional*, defaults to `5`):
            Rows of feedback that say nearly the same of different answers within `near_duplicate_seconds` before
            further ones are quarantined. `0` turns the check off.
        near_duplicate_seconds (`int`, *optional*, defaults to `3600`):
            See `near_duplicates`.

    Raises:
        [`~online_trl.config.ConfigError`]: if a value is out of bounds.
    """

    public_url: str | None = None
    allowed_origins: list[str] = field(default_factory=list)
    feedback_url_seconds: int = 604_800
    feedback_url_kinds: list[FeedbackKind] = field(default_factory=lambda: list(FeedbackKind))
    max_body_bytes: int = 4_194_304
    rate_limit_per_key: str | None = None
    rate_limit_per_user: str | None = None
    comparison_strategy: Literal["double_thompson", "random", "off"] = "double_thompson"
    comparison_share: float = 0.05
    comparison_candidates: int = 8
    comparison_looks: float = 2.0
    comparison_rate_per_user: str | None = "6/hour"
    comparison_registry: str | None = None
    loop_dir: str | None = None
    pin_sessions: bool = False
    log_messages: bool = False
    rating_bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    burst_rows: int = 120
    burst_seconds: int = 60
    near_duplicates: int = 5
    near_duplicate_seconds: int = 3600

    @property
    def screening(self) -> Screening:
        """What decides which feedback is quarantined."""
        return Screening(
            burst_rows=self.burst_rows,
            burst_seconds=self.burst_seconds,
            near_duplicates=self.near_duplicates,
            near_duplicate_seconds=self.near_duplicate_seconds,
        )

    def __post_init__(self) -> None:
        for name in ("feedback_url_seconds", "max_body_bytes", "burst_seconds", "near_duplicate_seconds"):
            check_range(name, getattr(self, name), 1, None)
        for name in ("burst_rows", "near_duplicates"):
            check_range(name, getattr(self, name), 0, None)
        check_range("comparison_share", self.comparison_share, 0, 1)
        check_range("comparison_candidates", self.comparison_candidates, 2, MOST_ANSWERS)
        check_range("comparison_looks", self.comparison_looks, 1, 100)
        for name in ("rate_limit_per_key", "rate_limit_per_user", "comparison_rate_per_user"):
            _check_rate(name, getattr(self, name))
        _check_bounds("rating_bounds", self.rating_bounds)
        _check_origins("allowed_origins", self.allowed_origins)
        _check_origins("public_url", [] if self.public_url is None else [self.public_url])


def read_settings(values: Mapping[str, Any], *, where: str) -> ServerSettings:
    """
    Returns the settings that a mapping holds, as a YAML file gives it.

    Args:
        values (`Mapping[str, Any]`):
            Values by name.
        where (`str`):
            Where they were written, for the message.

    Raises:
        [`~online_trl.config.ConfigError`]: if a name is unknown, or a value of the wrong type or out of bounds.
    """
    return from_mapping(ServerSettings, values, where=where)


def _check_rate(name: str, value: str | None) -> None:
    try:
        if value is not None and parse(value).amount < 1:
            raise ValueError("nothing would be let through")
    except ValueError as error:
        raise ConfigError(
            f"`{name}` is {value!r}, which is not a rate such as `300/minute` or `20 per 10 second`: {error}"
        ) from error


def _check_bounds(name: str, bounds: Mapping[str, tuple[float, float]]) -> None:
    for score, (low, high) in bounds.items():
        if not -math.inf < low < high < math.inf:
            raise ConfigError(
                f"`{name}` gives {score!r} the bounds {low} and {high}; they must be finite, the lowest one first"
            )


def _check_origins(name: str, origins: list[str]) -> None:
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"`{name}` names {origin!r}; it must be a scheme and a host in lower case, without a path: "
                "`https://chat.example.org`"
            )
