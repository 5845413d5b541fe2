"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass

# Far beyond any longest pause, and a power of two that a float holds.
_MOST_DOUBLINGS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    Pauses that double from one attempt to the next.

    Args:
        seconds (`float`):
            Pause after the first attempt.
        longest (`float`):
            Longest pause, in seconds.
    """

    seconds: float
    longest: float

    def pause(self, attempt: int) -> float:
        """Returns the pause after an attempt, counted from 1, in seconds."""
        return min(self.longest, self.seconds * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))
