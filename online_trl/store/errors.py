"""What can go wrong with the log, in words that name the row and the reason."""

from __future__ import annotations

from collections.abc import Iterable

from ..database import StoreError as StoreError


class UnknownInteractionError(StoreError):
    """
    Feedback names interactions that are not in the log.

    Args:
        interaction_ids (`Iterable[str]`):
            The unknown ones.
    """

    def __init__(self, interaction_ids: Iterable[str]) -> None:
        self.interaction_ids = tuple(interaction_ids)
        super().__init__(f"no such interaction in the log: {', '.join(self.interaction_ids)}")


class UnknownFeedbackError(StoreError):
    """Feedback supersedes a row that is not in the log."""


class ForeignFeedbackError(StoreError):
    """Feedback supersedes a row that another user said."""


class IdempotencyConflictError(StoreError):
    """A key that is already in the log came back with other contents."""
