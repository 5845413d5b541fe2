"""A change of what people want, from the statements that give it away to the version that confirms it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..gates.reward import is_better
from ..preferences import PreferenceBatch
from ..types import UnpairedLabel
from .drift import DriftAlarm, DriftDetector
from .judgement import mean_scores
from .judging import correctness, judging_weights
from .memory import ChangePoint, StatementMemory
from .scorer import RewardScorer

logger = logging.getLogger(__name__)

# A change that no version does better on within so many refreshes was none.
_CONFIRMED_WITHIN = 3
# As many statements as the test for drift looks back on.
_HEARD = 2000
_CHANCE = 0.5
# An alarm picks the worst stretch, which by itself looks like chance or below once in a while.
_REVERSED_LEVEL = 0.01


@dataclass(frozen=True, slots=True)
class Notice:
    """
    What arriving feedback gave away.

    Args:
        alarm ([`~online_trl.rewards.drift.DriftAlarm`], *optional*):
            The alarm, if it gave one.
        change ([`~online_trl.rewards.memory.ChangePoint`]):
            The change behind the newest alarm.
        is_certain (`bool`):
            Whether the live version has been wrong more often than right since, beyond noise.
    """

    alarm: DriftAlarm | None
    change: ChangePoint
    is_certain: bool


@dataclass(frozen=True, slots=True)
class _Heard:
    """A statement that arrived, and how right the live version was about it."""

    seq: int
    said_at: datetime
    correct: float
    weight: float


class DriftWatch:
    """
    Notices that people have changed, and finds out whether they have.

    An alarm may be false, or somebody's doing. So a change that was noticed is at first a supposition: it becomes
    certain when a version does better on what people say since, or when the live one has been wrong more often than
    right since, which a minority cannot bring about. It is dropped when neither happens within three refreshes.

    Args:
        memory ([`~online_trl.rewards.memory.StatementMemory`]):
            What was said so far. Its `change` is set and dropped here.
    """

    def __init__(self, memory: StatementMemory) -> None:
        self.memory = memory
        self.detector = DriftDetector()
        self.alarm: DriftAlarm | None = None
        self._refreshes_left = 0
        self._heard: list[_Heard] = []

    @property
    def is_unconfirmed(self) -> bool:
        """Whether a change was noticed that is not certain yet."""
        return self._refreshes_left > 0

    def listen(self, batch: PreferenceBatch, scorer: RewardScorer | None) -> Notice | None:
        """
        Looks how right the live version is about feedback that it has not learned from; for the main process alone.

        Args:
            batch ([`~online_trl.preferences.PreferenceBatch`]):
                What arrived.
            scorer ([`~online_trl.rewards.scorer.RewardScorer`], *optional*):
                The live version, if there is one.

        Returns:
            [`Notice`] or `None`: What this gave away, to be taken up on every rank.
        """
        # What counts again after something was taken back has been heard before.
        new = [each for each in batch.statements if each.seq > batch.after]
        if scorer is None or not new:
            return None
        # Verdicts are judged against each other, and there may be few of the other kind among the newest.
        old = [each for each in self.memory.heldout() if isinstance(each, UnpairedLabel)]
        both = [*old, *new]
        correct = correctness(both, mean_scores(scorer, both))[len(old) :]
        weights = judging_weights(both)[len(old) :]
        rows = [_Heard(each.seq, each.said_at, *told) for each, *told in zip(new, correct, weights, strict=True)]
        self._heard = [*self._heard, *rows][-_HEARD:]
        alarm = self.detector.update(correct, [each.seq for each in new], weights)
        if alarm is not None:
            at = min(heard.said_at for heard in self._heard if heard.seq >= alarm.change_seq)
            return Notice(alarm, ChangePoint(alarm.change_seq, at), self._is_reversed(alarm.change_seq))
        change = self.memory.change if self.is_unconfirmed else None
        if change is None or not self._is_reversed(change.seq):
            return None
        return Notice(None, change, is_certain=True)

    def _is_reversed(self, since: int) -> bool:
        heard = [heard for heard in self._heard if heard.seq >= since]
        return is_better(
            [_CHANCE] * len(heard),
            [each.correct for each in heard],
            weights=[each.weight for each in heard],
            level=_REVERSED_LEVEL,
        )

    def take_up(self, notice: Notice | None) -> bool:
        """
        Supposes from now on that people have changed, or knows it, if that was noticed.

        Returns:
            `bool`: Whether there was an alarm.
        """
        if notice is None:
            return False
        self.memory.change = notice.change
        if notice.alarm is not None:
            self.alarm, self._refreshes_left = notice.alarm, _CONFIRMED_WITHIN
            logger.warning("drift: %s", notice.alarm.reason)
        if notice.is_certain:
            self._refreshes_left = 0
            logger.warning("the live version is wrong more often than right since row %s", notice.change.seq)
        return notice.alarm is not None

    def settle(self, *, confirmed: bool) -> None:
        """
        Takes note of what a refresh has found out.

        Args:
            confirmed (`bool`):
                Whether its version does better on what people say since they seem to have changed.
        """
        self.alarm = None
        if confirmed:
            self._refreshes_left = 0
        elif self._refreshes_left:
            self._refreshes_left -= 1
            if not self._refreshes_left:
                since = self.memory.change.seq if self.memory.change is not None else None
                logger.warning("no version does better on what people say since row %s", since)
                self.memory.change = None

    def certain_change(self, *, confirmed: bool) -> ChangePoint | None:
        """
        Returns the newest change that is certain.

        Args:
            confirmed (`bool`):
                As in [`settle`], which comes after it.
        """
        return self.memory.change if confirmed or not self.is_unconfirmed else None

    def state_dict(self) -> dict[str, Any]:
        """Returns what goes into a checkpoint, as plain values."""
        return {
            "detector": self.detector.state_dict(),
            "change": plain_change(self.memory.change),
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "refreshes_left": self._refreshes_left,
            "heard": [[row.seq, row.said_at.isoformat(), row.correct, row.weight] for row in self._heard],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of a checkpoint."""
        self.detector.load_state_dict(state["detector"])
        self.memory.change = change_from_plain(state["change"])
        self.alarm = None if state["alarm"] is None else DriftAlarm(**state["alarm"])
        self._refreshes_left = state["refreshes_left"]
        self._heard = [_Heard(seq, datetime.fromisoformat(at), *told) for seq, at, *told in state["heard"]]


def plain_change(change: ChangePoint | None) -> dict[str, Any] | None:
    """Returns a change as JSON can hold it."""
    return None if change is None else {"seq": change.seq, "at": change.at.isoformat()}


def change_from_plain(plain: dict[str, Any] | None) -> ChangePoint | None:
    """Returns the change that [`plain_change`] was given."""
    return None if plain is None else ChangePoint(plain["seq"], datetime.fromisoformat(plain["at"]))
