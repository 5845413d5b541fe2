"""The same preference said again, or following from what was said, adds nothing new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..types import FeedbackKind, PreferencePair

_ORDERS = (FeedbackKind.COMPARISON, FeedbackKind.RANKING)
_NOTHING = 1e-9


def count_once(pairs: Iterable[PreferencePair]) -> list[PreferencePair]:
    """
    Leaves of every pair only what its voice has not said before.

    However often and in whatever way somebody prefers one answer to another, it weighs what the strongest of these
    statements weighs: a later one adds the difference. What somebody states in a comparison or a ranking and what
    follows from their earlier ones (the first of three over the last) is dropped.

    Args:
        pairs (`Iterable[PreferencePair]`):
            Pairs by `seq`.
    """
    strongest: dict[tuple[object, ...], float] = defaultdict(float)
    orders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    kept = []
    for pair in pairs:
        key = (pair.voice, pair.interaction_ids, *(message["content"] for message in pair.chosen))
        added = pair.weight - strongest[key]
        if added < _NOTHING or (pair.kind in _ORDERS and _follows(orders[pair.voice], *pair.interaction_ids)):
            continue
        strongest[key] = pair.weight
        if pair.kind in _ORDERS:
            better, worse = pair.interaction_ids
            orders[pair.voice][better].add(worse)
        kept.append(pair if added == pair.weight else replace(pair, weight=added))
    return kept


def _follows(worse_than: Mapping[str, set[str]], better: str, worse: str) -> bool:
    """Whether a chain of two or more stated preferences leads from one answer to the other."""
    reached: set[str] = set()
    ahead = [name for name in worse_than.get(better, ()) if name != worse]
    while ahead:
        name = ahead.pop()
        if name == worse:
            return True
        if name not in reached:
            reached.add(name)
            ahead.extend(worse_than.get(name, ()))
    return False
