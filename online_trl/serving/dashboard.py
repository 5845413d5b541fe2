"""What the dashboard shows, gathered when somebody looks and something has changed, but never all the time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ..registry import ModelRegistry
from ..report import Gatherer, RunReport
from ..report.gather import loop_status
from ..store import FeedbackStore
from ..types import ModelRole, Sample

_REST = 10.0


class Dashboard:
    """
    Keeps what was gathered until the log or the registry changes. The longer the log, the longer gathering takes: it
    rests for ten times as long, so that who looks on costs those who are answered little. Only an erasure is seen at
    once, so that no text outlives it here.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log.
        registry ([`~online_trl.registry.ModelRegistry`], *optional*):
            The versions.
        loop_dir (`str`, *optional*):
            Where the loop around the server keeps its state.
        clock (`Callable[[], float]`, *optional*):
            Tells the time in seconds.
    """

    def __init__(
        self,
        store: FeedbackStore,
        registry: ModelRegistry | None,
        *,
        loop_dir: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._gatherer = Gatherer(store, registry)
        self._registry = registry
        self._loop_dir = loop_dir
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[object, RunReport] | None = None
        self._due = -math.inf
        self._compared: tuple[object, tuple[Sample, ...]] | None = None

    def report(
        self, serving: str, *, before: str | None = None, after: str | None = None, lineage_of: str | None = None
    ) -> tuple[RunReport, dict[str, str]]:
        """
        Returns what there is to tell now, and the versions that were chosen.

        Args:
            serving (`str`):
                The policy that answers by default.
            before (`str`, *optional*), after (`str`, *optional*):
                Versions whose answers are to stand side by side. Default to the base and the one in service.
            lineage_of (`str`, *optional*):
                The version whose lineage is to be told. Defaults to the one in service.
        """
        # Several who look at once wait for one that gathers.
        with self._lock:
            state, report = self._gathered(serving)
            live = report.live.policy_version
            pair = before or report.base.policy_version, after or live
            if self._compared is None or self._compared[0] != (state, pair):
                self._compared = ((state, pair), self._gatherer.samples(*pair))
            samples = self._compared[1]
        chosen = {"before": pair[0], "after": pair[1], "lineage_of": lineage_of or live}
        return (
            replace(
                report,
                samples=samples,
                lineage=self._gatherer.lineage(chosen["lineage_of"]),
                loop=None if self._loop_dir is None else loop_status(self._loop_dir),
            ),
            chosen,
        )

    def _gathered(self, serving: str) -> tuple[object, RunReport]:
        """What was gathered last, or is now, and of which state of the log and the registry that is."""
        begun = self._clock()
        if self._kept is None or begun >= self._due or self._has_erased(self._kept[1]):
            state = (self._store.latest_seq(), serving, self._registry_state())
            if self._kept is None or self._kept[0] != state:
                self._kept = (state, self._gatherer.report(serving=serving))
            ended = self._clock()
            self._due = ended + _REST * (ended - begun)
        return self._kept

    def _has_erased(self, report: RunReport) -> bool:
        return bool(self._store.tombstones(after=report.latest_seq))

    def _registry_state(self) -> object:
        if self._registry is None:
            return None
        versions = [version for role in ModelRole for version in self._registry.versions(role)]
        standing = [(version.name, version.status, version.reason) for version in versions]
        policies = [version.name for version in versions if version.role is ModelRole.POLICY]
        evaluations = [len(self._registry.evaluations(name)) for name in policies]
        return standing, evaluations, self._registry.canaries(), self._registry.history(ModelRole.POLICY)
