"""
The idempotency keys that clients choose, as they stand in the log.

Clients choose their keys without knowing of each other, so a key counts for the user who says something: it is stored
behind that user's name. So no client takes a key of another user, or one that this server makes.
"""

from __future__ import annotations

from ..types import Feedback


def stored_key(user_id: str, key: str) -> str:
    """Returns what the key that came with a user's statement is in the log."""
    return _prefix(user_id) + key


def client_key(row: Feedback) -> str:
    """Returns the key that the client sent with a stored row."""
    return row.idempotency_key.removeprefix(_prefix(row.user_id))


def _prefix(user_id: str) -> str:
    # The length tells where the name ends, which may hold any character.
    return f"{len(user_id)}/{user_id}/"
