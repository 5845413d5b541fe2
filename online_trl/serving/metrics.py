"""
What Prometheus is told about a running server.

Each app has a registry of its own. Which policy version a statement is about is looked up when the metrics are read,
or now and then after a reply, and never while a client waits.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily

from ..store import FeedbackStore, StoreError
from ..types import Feedback, FeedbackKind, Interaction
from .engine import Engine
from .generation import TokenCount

UNKNOWN_VERSION = "unknown"
"""
Version of feedback about an answer that is not in the log any more, or about none, as a retraction may be; also of
feedback that could not wait any longer for a log that cannot be read.
"""

_MOST_UNSETTLED = 5000
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

logger = logging.getLogger(__name__)


class Metrics:
    """
    Counts what a server does. All methods but [`settle`] are for the event loop's thread.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log, whose queue is measured.
        engine ([`~online_trl.serving.engine.Engine`]):
            The engine, whose queue and switches are measured.
    """

    def __init__(self, store: FeedbackStore, engine: Engine) -> None:
        self._store = store
        self._unsettled: deque[Feedback] = deque()
        self._settling = threading.Lock()
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "online_trl_request_seconds",
            "Time from a request to the end of its reply.",
            ["method", "route", "status"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._tokens = Counter(
            "online_trl_tokens",
            "Tokens of prompts and of answers, as far as the engine tells them.",
            ["policy_version", "part"],
            registry=self._registry,
        )
        self._feedback = Counter(
            "online_trl_feedback",
            "Statements that were acknowledged, retries included.",
            ["kind", "policy_version"],
            registry=self._registry,
        )
        self._comparisons = Counter(
            "online_trl_comparisons",
            "Comparisons that were asked for and answered, and attempts at asking that failed.",
            ["strategy", "outcome"],
            registry=self._registry,
        )
        self._registry.register(_State(store, engine))

    @property
    def is_due(self) -> bool:
        """Whether there is much feedback whose policy version has not been looked up."""
        return len(self._unsettled) >= _MOST_UNSETTLED

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """
        Counts a request.

        Args:
            method (`str`), route (`str`), status (`int`):
                Of these there may only be so many different values: the route is a template.
            seconds (`float`):
                How long it took.
        """
        self._requests.labels(method, route, str(status)).observe(seconds)

    def count_comparison(self, strategy: str, outcome: str, count: int = 1) -> None:
        """
        Counts what became of asking for comparisons.

        Args:
            strategy (`str`):
                How the answers were chosen.
            outcome (`str`):
                `asked`, `answered`, or `failed` if there was a plain answer because something went wrong.
            count (`int`, *optional*, defaults to `1`):
                How many.
        """
        self._comparisons.labels(strategy, outcome).inc(count)

    def count_rows(self, rows: Sequence[Interaction | Feedback | TokenCount]) -> None:
        """
        Counts what came into the log.

        Args:
            rows (`Sequence[Interaction | Feedback | TokenCount]`):
                The rows as stored, and the number of tokens of a reply whose rows have none.
        """
        for row in rows:
            if isinstance(row, Feedback):
                self._unsettled.append(row)
            elif isinstance(row, Interaction):
                self._count_tokens(row.policy_version, len(row.prompt_ids or ()), len(row.completion_ids or ()))
            else:
                self._count_tokens(row.policy_version, row.prompt, row.completion)

    def _count_tokens(self, policy_version: str, prompt: int, completion: int) -> None:
        self._tokens.labels(policy_version, "prompt").inc(prompt)
        self._tokens.labels(policy_version, "completion").inc(completion)

    def settle(self) -> None:
        """
        Looks up the policy versions that the feedback since the last time is about. Reads the log; if that fails, the
        feedback is left for the next time, unless there is much of it.
        """
        with self._settling:
            rows = [self._unsettled.popleft() for _ in range(len(self._unsettled))]
            try:
                versions = self._store.policy_versions(row.interaction_ids[0] for row in rows if row.interaction_ids)
                strategies = self._store.comparison_strategies(
                    row.interaction_ids[0] for row in rows if _answers_a_question(row)
                )
            except StoreError:
                logger.exception("cannot look up the policy versions of feedback")
                if len(rows) < _MOST_UNSETTLED:
                    self._unsettled.extendleft(reversed(rows))
                    return
                versions, strategies = {}, {}
            self._count_feedback(rows, versions)
            for strategy, count in _tally_answered(rows, strategies).items():
                self.count_comparison(strategy, "answered", count)

    def _count_feedback(self, rows: Sequence[Feedback], versions: dict[str, str]) -> None:
        counts = Tally((row.kind.value, _version(row, versions)) for row in rows)
        for (kind, version), count in counts.items():
            self._feedback.labels(kind, version).inc(count)

    def exposition(self) -> bytes:
        """Returns everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _State:
    """What is measured when it is asked for."""

    def __init__(self, store: FeedbackStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "online_trl_waiting_writes", "Write requests that wait for the log.", self._store.waiting_writes
        )
        load = self._engine.load()
        yield GaugeMetricFamily("online_trl_waiting_answers", "Answers that wait for the engine.", load.waiting)
        yield SummaryMetricFamily(
            "online_trl_swap_seconds",
            "Time that it took to put another policy version into service.",
            count_value=load.switches,
            sum_value=load.switch_seconds,
        )


def _answers_a_question(row: Feedback) -> bool:
    """Returns whether a statement may be the first answer to a comparison that the server asked for."""
    return row.kind is FeedbackKind.COMPARISON and row.value is not None and row.supersedes is None


def _tally_answered(rows: Sequence[Feedback], strategies: Mapping[str, str]) -> Tally[str]:
    first = (row.interaction_ids[0] for row in rows if _answers_a_question(row))
    return Tally(strategies[name] for name in first if name in strategies)


def _version(row: Feedback, versions: dict[str, str]) -> str:
    return versions.get(row.interaction_ids[0], UNKNOWN_VERSION) if row.interaction_ids else UNKNOWN_VERSION
