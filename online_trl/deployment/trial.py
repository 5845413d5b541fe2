"""The canary of a candidate: some of the users get it, and what they say decides."""

from __future__ import annotations

from collections.abc import Callable

from ..canary import CanarySettings, decide_canary
from ..evaluation import canary_feedback
from ..registry import ModelRegistry
from ..store import LogReader
from ..types import Canary, CanaryAction, CanaryDecision, CanaryOutcome, GateDecision, Purpose, utcnow

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

    def run(self, version: str) -> GateDecision:
        """
        Runs the canary of a candidate to its end, or goes on with one that runs.

        Args:
            version (`str`):
                The candidate.

        Returns:
            [`~online_trl.types.GateDecision`]: Whether it is in service now, and why.
        """
        canary = self._of(version) or self.registry.start_canary(version, self.settings.share)
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
        first = self.store.interactions(policy_version=canary.version, purpose=Purpose.CHAT, limit=1)
        # The candidate answers nobody before its canary begins; the incumbent did, and other users.
        after = (first[0].seq or 1) - 1 if first else self.store.latest_seq()
        feedback = canary_feedback(self.store, canary.version, canary.incumbent, after=after)
        hours = (utcnow() - canary.started_at).total_seconds() / 3600
        return decide_canary(feedback, settings=self.settings, hours=hours)

    def _of(self, version: str) -> Canary | None:
        return next((canary for canary in reversed(self.registry.canaries()) if canary.version == version), None)
