"""A candidate in front of a share of the users: who gets it."""

from __future__ import annotations

import hashlib


def assign(user_key: str, canary_id: str, share: float) -> bool:
    """
    Returns whether somebody gets the candidate. Every server says the same, for as long as the canary runs; another
    canary draws anew.

    Args:
        user_key (`str`):
            The user, or the session where there is no user.
        canary_id (`str`):
            Id of the canary.
        share (`float`):
            Share of the users that get it, from 0 to 1.
    """
    digest = hashlib.sha256(f"{canary_id}/{user_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
