"""What the log and the registry say about each version, gathered for the gate and for the report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from . import evaluation
from .evaluation.guards import guard_measurements
from .evaluation_records import recorded_evaluations
from .gates import GuardMeasurement, PromotionThresholds, promotion_gate
from .preferences import standing_feedback
from .reference import ReferencePolicy
from .registry import ModelRegistry
from .report import RunReport
from .store import LogReader
from .types import (
    Estimate,
    FeedbackKind,
    GateDecision,
    Interaction,
    ModelRole,
    ModelVersion,
    PolicyDecision,
    PolicyEvaluation,
    Purpose,
    RewardRefresh,
    Sample,
    VersionEvaluation,
    VersionStatus,
)


class Measurement:
    """
    Measures policy versions by what users said of them.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions. The oldest policy is the base that all others are compared with.
    """

    def __init__(self, store: LogReader, registry: ModelRegistry) -> None:
        self.store = store
        self.registry = registry
        self.base = registry.versions(ModelRole.POLICY)[0].name

    def version(self, name: str) -> VersionEvaluation:
        """
        Measures one version.

        Args:
            name (`str`):
                A policy version whose answers users have judged.
        """
        record = self.registry.get(name)
        is_base = name == self.base
        answers = self._answers(name)
        parent = record.parent
        return VersionEvaluation(
            policy_version=name,
            satisfaction=evaluation.satisfaction(self.store, name),
            win_rate_vs_base=None if is_base else evaluation.win_rate(self.store, name, self.base),
            win_rate_vs_live=evaluation.win_rate(self.store, name, parent) if parent is not None else None,
            kl=0.0 if is_base else self._kl(answers),
            length=evaluation.answer_length(answers),
            reward_accuracy=self._accuracy(record.reward_versions[-1]) if record.reward_versions else None,
            reward_versions=record.reward_versions,
        )

    def decide(self, candidate: str, thresholds: PromotionThresholds | None = None) -> GateDecision:
        """
        Asks the promotion gate whether a candidate may replace the version it was trained from. What an evaluator
        measured of both guards the promotion too.

        Args:
            candidate (`str`):
                The policy version that asks.
            thresholds ([`~online_trl.gates.PromotionThresholds`], *optional*):
                What is asked of it.
        """
        measured = self.version(candidate)
        live = self.registry.get(candidate).parent or self.base
        return promotion_gate(
            win_rate=evaluation.win_rate(self.store, candidate, live),
            satisfaction=measured.satisfaction,
            live_satisfaction=evaluation.satisfaction(self.store, live),
            guards={
                **self._recorded_guards(candidate, live),
                "kl": GuardMeasurement(measured.kl, 0.0),
                "length": GuardMeasurement(measured.length, evaluation.answer_length(self._answers(live))),
            },
            thresholds=thresholds,
        )

    def report(
        self, *, trainer: str, seed: int, seconds: float, decisions: Sequence[PolicyDecision], num_samples: int = 2
    ) -> RunReport:
        """
        Gathers a run into a report.

        Args:
            trainer (`str`), seed (`int`), seconds (`float`):
                What ran, and how long.
            decisions (`Sequence[PolicyDecision]`):
                What the promotion gate said of each candidate, in order.
            num_samples (`int`, *optional*, defaults to `2`):
                Conversations to show before and after.
        """
        versions = [self.base, *(decision.version for decision in decisions)]
        in_service = [self.base, *(decision.version for decision in decisions if decision.decision.accepted)]
        return RunReport(
            trainer=trainer,
            seed=seed,
            seconds=seconds,
            versions=tuple(self.version(name) for name in versions),
            decisions=tuple(decisions),
            reward_history=self._reward_history(),
            feedback_by_kind=self.store.summary().feedback_by_kind,
            samples=self._samples(in_service[-1], num_samples) if len(in_service) > 1 else (),
            evaluations=tuple(each for name in versions[1:] for each in self._evaluations(name)[-1:]),
        )

    def _answers(self, name: str) -> list[Interaction]:
        return self.store.interactions(policy_version=name, purpose=Purpose.EVALUATION)

    def _recorded_guards(self, candidate: str, live: str) -> dict[str, GuardMeasurement]:
        """From the newest evaluation of the candidate against the version in service, if one is recorded."""
        recorded = [each for each in self._evaluations(candidate) if each.live == live]
        return guard_measurements(recorded[-1]) if recorded else {}

    def _evaluations(self, name: str) -> list[PolicyEvaluation]:
        return recorded_evaluations(self.registry.evaluations(name))

    def _kl(self, answers: Sequence[Interaction]) -> float:
        recorded = [answer for answer in answers if answer.logprobs]
        reference = ReferencePolicy(self.registry.path(self.base)).logprobs(recorded)
        return evaluation.kl_divergence([answer.logprobs or [] for answer in recorded], reference)

    def _accuracy(self, reward_version: str) -> Estimate:
        metrics = self.registry.get(reward_version).metrics
        # The registry leaves out what is not a number: a refresh without held-out statements has no accuracy.
        return evaluation.share_estimate(metrics.get("reward_accuracy", math.nan), int(metrics["heldout_statements"]))

    def _reward_history(self) -> tuple[RewardRefresh, ...]:
        promoted = {row.version: row.reason for row in self.registry.history(ModelRole.REWARD)}
        return tuple(
            RewardRefresh(
                version=version.name,
                decision=GateDecision(version.name in promoted, promoted.get(version.name, version.reason)),
                accuracy=self._accuracy(version.name),
                statements=int(version.metrics["statements"]),
                ece=version.metrics.get("ece"),
                reliability=tuple(
                    (each["predicted"], each["observed"], each["weight"])
                    for each in version.config["pair_calibration"]
                ),
                drift=version.config["drift"],
                restarted=version.config["restarted"],
            )
            for version in self.registry.versions(ModelRole.REWARD)
            if _was_decided(version)
        )

    def _samples(self, after_version: str, count: int) -> tuple[Sample, ...]:
        """Prompts that the base and a later version both answered, the most improved ones of a spread first."""
        before = {_key(answer): answer for answer in self._answers(self.base)}
        after = {_key(answer): answer for answer in self._answers(after_version)}
        scores = self._scores()
        shared = sorted(before.keys() & after.keys())
        return tuple(
            Sample(
                prompt=before[key].prompt,
                before=before[key].completion,
                after=after[key].completion,
                before_version=self.base,
                after_version=after_version,
                before_score=scores.get(before[key].interaction_id),
                after_score=scores.get(after[key].interaction_id),
            )
            for key in shared[:: max(1, len(shared) // count)][:count]
        )

    def _scores(self) -> dict[str, float]:
        rated = (FeedbackKind.BINARY, FeedbackKind.RATING)
        rows = [row for row in standing_feedback(self.store.admitted_feedback()) if row.kind in rated]
        return {row.interaction_ids[0]: row.score for row in rows}


def _key(answer: Interaction) -> str:
    return json.dumps(answer.prompt, sort_keys=True)


def _was_decided(version: ModelVersion) -> bool:
    """A version that an interrupted run left behind is no part of the story."""
    return version.status not in (VersionStatus.CANDIDATE, VersionStatus.ABANDONED)
