"""
What changes in a registry, and the rules by which it may: which versions are in service, which is tried on some users,
what became of the others.

It is kept as one JSON text, `live.json`, which is replaced whole and never edited. The rules know nothing of where
that text is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from ..types import Canary, CanaryOutcome, ModelRole, Promotion, VersionStatus, new_id, utcnow
from .errors import RegistryError
from .layout import number_of, role_of


@dataclass
class RegistryState:
    """
    Which versions are in service, and what became of the others.

    Args:
        live (`dict[ModelRole, list[str]]`):
            The way to the version in service: the last one is live, the one before it is where a rollback goes.
        numbers (`dict[ModelRole, int]`):
            Largest number that was ever given to a version.
        settled (`dict[str, tuple[VersionStatus, str]]`):
            Status and reason of each version that is no mere candidate.
        promotions (`list[Promotion]`):
            Every change of the versions in service, oldest first.
        canaries (`list[Canary]`):
            Every canary, oldest first; only the last one can be running.
        pruned (`dict[str, datetime]`):
            When the weights of a version were given up.
    """

    live: dict[ModelRole, list[str]] = field(default_factory=lambda: {role: [] for role in ModelRole})
    numbers: dict[ModelRole, int] = field(default_factory=lambda: dict.fromkeys(ModelRole, 0))
    settled: dict[str, tuple[VersionStatus, str]] = field(default_factory=dict)
    promotions: list[Promotion] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)
    pruned: dict[str, datetime] = field(default_factory=dict)

    def standing(self, name: str) -> tuple[VersionStatus, str]:
        """Returns the status of a version and the reason for it."""
        return self.settled.get(name, (VersionStatus.CANDIDATE, ""))

    def take_name(self, role: ModelRole, names: Iterable[str]) -> str:
        """Counts on from the largest number ever taken, so that the name of a deleted version does not come back."""
        self.numbers[role] = 1 + max([self.numbers[role], *map(number_of, names)])
        return f"{role.value}-{self.numbers[role]:04d}"

    def promote(self, name: str, reason: str) -> None:
        """Makes a version live, if it is not."""
        status, why = self.standing(name)
        if status is VersionStatus.REFUSED:
            raise RegistryError(f"{name} was refused and cannot go into service: {why}")
        self.check_has_weights(name)
        if status is not VersionStatus.LIVE:
            self._put_into_service(name, reason)

    def refuse(self, name: str, reason: str) -> None:
        """Marks a candidate as one that will not go into service, and ends the canary that tries it."""
        status, _ = self.standing(name)
        if status in (VersionStatus.LIVE, VersionStatus.RETIRED):
            raise RegistryError(f"{name} is {status.value}; only a candidate can be refused")
        if status is VersionStatus.CANDIDATE:
            self.settled[name] = (VersionStatus.REFUSED, reason)
            self._end_canary_of(name, CanaryOutcome.ROLLED_BACK, reason)

    def abandon(self, name: str, reason: str) -> None:
        """Sets a version aside."""
        if self.standing(name)[0] is VersionStatus.LIVE:
            raise RegistryError(f"{name} is live; promote another version or roll back before abandoning it")
        self.settled[name] = (VersionStatus.ABANDONED, reason)
        self._leave_line(name)
        self._end_canary_of(name, CanaryOutcome.STOPPED, reason)

    def rollback(self, role: ModelRole, reason: str, *, version: str | None = None) -> str:
        """Puts the version before the live one back into service and returns its name."""
        line = self.live[role]
        if version is not None and line[-1:] != [version]:
            raise RegistryError(f"{version} is not in service; {line[-1] if line else 'nothing'} is")
        if len(line) < 2:
            present = f"no version was live before {line[-1]}" if line else f"no {role.value} version is live"
            raise RegistryError(f"nothing to roll back to: {present}")
        name = line[-2]
        self._put_into_service(name, reason)
        return name

    @property
    def canary(self) -> Canary | None:
        """The canary that runs, if there is one."""
        return self.canaries[-1] if self.canaries and self.canaries[-1].outcome is None else None

    def start_canary(self, name: str, share: float) -> Canary:
        """Begins to answer a share of the users with a candidate."""
        status, why = self.standing(name)
        line = self.live[ModelRole.POLICY]
        if role_of(name) is not ModelRole.POLICY or status is not VersionStatus.CANDIDATE:
            what = "a reward model" if role_of(name) is not ModelRole.POLICY else f"{status.value} ({why})"
            raise RegistryError(f"{name} is {what}; only a candidate for the policy in service can be tried on users")
        self.check_has_weights(name)
        if not 0 < share < 1:
            raise RegistryError(f"a canary's share must lie between 0 and 1, not at {share}")
        if not line:
            raise RegistryError(f"no policy is live for {name} to be compared with; promote one first")
        if self.canary is not None:
            raise RegistryError(f"a canary of {self.canary.version} is running; promote or roll back that one first")
        canary = Canary(canary_id=new_id(), version=name, incumbent=line[-1], share=share, started_at=utcnow())
        self.canaries.append(canary)
        return canary

    def end_canary(self, name: str, reason: str, *, promote: bool) -> Canary:
        """Ends the canary of a version, which goes into service or is refused."""
        if self.canary is None or self.canary.version != name:
            raise RegistryError(f"no canary of {name} is running")
        if promote:
            self.promote(name, reason)
        else:
            self.refuse(name, reason)
        return self.canaries[-1]

    def prune(self, names: Iterable[str]) -> None:
        """Gives up the weights of versions that nothing needs."""
        for name in names:
            self.pruned[name] = utcnow()
            self._leave_line(name)

    def needed(self, role: ModelRole) -> set[str]:
        """Returns the versions that are live, would be live after a rollback, or are tried on users."""
        tried = {self.canary.version} if self.canary is not None else set()
        return {*self.live[role][-2:]} | tried

    def check_has_weights(self, name: str) -> None:
        """Raises a [`RegistryError`] if the weights of a version were given up."""
        if name in self.pruned:
            raise RegistryError(
                f"the weights of {name} were pruned on {self.pruned[name]:%Y-%m-%d}; what is known of it is kept, but "
                "it can be loaded no more"
            )

    def _put_into_service(self, name: str, reason: str) -> None:
        """Makes a version live and retires the one before. One that was live earlier goes back to its place."""
        line = self.live[role_of(name)]
        former = line[-1] if line else None
        if former is not None:
            self.settled[former] = (VersionStatus.RETIRED, f"replaced by {name}")
        if name in line:
            del line[line.index(name) :]
        line.append(name)
        self.settled[name] = (VersionStatus.LIVE, reason)
        self.promotions.append(Promotion(version=name, replaced=former, reason=reason, at=utcnow()))
        self._end_canary_of(name, CanaryOutcome.PROMOTED, reason)
        self._end_canary_against(former, f"{name} went into service meanwhile: {reason}")

    def _leave_line(self, name: str) -> None:
        line = self.live[role_of(name)]
        line[:] = [other for other in line if other != name]

    def _end_canary_of(self, candidate: str, outcome: CanaryOutcome, reason: str) -> None:
        if self.canary is not None and self.canary.version == candidate:
            self.canaries[-1] = replace(self.canaries[-1], ended_at=utcnow(), outcome=outcome, reason=reason)

    def _end_canary_against(self, incumbent: str | None, reason: str) -> None:
        if self.canary is not None and self.canary.incumbent == incumbent:
            self._end_canary_of(self.canary.version, CanaryOutcome.STOPPED, reason)

    def dump(self) -> str:
        """Returns the state as the text that is stored."""
        content = {
            "live": {role.value: line for role, line in self.live.items()},
            "numbers": {role.value: number for role, number in self.numbers.items()},
            "settled": {name: {"status": status.value, "reason": why} for name, (status, why) in self.settled.items()},
            "promotions": [asdict(promotion) for promotion in self.promotions],
            "canaries": [asdict(canary) for canary in self.canaries],
            "pruned": self.pruned,
        }
        return json.dumps(content, indent=2, ensure_ascii=False, default=datetime.isoformat)

    @classmethod
    def load(cls, text: str, *, where: str) -> RegistryState:
        """Returns the state that was stored as a text."""
        try:
            return cls._load(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"{where} is damaged ({error!r}); put back a copy of it") from error

    @classmethod
    def _load(cls, content: dict[str, Any]) -> RegistryState:
        return cls(
            live={role: content["live"][role.value] for role in ModelRole},
            numbers={role: content["numbers"][role.value] for role in ModelRole},
            settled={name: (VersionStatus(row["status"]), row["reason"]) for name, row in content["settled"].items()},
            promotions=[Promotion(**_with_times(row)) for row in content["promotions"]],
            canaries=[_canary(row) for row in content.get("canaries", [])],
            pruned={name: datetime.fromisoformat(at) for name, at in content.get("pruned", {}).items()},
        )


def _canary(row: dict[str, Any]) -> Canary:
    outcome = None if row["outcome"] is None else CanaryOutcome(row["outcome"])
    return Canary(**_with_times(row) | {"outcome": outcome})


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    times = {name: datetime.fromisoformat(row[name]) for name in ("at", "started_at", "ended_at") if row.get(name)}
    return row | times
