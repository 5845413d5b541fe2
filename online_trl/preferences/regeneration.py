"""Pairs that follow from a user asking for another answer to the same turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..types import Feedback, FeedbackKind, Interaction, PreferencePair, Purpose
from .rows import are_alternatives, make_pair, seq_of

REGENERATED_WEIGHT = 0.25
"""Weight of the pair behind a regenerated answer: people also ask again out of curiosity."""

_ASKS_AGAIN = "regenerate"
_ACCEPTING_SIGNALS = ("copy", "share")


def asks_again(row: Feedback) -> bool:
    """Returns whether a row is the signal that the user asked for another answer."""
    return row.kind is FeedbackKind.IMPLICIT and row.value == _ASKS_AGAIN


def regenerated_pairs(rows: Iterable[Feedback], interactions: Mapping[str, Interaction]) -> list[PreferencePair]:
    """
    Makes a pair of every regenerated answer and the one that took its place, whichever of the two ways tells first.

    Args:
        rows (`Iterable[Feedback]`):
            Standing feedback about chats.
        interactions (`Mapping[str, Interaction]`):
            The answers that it is about, the others of their sessions, and those that go on from them, by id.

    Returns:
        `list[PreferencePair]`: The pairs, by `seq`.
    """
    rows = list(rows)
    chats = [answer for answer in sorted(interactions.values(), key=seq_of) if answer.purpose is Purpose.CHAT]
    pairs = [*_signalled_pairs(rows, chats, interactions), *_accepted_pairs(rows, chats)]
    return sorted(pairs, key=lambda pair: pair.seq)


def _signalled_pairs(
    rows: Iterable[Feedback], chats: Iterable[Interaction], interactions: Mapping[str, Interaction]
) -> Iterator[PreferencePair]:
    """The next answer over the one that was signalled. It may be younger than the signal, and then dates the pair."""
    sessions: dict[str, list[Interaction]] = defaultdict(list)
    for answer in chats:
        sessions[answer.session_id].append(answer)
    for row in filter(asks_again, rows):
        old = interactions[row.interaction_ids[0]]
        later = (new for new in sessions[old.session_id] if seq_of(new) > seq_of(old) and new.prompt == old.prompt)
        new = next(later, old)
        if are_alternatives(new, old):
            yield make_pair([row], new, old, seq=max(seq_of(row), seq_of(new)), weight=REGENERATED_WEIGHT)


class _Acceptance(NamedTuple):
    seq: int
    row: Feedback | None


def _accepted_pairs(rows: Iterable[Feedback], chats: list[Interaction]) -> Iterator[PreferencePair]:
    """The later of two answers to a turn over the one it replaced, if the user settled for it and not for that."""
    accepted = _acceptances(rows, chats)
    by_id = {answer.interaction_id: answer for answer in chats}
    for new in chats:
        old, how = by_id.get(new.regenerates or ""), accepted.get(new.interaction_id)
        if old is None or how is None or not are_alternatives(new, old):
            continue
        earlier = accepted.get(old.interaction_id)
        # What is said of the other one later changes nothing: the pair has been read by then.
        if earlier is None or earlier.seq > how.seq:
            said = [how.row] if how.row is not None else []
            yield make_pair(said, new, old, kind=FeedbackKind.IMPLICIT, seq=how.seq, weight=REGENERATED_WEIGHT)


def _acceptances(rows: Iterable[Feedback], chats: Iterable[Interaction]) -> dict[str, _Acceptance]:
    """What first showed that the user settled for an answer: kind words about it, or that the conversation went on."""
    events = [(row.interaction_ids[0], _Acceptance(seq_of(row), row)) for row in rows if _accepts(row)]
    events += [(chat.parent_id, _Acceptance(seq_of(chat), None)) for chat in chats if chat.parent_id is not None]
    first: dict[str, _Acceptance] = {}
    for name, event in sorted(events, key=lambda event: event[1].seq):
        first.setdefault(name, event)
    return first


def _accepts(row: Feedback) -> bool:
    if row.kind is FeedbackKind.IMPLICIT:
        return row.value in _ACCEPTING_SIGNALS
    return row.kind in (FeedbackKind.BINARY, FeedbackKind.RATING) and row.score > 0.5
