"""What the log and the registry say about a candidate, measured for the gate."""

from __future__ import annotations

from collections.abc import Sequence

from . import evaluation
from .evaluation.guards import guard_measurements
from .evaluation.opinions import Opinions
from .evaluation_records import KL_KIND, recorded_evaluations
from .gates import GuardMeasurement, PromotionThresholds, promotion_gate
from .reference import ReferencePolicy
from .registry import ModelRegistry
from .store import LogReader
from .types import EvaluationRecord, GateDecision, Interaction, ModelRole, Purpose, utcnow


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
        live = self.registry.get(candidate).parent or self.base
        asked = Opinions.read(self.store, Purpose.EVALUATION)
        answers = self._answers(candidate)
        kl = self._kl(answers)
        # For reports, which load no model.
        self.registry.record_evaluation(candidate, EvaluationRecord(KL_KIND, utcnow(), {"kl": kl}))
        return promotion_gate(
            win_rate=evaluation.win_rate_of(asked, candidate, live),
            satisfaction=evaluation.satisfaction_of(asked, candidate),
            live_satisfaction=evaluation.satisfaction_of(asked, live),
            guards={
                **self._recorded_guards(candidate, live),
                "kl": GuardMeasurement(kl, 0.0),
                "length": GuardMeasurement(
                    evaluation.answer_length(answers), evaluation.answer_length(self._answers(live))
                ),
            },
            thresholds=thresholds,
        )

    def _answers(self, name: str) -> list[Interaction]:
        return self.store.interactions(policy_version=name, purpose=Purpose.EVALUATION)

    def _recorded_guards(self, candidate: str, live: str) -> dict[str, GuardMeasurement]:
        """From the newest evaluation of the candidate against the version in service, if one is recorded."""
        recorded = [each for each in recorded_evaluations(self.registry.evaluations(candidate)) if each.live == live]
        return guard_measurements(recorded[-1]) if recorded else {}

    def _kl(self, answers: Sequence[Interaction]) -> float:
        recorded = [answer for answer in answers if answer.logprobs]
        reference = ReferencePolicy(self.registry.path(self.base)).logprobs(recorded)
        return evaluation.kl_divergence([answer.logprobs or [] for answer in recorded], reference)
