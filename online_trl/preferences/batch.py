"""What one interval of the log has to teach."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product

from ..store import LogReader
from ..types import Feedback, FeedbackKind, Interaction, PreferencePair, Ranking, Statement, UnpairedLabel
from .change import Change
from .pairs import fresh_labels, fresh_pairs, fresh_rankings, tiers
from .regeneration import asks_again
from .rows import about_chats, seq_of
from .shares import cap_user_shares


@dataclass(frozen=True)
class PreferenceBatch:
    """
    What one interval of the log has to teach.

    Args:
        pairs (`tuple[PreferencePair, ...]`):
            Preference pairs, by `seq`.
        labels (`tuple[UnpairedLabel, ...]`):
            Thumbs and ratings, the last one of each user on an answer, by `seq`.
        rankings (`tuple[Ranking, ...]`):
            Rankings and tied comparisons, by `seq`. What they order is in `pairs` too.
        feedback_ids (`tuple[str, ...]`):
            Every feedback row of the interval about a chat, whether or not it gave a pair or a label.
        after (`int`), upto (`int`):
            The interval `(after, upto]`.
        withdrawn (`frozenset[str]`):
            What stopped to count in the interval: ids of feedback that was replaced or taken back, of thumbs and
            ratings after which the user gave the answer another one, and of feedback and interactions that were
            erased. Whoever keeps statements of earlier batches drops those that rest on them. What had been left out
            on their account and counts now is in this batch, with the `seq` that it always had.
    """

    pairs: tuple[PreferencePair, ...]
    labels: tuple[UnpairedLabel, ...]
    feedback_ids: tuple[str, ...]
    after: int
    upto: int
    withdrawn: frozenset[str] = frozenset()
    rankings: tuple[Ranking, ...] = ()

    @property
    def statements(self) -> tuple[Statement, ...]:
        """
        Everything that was said, once, by `seq`: a ranking as the whole order rather than its pairs, unless some of
        them had been said before; then as the others, and its ties.
        """
        ranked = [pair for pair in self.pairs if pair.kind is FeedbackKind.RANKING]
        new = {(pair.feedback_ids, pair.interaction_ids): pair.weight for pair in ranked}
        whole = [each for each in self.rankings if _is_new(each, new)]
        told = {ranking.feedback_ids for ranking in whole}
        rest = [tie for each in self.rankings if each.feedback_ids not in told for tie in _ties(each)]
        pairs = [pair for pair in self.pairs if pair.feedback_ids not in told]
        return tuple(sorted([*pairs, *whole, *rest, *self.labels], key=lambda statement: statement.seq))

    def still_counts(self, statement: Statement) -> bool:
        """Returns whether a statement of an earlier batch rests on nothing that was withdrawn in this one."""
        named = (*statement.feedback_ids, *statement.interaction_ids)
        return self.withdrawn.isdisjoint(named)

    def with_capped_shares(self, max_user_share: float) -> PreferenceBatch:
        """
        Returns the batch with the weights of pairs, labels and rankings scaled by [`~preferences.cap_user_shares`].

        Args:
            max_user_share (`float`):
                Largest share of the weight that one user may carry, in (0, 1].
        """
        return replace(
            self,
            pairs=tuple(cap_user_shares(self.pairs, max_user_share)),
            labels=tuple(cap_user_shares(self.labels, max_user_share)),
            rankings=tuple(cap_user_shares(self.rankings, max_user_share)),
        )


def read_preferences(store: LogReader, *, after: int, upto: int) -> PreferenceBatch:
    """
    Returns what the interval `(after, upto]` of the log has to teach.

    A pair may join a new verdict to one from before the interval. A row that was superseded or taken back by `upto` is
    left out, and so is a thumb or rating after which the user gave the answer another one.

    Args:
        store ([`~store.LogReader`]):
            The log.
        after (`int`):
            `seq` after which the interval begins: the `upto` of the batch before.
        upto (`int`):
            Last `seq` of the interval, at most `store.latest_seq()`.

    Raises:
        `ValueError`: if the interval runs backwards or beyond the end of the log.
    """
    if not 0 <= after <= upto <= store.latest_seq():
        raise ValueError(f"({after}, {upto}] is no interval of the log, which ends at {store.latest_seq()}")
    with _without_collector():
        return _read(store, after=after, upto=upto)


def _is_new(ranking: Ranking, weights: Mapping[tuple[tuple[str, ...], tuple[str, ...]], float]) -> bool:
    """Whether each pair that a ranking stands for has its full weight, of which what was said before is taken off."""
    groups = tiers(zip(ranking.interaction_ids, ranking.ranks, strict=True))
    return all(
        math.isclose(weights.get((ranking.feedback_ids, couple), 0.0), 1 / (len(better) * len(worse)))
        for better, worse in pairwise(groups)
        for couple in product(better, worse)
    )


def _ties(ranking: Ranking) -> list[Ranking]:
    """The answers that a ranking puts on one rank, as a ranking for each such rank."""
    places = tiers(zip(range(len(ranking.ranks)), ranking.ranks, strict=True))
    return [
        replace(
            ranking,
            completions=[ranking.completions[place] for place in group],
            interaction_ids=tuple(ranking.interaction_ids[place] for place in group),
            ranks=(1,) * len(group),
        )
        for group in places
        if len(group) > 1
    ]


@contextmanager
def _without_collector() -> Iterator[None]:
    """
    Keeps Python from looking for garbage meanwhile. A read makes many objects and hardly any garbage in cycles,
    but so many new objects make Python walk through all that the process holds, which doubles one read in ten.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(store: LogReader, *, after: int, upto: int) -> PreferenceBatch:
    feedback = store.related_feedback(after=after, upto=upto)
    interactions = _answers(store, feedback, after=after, upto=upto)
    fresh = [row for row in feedback if seq_of(row) > after]
    change = Change.of(feedback, interactions, after=after)
    erased = store.tombstones(after=after, upto=upto)
    return PreferenceBatch(
        pairs=tuple(fresh_pairs(change)),
        labels=tuple(fresh_labels(change)),
        feedback_ids=tuple(row.feedback_id for row in about_chats(fresh, interactions)),
        after=after,
        upto=upto,
        withdrawn=change.withdrawn.union(
            (row.supersedes for row in fresh if row.supersedes is not None),
            (name for mark in erased for name in (*mark.feedback_ids, *mark.interaction_ids)),
        ),
        rankings=tuple(fresh_rankings(change)),
    )


def _answers(store: LogReader, feedback: list[Feedback], *, after: int, upto: int) -> dict[str, Interaction]:
    """The answers that feedback is about, and those that tell what became of a regenerated one."""
    named = (name for row in feedback for name in row.interaction_ids)
    interactions = store.get_interactions(named, tokens=False)
    asked_again = [interactions.get(row.interaction_ids[0]) for row in feedback if asks_again(row)]
    sessions = {old.session_id for old in asked_again if old is not None}
    siblings = store.session_interactions(sessions, upto=upto, tokens=False)
    regenerated = store.related_regenerations(after=after, upto=upto, tokens=False)
    return interactions | {answer.interaction_id: answer for answer in [*siblings, *regenerated]}
