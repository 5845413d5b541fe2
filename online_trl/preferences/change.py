"""What an interval of the log changed: what counted at its beginning, and what counts at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..types import Feedback, Interaction
from .rows import about_chats, seq_of, standing_feedback


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What counts at one position of the log.

    Args:
        rows (`list[Feedback]`):
            Standing feedback about chats, by `seq`.
        interactions (`Mapping[str, Interaction]`):
            The answers that it is about, and those that tell what became of a regenerated one, by id.
    """

    rows: list[Feedback]
    interactions: Mapping[str, Interaction]

    @classmethod
    def of(cls, feedback: Iterable[Feedback], interactions: Mapping[str, Interaction]) -> Evidence:
        """Returns what counts of feedback that is in order and has the superseded rows."""
        return cls(about_chats(standing_feedback(feedback), interactions), interactions)


@dataclass(frozen=True, slots=True)
class Change:
    """
    What the rows after a position changed.

    Args:
        before ([`Evidence`]), now ([`Evidence`]):
            What counted at the position, and what counts at the end.
        after (`int`):
            The position.
    """

    before: Evidence
    now: Evidence
    after: int

    @classmethod
    def of(cls, feedback: Iterable[Feedback], interactions: Mapping[str, Interaction], *, after: int) -> Change:
        """Returns what the rows of feedback after a position changed."""
        feedback = list(feedback)
        given = {name: answer for name, answer in interactions.items() if seq_of(answer) <= after}
        before = Evidence.of((row for row in feedback if seq_of(row) <= after), given)
        return cls(before=before, now=Evidence.of(feedback, interactions), after=after)

    @property
    def withdrawn(self) -> frozenset[str]:
        """Ids of the feedback that counted before and does not now."""
        counting = {row.feedback_id for row in self.now.rows}
        return frozenset(row.feedback_id for row in self.before.rows if row.feedback_id not in counting)
