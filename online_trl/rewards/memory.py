"""
What the reward model is trained and judged on, out of everything that was said so far.

Which conversations only judge is decided by their ids alone, so that every run and every resume decides the same. No
statement is used both to train and to judge, and no two of one conversation fall on different sides. The samples of
old statements are decided by ids as well: reading the log in other portions gives the same ones.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Literal

import numpy as np

from ..preferences import statement_key
from ..types import Statement

_SPAN = 2.0**64


class Side(str, Enum):
    """What a statement is for."""

    TRAINED_ON = "trained_on"
    JUDGED_ON = "judged_on"
    NEITHER = "neither"
    """It joins conversations of both sides."""


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """
    When people began to want something else.

    Args:
        seq (`int`):
            Position in the log of the first statement after the change.
        at (`datetime`):
            When that was said, timezone-aware.
    """

    seq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Recency:
    """
    How much an old statement still counts: 2^(−age / half-life).

    Age is counted from the end of the log, with `half_life`. What was said before a change counts less on top of that:
    its age is counted back from the change point as well, with `drift_half_life`.

    Args:
        half_life (`float`, *optional*):
            Age at which a statement counts half. `None` lets all count in full.
        drift_half_life (`float`, *optional*):
            The same for what was said before a change, counted back from it. `None` lets it count as the rest.
        unit (`"rows"` or `"hours"`, *optional*, defaults to `"rows"`):
            Whether age is counted in rows of the log or in hours since it was said.
    """

    half_life: float | None = None
    drift_half_life: float | None = None
    unit: Literal["rows", "hours"] = "rows"

    def __post_init__(self) -> None:
        for name in ("half_life", "drift_half_life"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}; a half-life is above 0, or None for no weighting")

    def factor(self, statement: Statement, *, upto: int, now: datetime, change: ChangePoint | None = None) -> float:
        """
        Returns what the weight of a statement is multiplied by.

        Args:
            statement ([`~online_trl.types.Statement`]):
                The statement.
            upto (`int`), now (`datetime`):
                End of the log, and the time that goes with it.
            change ([`ChangePoint`], *optional*):
                The newest change.
        """
        factor = self._decay(statement, upto, now, self.half_life)
        if change is not None:
            factor *= self._decay(statement, change.seq, change.at, self.drift_half_life)
        return factor

    def _decay(self, statement: Statement, seq: int, at: datetime, half_life: float | None) -> float:
        if half_life is None:
            return 1.0
        age = seq - statement.seq if self.unit == "rows" else _hours(at, statement.said_at)
        return float(2.0 ** -(max(age, 0.0) / half_life))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The 0.1, 0.5 and 0.9 quantiles of something; NaN of nothing."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Ages:
    """
    How old the statements were that a refresh used.

    Args:
        rows ([`Quantiles`]), hours ([`Quantiles`]):
            How long ago they were made, in rows of the log and in hours.
        delay_hours ([`Quantiles`]):
            How long after the answer they were made.
        by_policy_version (`dict[str, int]`):
            How many are about answers of each policy version, by its name. One that compares answers of two versions
            counts for both.
    """

    rows: Quantiles
    hours: Quantiles
    delay_hours: Quantiles
    by_policy_version: dict[str, int]


class Reservoir:
    """
    A uniform sample of bounded size of all statements that were ever offered.

    A statement's place is decided by a hash of its key: those with the smallest stay. What is offered in which order,
    or twice, makes no difference. What is forgotten leaves a gap, which only statements that would have been in the
    sample anyway may fill, so that it stays uniform.

    Args:
        capacity (`int`):
            Most statements that are kept.
        salt (`str`):
            Statements are drawn differently for each salt.
    """

    def __init__(self, capacity: int, salt: str) -> None:
        self.capacity = capacity
        self.salt = salt
        self._kept: dict[str, tuple[float, Statement]] = {}
        self._bound = 1.0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Statement]:
        """Iterates by `seq`."""
        return iter(sorted((statement for _, statement in self._kept.values()), key=_by_seq))

    def offer(self, statements: Iterable[Statement]) -> None:
        """Takes in statements, and lets go of those that are not in the sample."""
        for statement in statements:
            key = statement_key(statement)
            place = _place(self.salt, key)
            if place < self._bound:
                self._kept[key] = (place, statement)
        if len(self._kept) > self.capacity:
            ranked = sorted(self._kept.items(), key=lambda item: item[1][0])
            self._bound = ranked[self.capacity][1][0]
            self._kept = dict(ranked[: self.capacity])

    def forget(self, withdrawn: frozenset[str]) -> None:
        """Drops what rests on withdrawn rows."""
        self._kept = {key: kept for key, kept in self._kept.items() if not _rests_on(kept[1], withdrawn)}


class StatementMemory:
    """
    Remembers statements for refreshes of the reward model, in bounded memory.

    Args:
        heldout_fraction (`float`, *optional*, defaults to `0.2`):
            Share of the conversations that only judge, in [0, 1].
        window (`int`, *optional*, defaults to `256`):
            The newest so many held-out statements decide whether a version goes into service.
        audit_size (`int`, *optional*, defaults to `256`):
            Size of the sample of held-out statements of all times.
        replay (`float`, *optional*, defaults to `1.0`):
            Old statements mixed in, as a multiple of the fresh ones.
        recency ([`Recency`], *optional*):
            How much old statements still count. By default all count in full.
        capacity (`int`, *optional*, defaults to `20000`):
            Most old statements that are kept to be trained on.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples. Which conversations only judge does not depend on it.

    Attributes:
        change ([`ChangePoint`] or `None`):
            The newest change of what people want, set by whoever detects it. From then on only what was said since
            judges, and old statements count less, see [`Recency`].
    """

    def __init__(
        self,
        *,
        heldout_fraction: float = 0.2,
        window: int = 256,
        audit_size: int = 256,
        replay: float = 1.0,
        recency: Recency | None = None,
        capacity: int = 20_000,
        seed: int = 0,
    ) -> None:
        self.heldout_fraction = heldout_fraction
        self.window = window
        self.replay = replay
        self.recency = recency or Recency()
        self.seed = seed
        self.change: ChangePoint | None = None
        self._history = Reservoir(capacity, f"history-{seed}")
        self._audit = Reservoir(audit_size, f"audit-{seed}")
        self._heldout: dict[str, Statement] = {}

    def side(self, statement: Statement) -> Side:
        """
        Returns what a statement is for, which its conversations decide: it judges if all of them only judge, and is
        trained on if none does. One that names no conversation stands for itself.
        """
        names = statement.session_ids or (statement_key(statement),)
        heldout = [_place("heldout", name) < self.heldout_fraction for name in names]
        if all(heldout):
            return Side.JUDGED_ON
        return Side.NEITHER if any(heldout) else Side.TRAINED_ON

    def trainable(self, statements: Iterable[Statement]) -> list[Statement]:
        """Returns those that may be trained on, as they are."""
        return [statement for statement in statements if self.side(statement) is Side.TRAINED_ON]

    def remember(self, statements: Iterable[Statement]) -> None:
        """Takes in statements, those of a refresh or of the past. The same one twice is one."""
        statements = list(statements)
        self._history.offer(self.trainable(statements))
        heldout = [statement for statement in statements if self.side(statement) is Side.JUDGED_ON]
        self._audit.offer(heldout)
        self._heldout |= {statement_key(statement): statement for statement in heldout}
        # More than the window, so that it stays full when some of it is withdrawn.
        newest = heapq.nlargest(2 * self.window, self._heldout.items(), key=lambda item: _by_seq(item[1]))
        self._heldout = dict(newest)

    def forget(self, withdrawn: Collection[str]) -> None:
        """
        Drops what rests on rows that no longer count.

        Args:
            withdrawn (`Collection[str]`):
                Ids of feedback that was taken back or replaced, and of feedback and interactions that were erased.
        """
        names = frozenset(withdrawn)
        self._history.forget(names)
        self._audit.forget(names)
        self._heldout = {key: kept for key, kept in self._heldout.items() if not _rests_on(kept, names)}

    def judging_slice(self) -> list[Statement]:
        """Returns the newest held-out statements, by `seq`."""
        return sorted(self._since_change(self._heldout.values()), key=_by_seq)[-self.window :]

    def audit_set(self) -> list[Statement]:
        """Returns the sample of held-out statements of all times since the newest change, by `seq`."""
        return self._since_change(self._audit)

    def heldout(self, *, before_change: bool = False) -> list[Statement]:
        """
        Returns the judging slice and the audit set, by `seq`: what a candidate is compared with the live version on.
        The newest alone are few, and what is wrong with what is new is wrong with them as well.

        Args:
            before_change (`bool`, *optional*, defaults to `False`):
                Whether to add what was said before the newest change.
        """
        rows = [*self.audit_set(), *self.judging_slice()]
        if before_change:
            rows += [*self._audit, *sorted(self._heldout.values(), key=_by_seq)[-self.window :]]
        return sorted({statement_key(row): row for row in rows}.values(), key=_by_seq)

    def training_set(self, fresh: Iterable[Statement], *, upto: int, now: datetime) -> list[Statement]:
        """
        Returns what a refresh is trained on: of the fresh statements those that may be, and a sample of old ones, with
        their weights scaled by age.

        Args:
            fresh (`Iterable[Statement]`):
                What came in since the refresh before. Whether it was remembered already makes no difference.
            upto (`int`), now (`datetime`):
                End of the log that the refresh sees, and the time that goes with it.

        Returns:
            `list[Statement]`: By `seq`; the same for the same memory, seed and `upto`.
        """
        chosen = {statement_key(statement): statement for statement in self.trainable(fresh)}
        old = {key: row for row in self._history if (key := statement_key(row)) not in chosen}
        salt = f"replay-{self.seed}-{upto}"
        sample = heapq.nsmallest(round(self.replay * len(chosen)), old, key=lambda key: _place(salt, key))
        rows = [*chosen.values(), *(old[key] for key in sample)]
        return sorted((self._weighted(row, upto, now) for row in rows), key=_by_seq)

    def everything(self, *, upto: int, now: datetime) -> list[Statement]:
        """Returns all statements that may be trained on, as for a restart from the initial model; weights by age."""
        return [self._weighted(row, upto, now) for row in self._history]

    def _weighted(self, statement: Statement, upto: int, now: datetime) -> Statement:
        factor = self.recency.factor(statement, upto=upto, now=now, change=self.change)
        return statement if factor == 1.0 else replace(statement, weight=statement.weight * factor)

    def _since_change(self, statements: Iterable[Statement]) -> list[Statement]:
        return [row for row in statements if self.change is None or row.seq >= self.change.seq]


def ages(statements: Sequence[Statement], *, upto: int, now: datetime) -> Ages:
    """
    Returns how old statements are.

    Args:
        statements (`Sequence[Statement]`):
            What a refresh used.
        upto (`int`), now (`datetime`):
            End of the log that the refresh saw, and the time that goes with it.
    """
    versions = Counter(version for statement in statements for version in statement.policy_versions)
    return Ages(
        rows=_quantiles([upto - statement.seq for statement in statements]),
        hours=_quantiles([_hours(now, statement.said_at) for statement in statements]),
        delay_hours=_quantiles([_hours(statement.said_at, statement.answered_at) for statement in statements]),
        by_policy_version=dict(sorted(versions.items())),
    )


def _rests_on(statement: Statement, names: frozenset[str]) -> bool:
    return not names.isdisjoint((*statement.feedback_ids, *statement.interaction_ids))


def _quantiles(values: Sequence[float]) -> Quantiles:
    if not values:
        return Quantiles(float("nan"), float("nan"), float("nan"))
    low, median, high = np.quantile(np.asarray(values, dtype=float), (0.1, 0.5, 0.9)).tolist()
    return Quantiles(low, median, high)


def _hours(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds() / 3600


def _by_seq(statement: Statement) -> tuple[int, str]:
    return statement.seq, statement_key(statement)


def _place(salt: str, key: str) -> float:
    """A number in [0, 1), as good as random, and always the same for the same two texts."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / _SPAN
