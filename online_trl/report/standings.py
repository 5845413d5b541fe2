"""What a registry says of its versions: what became of each, when and why."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime

from ..estimates import share_estimate
from ..registry import ModelRegistry
from ..types import (
    Canary,
    CanaryOutcome,
    Estimate,
    EvaluationRecord,
    GateDecision,
    ModelRole,
    ModelVersion,
    PolicyDecision,
    Promotion,
    RewardRefresh,
    VersionStatus,
)
from .record import Event


class Standings:
    """
    The versions of a registry, read once.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`], *optional*):
            The registry. Without one there are no versions.
    """

    def __init__(self, registry: ModelRegistry | None) -> None:
        self._registry = registry
        self.policies: dict[str, ModelVersion] = {}
        self.rewards: dict[str, ModelVersion] = {}
        self.live: str | None = None
        self.canary: Canary | None = None
        self._line: list[str] = []
        self._canaries: list[Canary] = []
        self._history: dict[ModelRole, list[Promotion]] = {role: [] for role in ModelRole}
        if registry is not None:
            self.policies = {version.name: version for version in registry.versions(ModelRole.POLICY)}
            self.rewards = {version.name: version for version in registry.versions(ModelRole.REWARD)}
            self._line = registry.line(ModelRole.POLICY)
            self.live = self._line[-1] if self._line else None
            self._canaries = registry.canaries()
            self.canary = registry.canary()
            self._history = {role: registry.history(role) for role in ModelRole}

    def statuses(self, names: Sequence[str]) -> dict[str, str]:
        """Returns what became of each version."""
        return {name: self._status(name, is_base=name == names[0]) for name in [*names, *self.rewards]}

    def decisions(self) -> tuple[PolicyDecision, ...]:
        """Returns what was decided of each candidate, in order."""
        promoted = self._first_promotions(ModelRole.POLICY)
        return tuple(
            PolicyDecision(
                version=version.name,
                incumbent=version.parent,
                decision=GateDecision(version.name in promoted, promoted.get(version.name, version.reason)),
            )
            for version in [*self.policies.values()][1:]
            if version.name in promoted or version.status is VersionStatus.REFUSED
        )

    def events(self, answered: Sequence[tuple[float, int]]) -> tuple[Event, ...]:
        """
        Returns what changed which policy serves whom, in order.

        Args:
            answered (`Sequence[tuple[float, int]]`):
                Time and row of the log of each answer.
        """
        ordered = sorted(answered)
        times, rows = [time for time, _ in ordered], [row for _, row in ordered]

        def row_of(at: datetime) -> int:
            place = bisect_right(times, at.timestamp())
            return rows[place - 1] if place else 0

        found = [(at, version, what, why) for at, version, what, why in [*self._changes(), *self._tries()]]
        return tuple(Event(at, row_of(at), *rest) for at, *rest in sorted(found, key=lambda event: event[0]))

    def reward_history(self) -> tuple[RewardRefresh, ...]:
        """Returns every refresh of the reward model that was decided on, in order."""
        promoted = self._first_promotions(ModelRole.REWARD)
        return tuple(
            RewardRefresh(
                version=version.name,
                decision=GateDecision(version.name in promoted, promoted.get(version.name, version.reason)),
                accuracy=reward_accuracy(version) or Estimate(math.nan, 0.0, 1.0, 0),
                statements=int(version.metrics.get("statements", 0)),
                ece=version.metrics.get("ece"),
                reliability=tuple(
                    (each["predicted"], each["observed"], each["weight"])
                    for each in version.config.get("pair_calibration") or ()
                ),
                drift=version.config.get("drift"),
                restarted=version.config.get("restarted"),
                upto=version.feedback_interval[1] if version.feedback_interval else None,
            )
            for version in self.rewards.values()
            # One that a resumed run left behind is made again.
            if version.status not in (VersionStatus.CANDIDATE, VersionStatus.ABANDONED)
        )

    def evaluations(self, name: str) -> list[EvaluationRecord]:
        """Returns what was recorded of a version."""
        return self._registry.evaluations(name) if self._registry is not None and name in self.policies else []

    def _status(self, name: str, *, is_base: bool) -> str:
        version = self.policies.get(name) or self.rewards.get(name)
        if is_base:
            return "base"
        if version is None:
            return "not in the registry"
        if self.canary is not None and self.canary.version == name:
            return "canary"
        if version.status not in (VersionStatus.LIVE, VersionStatus.RETIRED):
            return str(version.status.value)
        is_policy = version.role is ModelRole.POLICY
        return "rolled back" if is_policy and name not in self._line else "promoted"

    def _changes(self) -> Iterator[tuple[datetime, str, str, str]]:
        seen: set[str] = set()
        for change in self._history[ModelRole.POLICY]:
            if change.version in seen:
                yield change.at, change.version, "back in service", f"in place of {change.replaced}: {change.reason}"
            else:
                yield change.at, change.version, "promoted", change.reason
            seen.add(change.version)

    def _tries(self) -> Iterator[tuple[datetime, str, str, str]]:
        for canary in self._canaries:
            why = f"answers {canary.share:.0%} of the users beside {canary.incumbent}"
            yield canary.started_at, canary.version, "canary began", why
            # Where it ended in a promotion, that tells it.
            if canary.ended_at is not None and canary.outcome not in (None, CanaryOutcome.PROMOTED):
                outcome = canary.outcome.value.replace("_", " ")
                yield canary.ended_at, canary.version, f"canary {outcome}", canary.reason

    def _first_promotions(self, role: ModelRole) -> dict[str, str]:
        return {row.version: row.reason for row in reversed(self._history[role])}


def reward_accuracy(version: ModelVersion | None) -> Estimate | None:
    """
    Returns how often a reward model agreed with held-out statements when it was published, if that is known.

    Args:
        version ([`~online_trl.types.ModelVersion`], *optional*):
            The reward model.
    """
    if version is None:
        return None
    # The registry leaves out what is not a number: a refresh without held-out statements has no accuracy.
    metrics = version.metrics
    return share_estimate(metrics.get("reward_accuracy", math.nan), int(metrics.get("heldout_statements", 0)))
