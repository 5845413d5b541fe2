"""A change of what people want, from the statements that give it away to what makes it certain."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..preferences import PreferenceBatch, cap_user_shares
from ..types import UnpairedLabel
from .drift import DriftAlarm, DriftDetector, is_reversed
from .judgement import mean_scores
from .judging import correctness, evidence_weights
from .memory import ChangePoint, StatementMemory
from .scorer import RewardScorer

logger = logging.getLogger(__name__)

# A change that nothing has made certain within so many refreshes was none.
_CONFIRMED_WITHIN = 3
# As many statements as the test for drift looks back on.
_HEARD = 2000


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
            Whether the versions in service have been wrong more often than right since, beyond noise.
    """

    alarm: DriftAlarm | None
    change: ChangePoint
    is_certain: bool


@dataclass(frozen=True, slots=True)
class _Heard:
    """A statement that arrived, and how right the version then in service was about it."""

    seq: int
    said_at: datetime
    voice: str
    compares: bool
    correct: float
    weight: float


class DriftWatch:
    """
    Notices that people have changed, and finds out whether they have.

    An alarm may be false, or somebody's doing. So a change that was noticed is at first a supposition: it becomes
    certain when a version does better on what people say since, or when those in service have been wrong about more
    comparisons than right since. It is dropped when neither happens within three refreshes.

    Args:
        memory ([`~online_trl.rewards.memory.StatementMemory`]):
            What was said so far. Its `change` is set and dropped here.
        max_user_share (`float`):
            Largest share of the weight that one user may carry in making a change certain by comparisons. It takes
            those of enough users for the bound to be kept.

    Attributes:
        live_is_reversed (`bool`):
            Whether the version in service is known to be worse than a coin since people changed.
    """

    def __init__(self, memory: StatementMemory, *, max_user_share: float) -> None:
        self.memory = memory
        self.max_user_share = max_user_share
        self.detector = DriftDetector()
        self.alarm: DriftAlarm | None = None
        self.live_is_reversed = False
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
        weights = evidence_weights(both)[len(old) :]
        rows = [
            _Heard(each.seq, each.said_at, each.voice, not isinstance(each, UnpairedLabel), *told)
            for each, *told in zip(new, correct, weights, strict=True)
        ]
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
        # Not by verdicts: one on the answer that scores highest makes all of the other kind wrong at once.
        heard = [row for row in self._heard if row.seq >= since and row.compares and row.weight > 0]
        if len({row.voice for row in heard}) * self.max_user_share < 1:
            return False
        capped = cap_user_shares(heard, self.max_user_share)
        return is_reversed([row.correct for row in capped], [row.weight for row in capped])

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
            self._refreshes_left, self.live_is_reversed = 0, True
            logger.warning("more comparisons since row %s were foreseen wrongly than rightly", notice.change.seq)
        return notice.alarm is not None

    def settle(self, *, confirmed: bool, accepted: bool) -> None:
        """
        Takes note of what a refresh has found out.

        Args:
            confirmed (`bool`):
                Whether its version does better on what people say since they seem to have changed.
            accepted (`bool`):
                Whether it went into service.
        """
        self.alarm = None
        self.live_is_reversed = self.live_is_reversed and not accepted
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
            "live_is_reversed": self.live_is_reversed,
            "heard": [{**asdict(row), "said_at": row.said_at.isoformat()} for row in self._heard],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of a checkpoint."""
        self.detector.load_state_dict(state["detector"])
        self.memory.change = change_from_plain(state["change"])
        self.alarm = None if state["alarm"] is None else DriftAlarm(**state["alarm"])
        self._refreshes_left = state["refreshes_left"]
        self.live_is_reversed = state["live_is_reversed"]
        self._heard = [_Heard(**{**row, "said_at": datetime.fromisoformat(row["said_at"])}) for row in state["heard"]]


def plain_change(change: ChangePoint | None) -> dict[str, Any] | None:
    """Returns a change as JSON can hold it."""
    return None if change is None else {"seq": change.seq, "at": change.at.isoformat()}


def change_from_plain(plain: dict[str, Any] | None) -> ChangePoint | None:
    """Returns the change that [`plain_change`] was given."""
    return None if plain is None else ChangePoint(plain["seq"], datetime.fromisoformat(plain["at"]))
