"""The canary of a candidate: some of the users get it, and what they say decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..canary import CanarySettings, assign, decide_canary
from ..evaluation import canary_feedback
from ..evaluation.opinions import Answer, OpinionReader
from ..registry import ModelRegistry
from ..store import LogReader
from ..types import (
    Canary,
    CanaryAction,
    CanaryDecision,
    CanaryOutcome,
    GateDecision,
    ModelVersion,
    Purpose,
    VersionStatus,
    utcnow,
)

_LOOK_EVERY = 10.0


class CanaryTrial:
    """
    Tries a candidate out on a share of the users, until what they say decides, or somebody does by hand.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions, and where servers read who gets which.
        store ([`~online_trl.store.LogReader`]):
            What users say.
        settings ([`~online_trl.canary.CanarySettings`]):
            How the canary is run.
        wait (`Callable[[float], None]`):
            Waits so many seconds before the next look.
    """

    def __init__(
        self, registry: ModelRegistry, store: LogReader, settings: CanarySettings, *, wait: Callable[[float], None]
    ) -> None:
        self.registry = registry
        self.store = store
        self.settings = settings
        self.wait = wait
        self._readers: dict[str, OpinionReader] = {}

    def run(self, version: str) -> GateDecision:
        """
        Runs the canary of a candidate to its end, or goes on with one that runs.

        Args:
            version (`str`):
                The candidate.

        Returns:
            [`~online_trl.types.GateDecision`]: Whether it is in service now, and why.
        """
        canary = self._begun(version)
        if canary is None:
            return settled(self.registry.get(version))
        checks: CanaryDecision | None = None
        while canary.outcome is None:
            checks = self.look(canary)
            if checks.action is CanaryAction.CONTINUE:
                self.wait(_LOOK_EVERY)
                canary = self._of(version) or canary
            else:
                is_better = checks.action is CanaryAction.PROMOTE
                canary = self.registry.end_canary(version, checks.reason, promote=is_better)
        return GateDecision(
            canary.outcome is CanaryOutcome.PROMOTED, canary.reason, checks.checks if checks is not None else ()
        )

    def look(self, canary: Canary) -> CanaryDecision:
        """Returns what users have said so far, and what follows."""
        drawn = self._reader(canary).read().among(partial(_was_drawn, canary))
        feedback = canary_feedback(drawn, canary.version, canary.incumbent)
        hours = (utcnow() - canary.started_at).total_seconds() / 3600
        return decide_canary(feedback, settings=self.settings, hours=hours)

    def _reader(self, canary: Canary) -> OpinionReader:
        """Returns what reads on from where the look before ended: a canary may last for weeks."""
        if canary.canary_id in self._readers:
            return self._readers[canary.canary_id]
        end = self.store.latest_seq()
        first = self.store.interactions(policy_version=canary.version, purpose=Purpose.CHAT, upto=end, limit=1)
        # What came before the candidate's first answer is not part of the canary, and need not be read.
        after = (first[0].seq or 1) - 1 if first else end
        reader = OpinionReader(self.store, Purpose.CHAT, canary.version, canary.incumbent, after=after)
        if first:
            self._readers[canary.canary_id] = reader
        return reader

    def _begun(self, version: str) -> Canary | None:
        """Returns the canary of a version, after beginning it; none if somebody has decided about it by hand."""
        while (canary := self._of(version)) is None:
            if self.registry.get(version).status is not VersionStatus.CANDIDATE:
                return None
            if self.registry.canary() is None:
                return self.registry.start_canary(version, self.settings.share)
            self.wait(_LOOK_EVERY)
        return canary

    def _of(self, version: str) -> Canary | None:
        return next((canary for canary in reversed(self.registry.canaries()) if canary.version == version), None)


def settled(version: ModelVersion) -> GateDecision:
    """Returns what was decided about a version that is no candidate any more."""
    return GateDecision(version.status is VersionStatus.LIVE, f"{version.status.value} by hand: {version.reason}")


def _was_drawn(canary: Canary, answer: Answer) -> bool:
    """Whether an answer came of the draw: who asks for a version by its name, or asked before, is no sample."""
    gets_candidate = assign(answer.voice(answer.user_id), canary.canary_id, canary.share)
    return answer.created_at >= canary.started_at and gets_candidate is (answer.policy_version == canary.version)
