"""When the reward model is refreshed: after so many rows, or because people have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ..config import ConfigError
from ..data import PreferenceFeed
from ..preferences import PreferenceBatch
from .statements import NothingToTrainOnError

logger = logging.getLogger(__name__)

# The live version is asked what it thinks of new feedback as soon as there are so many new rows.
_WATCHED_ROWS = 32


class Refresher(Protocol):
    """What a [`RefreshSchedule`] drives: something that learns from preferences, such as `RewardRefresher`."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a live version already."""
        ...

    def trainable(self, batch: PreferenceBatch) -> int:
        """Returns how many statements of a batch it would train on."""
        ...

    def remember(self, batch: PreferenceBatch) -> None:
        """Takes note of what was learned from before."""
        ...

    def watch(self, batch: PreferenceBatch) -> bool:
        """Takes note of how the live version does on feedback that it has not learned from; true if people changed."""
        ...

    def refresh(self, batch: PreferenceBatch) -> Any:
        """
        Learns from a batch, on every rank at the same time.

        Raises:
            [`~online_trl.rewards.statements.NothingToTrainOnError`]: if it holds nothing to learn from.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs beside the log and the registry, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of a checkpoint."""
        ...


class RefreshSchedule:
    """
    Refreshes the reward model when it is due: whenever its owner says so, once the log has so many new rows, or when
    what people want has changed. Every rank calls it at the same time.

    Args:
        feed ([`~online_trl.data.PreferenceFeed`]):
            Where fresh preferences come from; its cursor is moved past what was used.
        refresher ([`Refresher`]):
            What learns from them.
        rows (`int`, *optional*, defaults to `0`):
            New rows of the log, answers and feedback, that make a refresh due; 0 turns the trigger off.
        on_drift (`bool`, *optional*, defaults to `True`):
            Whether a change of what people want makes one due.
        min_statements (`int`, *optional*, defaults to `16`):
            A refresh that is due waits for so many new statements to train on. They are not lost: the next one gets
            them.
        on_refresh (`Callable[[Any], None]`, *optional*):
            Called with the outcome of each refresh.
    """

    def __init__(
        self,
        feed: PreferenceFeed,
        refresher: Refresher,
        *,
        rows: int = 0,
        on_drift: bool = True,
        min_statements: int = 16,
        on_refresh: Callable[[Any], None] | None = None,
    ) -> None:
        self.feed = feed
        self.refresher = refresher
        self.rows = rows
        self.on_drift = on_drift
        self.min_statements = max(1, min_statements)
        self.on_refresh = on_refresh
        self._watched = 0
        self._drifted = False
        self._waiting = False

    def begin(self, *, learn: bool = True) -> None:
        """
        Takes note of what was learned from before, and learns from what was not.

        Args:
            learn (`bool`, *optional*, defaults to `True`):
                Whether to learn at once from feedback that no version has learned from. A resumed run goes on with the
                version of its checkpoint.

        Raises:
            [`~online_trl.config.ConfigError`]: if there is no version and too little feedback for a first one, or the
                first one is refused, or all of that feedback is longer than a reward model takes.
        """
        if self.refresher.is_ready:
            self.refresher.remember(self.feed.take(after=0, upto=self.feed.cursor))
        if not learn:
            return
        batch = self.feed.take(upto=self.feed.latest())
        found = self.refresher.trainable(batch)
        if found >= self.min_statements:
            self._refresh(batch)
        elif not self.refresher.is_ready:
            raise ConfigError(
                f"the log {self.feed.store.url} holds {found} statements to train a first reward model on, "
                f"{self.min_statements} are needed: collect more feedback, seed the log with `online-trl import`, or "
                "lower `refresh_min_statements`"
            )
        if not self.refresher.is_ready:
            raise ConfigError(
                f"the first reward model, trained on {found} statements, was refused: it is worse than chance on "
                "held-out feedback. Collect more, or train it otherwise (`reward_config`)"
            )

    def run_if_due(self, *, due: bool = False) -> bool:
        """
        Refreshes the reward model if it is due and there is enough to learn from.

        Args:
            due (`bool`, *optional*, defaults to `False`):
                Whether it is due in any case, as it is when there is no version yet.

        Returns:
            `bool`: Whether there was a refresh. One is skipped, with a warning, if nothing of its feedback can be
            trained on.

        Raises:
            [`~online_trl.config.ConfigError`]: if that was to be the first version.
        """
        due = due or not self.refresher.is_ready
        needs_log = due or self.rows > 0 or self.on_drift
        upto = self.feed.latest() if needs_log else self.feed.cursor
        self._drifted = self._drifted or self._watch(upto)
        if not (due or self._drifted or 0 < self.rows <= upto - self.feed.cursor):
            return False
        batch = self.feed.take(upto=upto)
        found = self.refresher.trainable(batch)
        if found < self.min_statements:
            self._wait(found)
            return False
        return self._refresh(batch)

    def state_dict(self) -> dict[str, Any]:
        """Returns where the schedule is, for the checkpoint."""
        return {
            "cursor": self.feed.cursor,
            "watched": self._watched,
            "drifted": self._drifted,
            "refresher": self.refresher.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where a checkpoint was."""
        self.feed.cursor = state["cursor"]
        self._watched, self._drifted = state["watched"], state["drifted"]
        self.refresher.load_state_dict(state["refresher"])

    def _watch(self, upto: int, *, at_least: int = _WATCHED_ROWS) -> bool:
        # What a version has learned from says nothing about how it does on what is new.
        after = max(self._watched, self.feed.cursor)
        if not (self.on_drift and self.refresher.is_ready) or upto - after < at_least:
            return False
        self._watched = upto
        return self.refresher.watch(self.feed.take(after=after, upto=upto))

    def _wait(self, found: int) -> None:
        """Says, once until the next refresh, that the one that is due has too little to learn from."""
        if not self._waiting and self.refresher.is_ready:
            logger.warning(
                "the log %s holds %d new statements to train on since row %d, and a refresh of the reward model waits "
                "for %d (`refresh_min_statements`): going on with the version in service",
                *(self.feed.store.url, found, self.feed.cursor, self.min_statements),
            )
        self._waiting = True

    def _refresh(self, batch: PreferenceBatch) -> bool:
        self._watch(batch.upto, at_least=1)
        outcome = self._outcome_of(batch)
        # Feedback that cannot be trained on is done with, too: the next refresh waits for other.
        self.feed.commit(batch)
        self._drifted, self._waiting = False, outcome is None
        if outcome is None:
            return False
        if self.on_refresh is not None:
            self.on_refresh(outcome)
        return True

    def _outcome_of(self, batch: PreferenceBatch) -> Any:
        try:
            return self.refresher.refresh(batch)
        except NothingToTrainOnError as error:
            if not self.refresher.is_ready:
                raise ConfigError(
                    f"there is nothing to train a first reward model on: {error}; raise the `max_length` of the "
                    "reward model, or collect other feedback"
                ) from error
            logger.warning(
                "no refresh of the reward model on rows %d to %d of the log: %s: going on with the version in service",
                *(batch.after + 1, batch.upto, error),
            )
            return None
