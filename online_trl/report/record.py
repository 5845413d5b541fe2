"""What there is to tell of a run or of a deployment, as one record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ..types import (
    Canary,
    Estimate,
    PolicyDecision,
    PolicyEvaluation,
    RewardRefresh,
    Sample,
    VersionEvaluation,
    utcnow,
)


@dataclass(frozen=True, slots=True)
class Look:
    """What was known of a version at one row of the log."""

    at: int
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something that happened to a version.

    Args:
        at (`datetime`):
            When, timezone-aware.
        row (`int`):
            Row of the log that came last before it.
        version (`str`):
            The version.
        what (`str`):
            What happened: `promoted`, `rolled back to`, `canary started` …
        reason (`str`):
            Why, in words.
    """

    at: datetime
    row: int
    version: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackOrigin:
    """
    Where the feedback comes from.

    Args:
        rows (`int`), users (`int`):
            Rows of feedback that count, and the users who gave them.
        busiest (`float`):
            Share of the rows that the most active of them gave; `nan` without feedback.
        by_source (`Mapping[str, int]`):
            How many rows came from people, simulations and behaviour.
        answers (`int`), answered_users (`int`):
            Answers in chats, and the users who got them.
        response_rate ([`~online_trl.types.Estimate`]):
            Share of these answers that somebody said something about, implicit signals aside.
    """

    rows: int = 0
    users: int = 0
    busiest: float = math.nan
    by_source: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    answered_users: int = 0
    response_rate: Estimate = field(default_factory=lambda: Estimate(math.nan, 0.0, 1.0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """How long it took from feedback to a policy in service that had learned from it, in seconds."""

    median: float
    most: float
    """Nine in ten rows took no longer."""
    rows: int
    unlearned: float
    """Share of all feedback that no policy that was in service has learned from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """
    A version among those that made another one.

    Args:
        version (`str`), status (`str`):
            Its name, and what became of it.
        made_of (`tuple[str, ...]`):
            The version it started from and the reward versions that paid it, as `started from policy-0001`.
        trained_on (`int`), judged_on (`int`):
            Rows of feedback that it was fitted to and judged by.
    """

    version: str
    status: str
    made_of: tuple[str, ...]
    trained_on: int
    judged_on: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStatus:
    """
    How the loop around a deployment is.

    Args:
        round (`int`), step (`str`):
            Number of the round under way, and what it is at.
        since (`str`):
            Since when.
        trouble (`str`):
            What went wrong or why it is paused, in words; empty if all is well.
        processes (`Mapping[str, str]`):
            How each process is that it keeps up; nothing if it is not running.
        is_running (`bool`, *optional*):
            Whether an `online-trl run` is at work there; `None` if nothing tells.
    """

    round: int
    step: str
    since: str
    trouble: str = ""
    processes: Mapping[str, str] = field(default_factory=dict)
    is_running: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """
    What came out of a run, or what a deployment has come to.

    Args:
        versions (`tuple[VersionEvaluation, ...]`):
            Every policy version, the base first.
        trainer (`str`, *optional*), seed (`int`, *optional*), seconds (`float`, *optional*):
            Name of the trainer, such as `grpo`, the seed of the run, and how long it took; `None` of a deployment.
        statuses (`Mapping[str, str]`):
            What became of each version, policies and reward models: `base`, `promoted`, `refused`, `rolled back` …
        in_service (`str`, *optional*):
            Name of the policy in service. Defaults to the base.
        decisions (`tuple[PolicyDecision, ...]`):
            What was decided of each candidate, in order.
        events (`tuple[Event, ...]`):
            What changed which policy serves whom, in order.
        canary ([`~online_trl.types.Canary`], *optional*):
            The canary that runs.
        looks (`Mapping[str, tuple[Look, ...]]`):
            Satisfaction with each version in chats, as it was known at several rows of the log.
        win_rates (`Mapping[tuple[str, str], Estimate]`):
            Expected points of a version against another, for some versions; `n` counts comparisons of just these two.
        reward_history (`tuple[RewardRefresh, ...]`):
            Every refresh of the reward model, in order.
        feedback_by_kind (`Mapping[str, int]`):
            How many feedback rows of each kind the log holds.
        origin ([`FeedbackOrigin`], *optional*):
            Where they come from.
        delay ([`Delay`], *optional*):
            How long it takes to learn from them; `None` before a policy in service has.
        samples (`tuple[Sample, ...]`):
            Prompts with the answers of two versions.
        evaluations (`tuple[PolicyEvaluation, ...]`):
            What an evaluator measured of the candidates, in order.
        lineage (`tuple[Ancestor, ...]`):
            The version whose lineage is told, and those that made it.
        loop ([`LoopStatus`], *optional*):
            How the loop is.
        latest_seq (`int`):
            Row up to which the log was read.
        gathered_at (`datetime`):
            When.

    Raises:
        `ValueError`: if there is no version.
    """

    versions: tuple[VersionEvaluation, ...]
    trainer: str | None = None
    seed: int | None = None
    seconds: float | None = None
    statuses: Mapping[str, str] = field(default_factory=dict)
    in_service: str | None = None
    decisions: tuple[PolicyDecision, ...] = ()
    events: tuple[Event, ...] = ()
    canary: Canary | None = None
    looks: Mapping[str, tuple[Look, ...]] = field(default_factory=dict)
    win_rates: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)
    reward_history: tuple[RewardRefresh, ...] = ()
    feedback_by_kind: Mapping[str, int]
    origin: FeedbackOrigin = field(default_factory=FeedbackOrigin)
    delay: Delay | None = None
    samples: tuple[Sample, ...] = ()
    evaluations: tuple[PolicyEvaluation, ...] = ()
    lineage: tuple[Ancestor, ...] = ()
    loop: LoopStatus | None = None
    latest_seq: int = 0
    gathered_at: datetime = field(default_factory=utcnow)

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("a report needs at least one version, the base")

    @property
    def base(self) -> VersionEvaluation:
        """The version that all others are compared with."""
        return self.versions[0]

    @property
    def live(self) -> VersionEvaluation:
        """The version in service."""
        return next((row for row in self.versions if row.policy_version == self.in_service), self.base)

    def status(self, version: str) -> str:
        """Returns what became of a version."""
        return self.statuses.get(version, "candidate")

    def was_accepted(self, version: str) -> bool:
        """Returns whether a version is, or was meant to be, in service."""
        return self.status(version) not in ("refused", "rolled back", "abandoned")

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        before, after = self.base.satisfaction, self.live.satisfaction
        where = ""
        if (before.n == 0 or after.n == 0) and self.base.chats and self.live.chats:
            before, after, where = self.base.chats.satisfaction, self.live.chats.satisfaction, " in chats"
        if before.n == 0 or after.n == 0:
            return f"{self.live.policy_version} is in service; too little was judged to say more."
        if self.live is self.base:
            return (
                f"{self.base.policy_version} stays in service, satisfaction{where} {before.mean:.2f}; "
                "no other was promoted."
            )
        apart = after.low > before.high or after.high < before.low
        return (
            f"Satisfaction{where} {'rose' if after.mean > before.mean else 'went'} from {before.mean:.2f} to "
            f"{after.mean:.2f}"
            + (", and the 95 % intervals do not overlap." if apart else ", but the 95 % intervals overlap.")
        )
