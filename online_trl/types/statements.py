"""What a reward model learns from, made of the log: pairs, rankings, unpaired labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from .base import Message, utcnow
from .log import FeedbackKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """
    Where a statement comes from, and how much it counts.

    Args:
        feedback_ids (`tuple[str, ...]`):
            Rows of the log it was made from; none where the conversation's own course told.
        seq (`int`):
            Largest `seq` among the rows, feedback or answers, that made it known.
        weight (`float`, *optional*, defaults to `1.0`):
            How much it counts, in (0, 1].
        interaction_ids (`tuple[str, ...]`):
            The answers that it is about.
        voice (`str`):
            Whose word it is: the user whose statement, or whose going on with the conversation, completed it. A row of
            an imported dataset, which does not say who judged, has a voice of its own.
        session_ids, user_ids, policy_versions (`tuple[str, ...]`):
            Whom and what it came from, without repeats, sorted.
        said_at (`datetime`, *optional*), answered_at (`datetime`, *optional*):
            When the newest statement behind it was made, and when the newest of its answers was given; both
            timezone-aware. They default to now.
    """

    feedback_ids: tuple[str, ...]
    seq: int
    weight: float = 1.0
    interaction_ids: tuple[str, ...] = ()
    voice: str = ""
    session_ids: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()
    policy_versions: tuple[str, ...] = ()
    said_at: datetime = field(default_factory=utcnow)
    answered_at: datetime = field(default_factory=utcnow)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair(Provenance):
    """
    Two answers to one prompt, the first preferred, with where that knowledge comes from.

    Args:
        prompt (`list[Message]`), chosen (`list[Message]`), rejected (`list[Message]`):
            The row in TRL's conversational preference format.
        kind ([`FeedbackKind`]):
            Kind of the feedback it was made from.
        margin (`float`, *optional*):
            By how much the first was preferred, as in TRL's `margin` column.
        interaction_ids (`tuple[str, ...]`):
            The chosen and the rejected answer; one id where the chosen one is a user's rewrite.
        feedback_ids, seq, weight, voice, session_ids, user_ids, policy_versions, said_at, answered_at:
            As in [`Provenance`].
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    kind: FeedbackKind
    margin: float | None = None

    @property
    def completions(self) -> list[list[Message]]:
        """The chosen and the rejected answer."""
        return [self.chosen, self.rejected]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each answer, as of a [`Ranking`]."""
        return (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Provenance):
    """
    Answers to one prompt in the order in which somebody put them. A comparison that ended in a tie is the ranking of
    two answers on one rank.

    Args:
        prompt (`list[Message]`):
            What was asked.
        completions (`list[list[Message]]`):
            The answers, two or more.
        ranks (`tuple[int, ...]`):
            Rank of each answer: 1 is best, equal ranks are ties.
        interaction_ids (`tuple[str, ...]`):
            The answers, in the order of `completions`.
        kind:
            As in [`PreferencePair`].
        feedback_ids, seq, weight, voice, session_ids, user_ids, policy_versions, said_at, answered_at:
            As in [`Provenance`].
    """

    prompt: list[Message]
    completions: list[list[Message]]
    ranks: tuple[int, ...]
    kind: FeedbackKind


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedLabel(Provenance):
    """
    One answer with a verdict, in TRL's unpaired preference format, with where the verdict comes from.

    Args:
        prompt (`list[Message]`), completion (`list[Message]`), label (`bool`):
            The row in TRL's conversational unpaired format.
        score (`float`):
            The verdict in [0, 1], of which `label` is `score > 0.5`.
        feedback_ids, seq, weight, interaction_ids, voice, session_ids, user_ids, policy_versions:
            As in [`Provenance`].
        said_at, answered_at:
            As in [`Provenance`].
    """

    prompt: list[Message]
    completion: list[Message]
    label: bool
    score: float

    @property
    def completions(self) -> list[list[Message]]:
        """The one answer."""
        return [self.completion]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of the answer, as of a [`Ranking`]."""
        return (1,)


Statement = PreferencePair | Ranking | UnpairedLabel
"""What a reward model learns from: one thing that somebody said of one or several answers to a prompt."""
