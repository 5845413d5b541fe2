"""No single user decides what is learned from a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar


class Weighable(Protocol):
    """A dataclass of something that somebody said, and how much it counts."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def voice(self) -> str:
        """Who said it."""
        ...

    @property
    def weight(self) -> float:
        """How much it counts."""
        ...


Weighted = TypeVar("Weighted", bound=Weighable)


def cap_user_shares(rows: Sequence[Weighted], max_share: float) -> list[Weighted]:
    """
    Scales weights down, never up, until no voice carries more than a share of the whole.

    The weight of everybody above the bound is scaled down to one common weight, the largest at which the bound holds
    of what is then left; the others keep theirs. With fewer voices than `1 / max_share` the bound cannot be kept and
    is `1 / voices`: all weigh the same. A voice is a user, all who give no name being one, or one row of an imported
    dataset: such rows are not crushed by having been imported in one go.

    Args:
        rows (`Sequence[Weighable]`):
            The rows of one batch, such as statements.
        max_share (`float`):
            Largest share of the total weight that one voice may carry, in (0, 1].

    Returns:
        `list[Weighable]`: The rows, in the order given.

    Example:

    ```python
    # ann's rows weigh 8, those of bob and cyd 1 each: at most a half leaves ann 2 of 4
    batch = cap_user_shares(rows, 0.5)
    ```
    """
    carried: dict[str, float] = defaultdict(float)
    for row in rows:
        carried[row.voice] += row.weight
    bound = _bound(sorted(carried.values(), reverse=True), max_share)
    factors = {voice: bound / weight for voice, weight in carried.items() if weight > bound}
    return [replace(row, weight=row.weight * factors[row.voice]) if row.voice in factors else row for row in rows]


def _bound(carried: Sequence[float], max_share: float) -> float:
    """
    The largest weight that a voice may keep, from the voices' weights in falling order.

    If the `k` heaviest are cut down to a weight `c` and the others carry `rest`, the bound is met where
    `c = share * (k * c + rest)`.
    """
    if not carried:
        return 0.0
    share = max(max_share, 1 / len(carried))
    rest = sum(carried)
    for heavier, weight in enumerate(carried):
        bound = share * rest / (1 - share * heavier)
        if weight <= bound:
            return bound
        rest -= weight
    return carried[-1]
