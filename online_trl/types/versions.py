"""Versions of policies and reward models, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any


class ModelRole(str, Enum):
    """What a version in the registry is for."""

    POLICY = "policy"
    REWARD = "reward"


class VersionStatus(str, Enum):
    """
    What became of a version: `CANDIDATE` until a gate decides, then `LIVE` or `REFUSED`; `RETIRED` once replaced;
    `ABANDONED` if a run that was resumed from before it left it behind.
    """

    CANDIDATE = "candidate"
    LIVE = "live"
    RETIRED = "retired"
    ABANDONED = "abandoned"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """
    One published set of weights.

    Args:
        name (`str`):
            Unique name: role and number, such as `policy-0003` or `reward-0012`.
        role ([`ModelRole`]):
            What it is for.
        parent (`str`, *optional*):
            Version it was trained from.
        feedback_interval (`tuple[int, int]`, *optional*):
            Half-open interval `(after, upto]` of `seq` whose feedback it learned from.
        prompt_interval (`tuple[int, int]`, *optional*):
            Half-open interval `(after, upto]` of `seq` whose prompts it was trained on (policies only).
        reward_versions (`tuple[str, ...]`):
            Reward versions that paid it, in order (policies only).
        metrics (`dict[str, float]`):
            What was measured when it was published, such as `reward_accuracy`.
        config (`dict[str, Any]`):
            Settings that made it, as far as they are plain values.
        checksums (`dict[str, str]`):
            SHA-256 of each file, by relative path.
        created_at (`datetime`):
            Timezone-aware publication time.
        status ([`VersionStatus`]):
            What became of it.
        reason (`str`):
            Why it has that status, in words.
        pruned_at (`datetime`, *optional*):
            When its weights were removed; what is known of it stays.
    """

    name: str
    role: ModelRole
    created_at: datetime
    parent: str | None = None
    feedback_interval: tuple[int, int] | None = None
    prompt_interval: tuple[int, int] | None = None
    reward_versions: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    status: VersionStatus = VersionStatus.CANDIDATE
    reason: str = ""
    pruned_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """
    What somebody measured of a version after it was published.

    Args:
        kind (`str`):
            What was measured, such as `win_rate`.
        at (`datetime`):
            When, timezone-aware.
        figures (`Mapping[str, Any]`):
            The results, as plain values that JSON can hold.
    """

    kind: str
    at: datetime
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Promotion:
    """
    One change of the version in service.

    Args:
        version (`str`):
            The version that went into service.
        replaced (`str`, *optional*):
            The version that it took over from.
        reason (`str`):
            Why, in words.
        at (`datetime`):
            When, timezone-aware.
    """

    version: str
    replaced: str | None
    reason: str
    at: datetime


class CanaryOutcome(str, Enum):
    """
    How a canary ended: `PROMOTED` if its candidate went into service, `ROLLED_BACK` if it was refused, `STOPPED` if
    neither was decided, because another version went into service or the candidate was abandoned.
    """

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """
    A candidate that answers a share of the users, and how that ended.

    Args:
        canary_id (`str`):
            Unique; who gets the candidate is drawn from it.
        version (`str`):
            The candidate.
        incumbent (`str`):
            The version in service, which answers everybody else.
        share (`float`):
            Share of the users, and of the sessions without one, that get the candidate.
        started_at (`datetime`), ended_at (`datetime`, *optional*):
            From when to when, timezone-aware. Without an end, it runs.
        outcome ([`CanaryOutcome`], *optional*), reason (`str`, *optional*):
            How it ended, and why, in words.
    """

    canary_id: str
    version: str
    incumbent: str
    share: float
    started_at: datetime
    ended_at: datetime | None = None
    outcome: CanaryOutcome | None = None
    reason: str = ""
