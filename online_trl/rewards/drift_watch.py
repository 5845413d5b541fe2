"""A change of what people want, from the statements that give it away to the version that confirms it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime
from typing import Any

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


class DriftWatch:
    """
    Notices that people have changed, and finds out whether they have.

    An alarm may be false, or somebody's doing. So a change that was noticed is at first a supposition: it becomes
    certain when a version does better on what people say since, and is dropped when none does within three refreshes.

    Args:
        memory ([`~online_trl.rewards.memory.StatementMemory`]):
            What was said so far. Its `change` is set and dropped here.
    """

    def __init__(self, memory: StatementMemory) -> None:
        self.memory = memory
        self.detector = DriftDetector()
        self.alarm: DriftAlarm | None = None
        self._refreshes_left = 0
        self._heard: list[tuple[int, datetime]] = []

    @property
    def is_unconfirmed(self) -> bool:
        """Whether a change was noticed that is not certain yet."""
        return self._refreshes_left > 0

    def listen(self, batch: PreferenceBatch, scorer: RewardScorer | None) -> tuple[DriftAlarm, ChangePoint] | None:
        """
        Looks how right the live version is about feedback that it has not learned from; for the main process alone.

        Args:
            batch ([`~online_trl.preferences.PreferenceBatch`]):
                What arrived.
            scorer ([`~online_trl.rewards.scorer.RewardScorer`], *optional*):
                The live version, if there is one.

        Returns:
            `tuple` or `None`: The alarm that this gave, and the change behind it, to be taken up on every rank.
        """
        # What counts again after something was taken back has been heard before.
        new = [each for each in batch.statements if each.seq > batch.after]
        if scorer is None or not new:
            return None
        self._heard = [*self._heard, *((each.seq, each.said_at) for each in new)][-_HEARD:]
        # Verdicts are judged against each other, and there may be few of the other kind among the newest.
        old = [each for each in self.memory.heldout() if isinstance(each, UnpairedLabel)]
        both = [*old, *new]
        correct = correctness(both, mean_scores(scorer, both))[len(old) :]
        weights = judging_weights(both)[len(old) :]
        alarm = self.detector.update(correct, [each.seq for each in new], weights)
        if alarm is None:
            return None
        return alarm, ChangePoint(alarm.change_seq, min(at for seq, at in self._heard if seq >= alarm.change_seq))

    def take_up(self, noticed: tuple[DriftAlarm, ChangePoint] | None) -> bool:
        """
        Supposes from now on that people have changed, if that was noticed.

        Returns:
            `bool`: Whether it was.
        """
        if noticed is None:
            return False
        self.alarm, self.memory.change = noticed
        self._refreshes_left = _CONFIRMED_WITHIN
        logger.warning("drift: %s", self.alarm.reason)
        return True

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
            "heard": [[seq, at.isoformat()] for seq, at in self._heard],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of a checkpoint."""
        self.detector.load_state_dict(state["detector"])
        self.memory.change = change_from_plain(state["change"])
        self.alarm = None if state["alarm"] is None else DriftAlarm(**state["alarm"])
        self._refreshes_left = state["refreshes_left"]
        self._heard = [(seq, datetime.fromisoformat(at)) for seq, at in state["heard"]]


def plain_change(change: ChangePoint | None) -> dict[str, Any] | None:
    """Returns a change as JSON can hold it."""
    return None if change is None else {"seq": change.seq, "at": change.at.isoformat()}


def change_from_plain(plain: dict[str, Any] | None) -> ChangePoint | None:
    """Returns the change that [`plain_change`] was given."""
    return None if plain is None else ChangePoint(plain["seq"], datetime.fromisoformat(plain["at"]))
