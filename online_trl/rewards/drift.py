"""
Notices when people begin to want something else: the live version becomes wrong more often about arriving feedback.

Each statement is predicted before it is learned from, so that what is watched is honest. The test is the generalised
likelihood ratio test for numbers in [0, 1] of Besson and Kaufmann (https://huggingface.co/papers/1902.01575),
one-sided: for every way to cut the newest rows in two it asks how much better two rates of being right explain them
than one, where the later rate is the lower one. The rate before need not be known, and a rise, as when a better
version goes into service, is no drift. The threshold is not the paper's, which holds for ever and is slow, but one
whose false alarms were counted: `benchmarks/drift.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gates.reward import is_better

_CHANCE = 0.5
# An alarm picks the worst stretch, which by itself looks like chance or below once in a while.
_REVERSED_LEVEL = 0.01

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = tuple[float, float, int]


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """
    A fall in how often the live version is right.

    Args:
        change_seq (`int`):
            Position in the log of the first statement after the change, as it is estimated.
        seen_seq (`int`):
            Position of the statement that gave it away.
        before (`float`), after (`float`):
            How often the version was right before and since.
        rows (`int`):
            Statements since the change.
    """

    change_seq: int
    seen_seq: int
    before: float
    after: float
    rows: int

    @property
    def reason(self) -> str:
        """The alarm in words."""
        return (
            f"the live version is right about {self.after:.2f} of the {self.rows} statements since row "
            f"{self.change_seq}, {self.before:.2f} before"
        )


def is_reversed(correct: Sequence[float], weights: Sequence[float]) -> bool:
    """
    Returns whether a version is wrong more often than right, beyond noise.

    Where 30, 40 and 45 % of the people began to vote the opposite of what they liked, it said so of none, 1 and 3 of
    200 versions within three intervals from the alarm (`benchmarks/drift.py --runs 200`).

    Args:
        correct (`Sequence[float]`):
            How right it was about each comparison, in [0, 1].
        weights (`Sequence[float]`):
            How much each counts. Those of weight 0 are left out.
    """
    return is_better([_CHANCE] * len(correct), correct, weights=weights, level=_REVERSED_LEVEL)


class DriftDetector:
    """
    Watches how often the live version is right about arriving feedback. After an alarm it starts anew.

    Args:
        threshold (`float`, *optional*, defaults to `8.5`):
            Log-likelihood ratio that gives an alarm. Lower is quicker and gives more false alarms.
        window (`int`, *optional*, defaults to `1500`):
            The newest so many statements are looked at; what falls more slowly goes unnoticed.
        min_before (`int`, *optional*, defaults to `50`), min_after (`int`, *optional*, defaults to `25`):
            Statements needed on either side of a change.
        every (`int`, *optional*, defaults to `5`):
            It looks after so many statements, counted from its start: looking takes time.

    Example:

    ```python
    detector = DriftDetector()
    if alarm := detector.update(correct, seqs):
        print(alarm.reason)
    ```
    """

    def __init__(
        self, *, threshold: float = 8.5, window: int = 1500, min_before: int = 50, min_after: int = 25, every: int = 5
    ) -> None:
        if window < min_before + min_after:
            raise ValueError(f"a `window` of {window} cannot hold {min_before} statements and {min_after} after them")
        self.threshold = threshold
        self.window = window
        self.min_before = min_before
        self.min_after = min_after
        self.every = every
        self._rows: list[Row] = []
        self._seen = 0

    def update(
        self, correct: Sequence[float], seqs: Sequence[int], weights: Sequence[float] | None = None
    ) -> DriftAlarm | None:
        """
        Takes in what just arrived, as if row by row: how the rows are portioned makes no difference.

        Args:
            correct (`Sequence[float]`):
                How right the live version was about each statement, in [0, 1], before it learned from it.
            seqs (`Sequence[int]`):
                Position of each in the log, ascending.
            weights (`Sequence[float]`, *optional*):
                How much each counts, in [0, 1]. Rows of weight 0 are passed over.

        Returns:
            [`DriftAlarm`] or `None`: The newest alarm.

        Raises:
            `ValueError`: if a number lies outside [0, 1], or the lengths differ.
        """
        rows = list(zip(correct, [1.0] * len(correct) if weights is None else weights, seqs, strict=True))
        for right, weight, seq in rows:
            if not (0 <= right <= 1 and 0 <= weight <= 1):
                raise ValueError(f"correctness and weight lie in [0, 1], not {right} and {weight} (row {seq})")
        rows = [row for row in rows if row[1] > 0]
        newest = None
        while rows:
            alarm, used = self._run(rows)
            newest, rows = alarm or newest, rows[used:]
        return newest

    def state_dict(self) -> dict[str, Any]:
        """Returns what goes into a checkpoint, as JSON can hold it."""
        return {"rows": [list(row) for row in self._rows], "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._rows = [(right, weight, seq) for right, weight, seq in state["rows"]]
        self._seen = state["seen"]

    def _run(self, rows: Sequence[Row]) -> tuple[DriftAlarm | None, int]:
        """Goes through rows up to the first alarm; returns it and how many rows that took."""
        known = len(self._rows)
        self._rows = [*self._rows, *rows]
        table = np.asarray([row[:2] for row in self._rows])
        total = np.concatenate(([0.0], np.cumsum(table[:, 1])))
        right = np.concatenate(([0.0], np.cumsum(table[:, 0] * table[:, 1])))
        for end in range(known + 1, len(self._rows) + 1):
            self._seen += 1
            alarm = self._look(total, right, end) if self._seen % self.every == 0 else None
            if alarm is not None:
                self._rows, self._seen = [], 0
                return alarm, end - known
        self._rows = self._rows[-self.window :]
        return None, len(rows)

    def _look(self, total: Floats, right: Floats, end: int) -> DriftAlarm | None:
        """Looks for the best cut of the window that ends there, from sums over all rows before each."""
        start = max(0, end - self.window)
        first, last = start + self.min_before, end - self.min_after
        if first > last:
            return None
        total, right = total[: end + 1] - total[start], right[: end + 1] - right[start]
        possible = _promising(total[first : last + 1], right[first : last + 1], total[-1], right[-1], self.threshold)
        cuts = first + np.flatnonzero(possible)
        ratios = _log_ratios(total[cuts], right[cuts], total[-1], right[-1])
        if cuts.size == 0 or ratios.max() <= self.threshold:
            return None
        cut = int(cuts[np.argmax(ratios)])
        return DriftAlarm(
            change_seq=self._rows[cut][2],
            seen_seq=self._rows[end - 1][2],
            before=float(right[cut] / total[cut]),
            after=float((right[-1] - right[cut]) / (total[-1] - total[cut])),
            rows=end - cut,
        )


def _promising(total_before: Floats, right_before: Floats, total: float, right: float, threshold: float) -> Mask:
    """
    Whether the rate falls at a cut, and by enough that the ratio may pass the threshold: it is never above the
    chi-squared statistic, which needs no logarithms. All but the two sums over the window have shape `(cuts,)`.
    """
    total_after = total - total_before
    fall = right_before * total_after - (right - right_before) * total_before
    least = threshold * (right / total) * (1 - right / total) * total * total_before * total_after
    mask: Mask = (fall > 0) & (fall**2 > least)
    return mask


def _log_ratios(total_before: Floats, right_before: Floats, total: float, right: float) -> Floats:
    """Log-likelihood ratio of two rates against one, of shape `(cuts,)`."""
    two_rates = _log_likelihood(total_before, right_before) + _log_likelihood(
        total - total_before, right - right_before
    )
    ratios: Floats = two_rates - _log_likelihood(np.asarray(total), np.asarray(right))
    return ratios


def _log_likelihood(total: Floats, right: Floats) -> Floats:
    """Of `right` out of `total` at the rate that explains it best."""
    rate = np.clip(right / total, 1e-12, 1 - 1e-12)
    likelihood: Floats = right * np.log(rate) + (total - right) * np.log1p(-rate)
    return likelihood
