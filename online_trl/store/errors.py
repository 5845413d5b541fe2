"""What can go wrong with the log, in words that name the row and the reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..database import StoreError as StoreError


class UnstorableError(StoreError):
    """A row holds what the log cannot keep."""


class UnknownInteractionError(StoreError):
    """
    Interactions are named that are not in the log.

    Args:
        interaction_ids (`Iterable[str]`):
            The unknown ones.
        erased (`Collection[str]`, *optional*):
            Ids that were erased from the log, these among others.
    """

    def __init__(self, interaction_ids: Iterable[str], erased: Collection[str] = ()) -> None:
        self.interaction_ids = tuple(interaction_ids)
        named = (f"{name} (it was erased)" if name in erased else name for name in self.interaction_ids)
        super().__init__(f"no such interaction in the log: {', '.join(named)}")


class UnknownUserError(StoreError):
    """Nothing in the log is of this user, nor ever was."""


class ErasedError(StoreError):
    """A row that was erased is to be added again."""


class UnknownFeedbackError(StoreError):
    """Feedback supersedes a row that is not in the log."""


class NotQuarantinedError(StoreError):
    """Feedback is to be released that was never quarantined."""


class ForeignFeedbackError(StoreError):
    """Feedback supersedes a row that another user said."""


class IdempotencyConflictError(StoreError):
    """A key that is already in the log came back with other contents."""
