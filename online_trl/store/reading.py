"""What readers of the log need of it, wherever it is: the log itself or a server before it gives the same answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..types import ErasedSubject, Feedback, Interaction, Purpose, Tombstone
from .log import StoreSummary
from .tracing import Trace


class LogReader(Protocol):
    """
    The reading side of the log, as [`FeedbackStore`] and [`RemoteStore`] have it.

    Every read is of a closed interval `(after, upto]`, so that it gives the same rows whenever and however often it is
    repeated, but for those that were erased meanwhile. [`FeedbackStore`] describes the methods.
    """

    @property
    def url(self) -> str:
        """Where the log is."""
        ...

    def latest_seq(self) -> int: ...

    def interactions(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        purpose: Purpose | None = None,
        policy_version: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        tokens: bool = True,
    ) -> list[Interaction]: ...

    def feedback(self, *, after: int = 0, upto: int | None = None, limit: int | None = None) -> list[Feedback]: ...

    def admitted_feedback(
        self, *, after: int = 0, upto: int | None = None, at: int | None = None
    ) -> list[Feedback]: ...

    def tombstones(self, *, after: int = 0, upto: int | None = None) -> list[Tombstone]: ...

    def related_feedback(self, *, after: int, upto: int) -> list[Feedback]: ...

    def related_regenerations(self, *, after: int, upto: int, tokens: bool = True) -> list[Interaction]: ...

    def get_interactions(self, ids: Iterable[str], *, tokens: bool = True) -> dict[str, Interaction]: ...

    def session_interactions(
        self, session_ids: Iterable[str], *, upto: int, tokens: bool = True
    ) -> list[Interaction]: ...

    def erased_among(self, ids: Iterable[str]) -> set[str]: ...

    def trace(self, subject: ErasedSubject, name: str) -> Trace: ...

    def summary(self) -> StoreSummary: ...
