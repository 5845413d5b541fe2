"""
How often one key and one user may ask, and how often a user may be asked.

A limit holds for windows that begin with a first request each. Every server counts for itself: with several servers
on one log, the limits are those of each. The counts are kept here because the in-memory storage of `limits`, which
reads the settings, walks over all names after nearly every request.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from limits import RateLimitItem, parse

from .errors import RefusalError


class RateLimits:
    """
    Counts requests and refuses those beyond a limit. To be used by one thread.

    A key is charged for requests, whatever is in them. A user is charged for each request for answers and for each
    statement, so that a batch costs as much as its rows would one by one; a batch that goes beyond the limit of one
    of its users is refused as a whole, and costs nothing.

    Args:
        per_key (`str`, *optional*), per_user (`str`, *optional*):
            The limits, such as `6000/minute`. No limit by default.
        comparisons_per_user (`str`, *optional*):
            How often a user may be asked for a comparison. No limit by default.

    Raises:
        `ValueError`: if a limit is not one.
    """

    def __init__(
        self, *, per_key: str | None = None, per_user: str | None = None, comparisons_per_user: str | None = None
    ) -> None:
        self._per_key = None if per_key is None else _Windows(parse(per_key), "key")
        self._per_user = None if per_user is None else _Windows(parse(per_user), "user")
        self._comparisons = None if comparisons_per_user is None else _Windows(parse(comparisons_per_user), "user")

    def count_key(self, name: str) -> None:
        """
        Counts a request that came with a key.

        Args:
            name (`str`):
                Names the key, and is not the key itself.

        Raises:
            [`~online_trl.serving.errors.RefusalError`]: if there were too many.
        """
        if self._per_key is not None:
            self._per_key.charge({name: 1})

    def count_users(self, users: Iterable[str]) -> None:
        """
        Counts what users ask or say.

        Args:
            users (`Iterable[str]`):
                The user of each request or statement.

        Raises:
            [`~online_trl.serving.errors.RefusalError`]: if it was too much for one of them.
        """
        if self._per_user is not None:
            self._per_user.charge(Counter(users))

    def may_compare(self, user: str) -> bool:
        """Returns whether a user may be asked for a comparison now."""
        return self._comparisons is None or self._comparisons.has_room(user)

    def count_comparison(self, user: str) -> bool:
        """Counts that a user is asked for a comparison; returns `False`, and counts nothing, if they may not be."""
        is_allowed = self.may_compare(user)
        if self._comparisons is not None and is_allowed:
            self._comparisons.charge({user: 1})
        return is_allowed


@dataclass(slots=True)
class _Window:
    end: float
    spent: int = 0


class _Windows:
    """The present window of each name, in the order in which they end."""

    def __init__(self, limit: RateLimitItem, kind: str) -> None:
        self._limit = limit
        self._kind = kind
        self._seconds = limit.get_expiry()
        self._windows: dict[str, _Window] = {}

    def charge(self, costs: Mapping[str, int]) -> None:
        now = monotonic()
        self._forget(now)
        for name, cost in costs.items():
            window = self._windows.setdefault(name, _Window(now + self._seconds))
            if window.spent + cost > self._limit.amount:
                raise self._refusal(cost, window.end - now)
        for name, cost in costs.items():
            self._windows[name].spent += cost

    def has_room(self, name: str) -> bool:
        self._forget(monotonic())
        return name not in self._windows or self._windows[name].spent < self._limit.amount

    def _forget(self, now: float) -> None:
        for name in list(itertools.takewhile(lambda name: self._windows[name].end <= now, self._windows)):
            del self._windows[name]

    def _refusal(self, cost: int, seconds: float) -> RefusalError:
        if cost > self._limit.amount:
            remedy = f"split the {cost} rows of one {self._kind} into batches of {self._limit.amount} at most"
        else:
            remedy = "try again after the seconds in `Retry-After`"
        return RefusalError(
            429,
            f"too many requests of one {self._kind}: the limit is {self._limit!r}; {remedy}",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(max(1, math.ceil(seconds)))},
        )
