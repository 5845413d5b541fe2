"""What a refresh of the reward model led to, and what its version tells of it in the registry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..types import GateDecision
from .calibration import Calibration
from .judgement import Judgement
from .memory import Ages


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshOutcome:
    """
    What a refresh led to.

    Args:
        version (`str`):
            The version that was published.
        decision ([`~online_trl.types.GateDecision`]):
            Whether it went into service, and why.
        trained_on (`dict[str, int]`):
            Statements that it was trained on, by what they are: `PreferencePair`, `Ranking`, `UnpairedLabel`.
        heldout (`int`):
            Statements that it was judged by.
        accuracy (`float`):
            How often it is right about them.
        ece (`float`):
            Expected calibration error on the pairs among them.
        ages ([`~online_trl.rewards.memory.Ages`]):
            How old the statements were that it was trained on.
        restarted (`str`, *optional*):
            Why it was made anew from the initial model, if it was.
        drift (`str`, *optional*):
            The change of what people want that was noticed since the refresh before.
        seconds (`float`):
            How long the refresh took.
    """

    version: str
    decision: GateDecision
    trained_on: dict[str, int]
    heldout: int
    accuracy: float
    ece: float
    ages: Ages
    restarted: str | None = None
    drift: str | None = None
    seconds: float

    @property
    def statements(self) -> int:
        """How many statements it was trained on."""
        return sum(self.trained_on.values())


def version_metrics(outcome: RefreshOutcome, judgement: Judgement) -> dict[str, float]:
    """Returns the figures of a version."""
    return {
        "reward_accuracy": outcome.accuracy,
        "heldout_statements": float(outcome.heldout),
        "statements": float(outcome.statements),
        "audit_accuracy": judgement.audit_accuracy,
        "audit_statements": float(judgement.audited),
        "anchor_spread": judgement.spread,
        "ece": outcome.ece,
        "label_ece": judgement.label_calibration.ece,
        "age_rows": outcome.ages.rows.median,
        "age_hours": outcome.ages.hours.median,
        "delay_hours": outcome.ages.delay_hours.median,
        "refresh_seconds": outcome.seconds,
    }


def version_record(outcome: RefreshOutcome, judgement: Judgement) -> dict[str, Any]:
    """Returns what else a version tells of how it was made, as plain values."""
    return {
        "trained_on": outcome.trained_on,
        "ages": asdict(outcome.ages),
        "pair_calibration": _bins(judgement.pair_calibration),
        "label_calibration": _bins(judgement.label_calibration),
        "anchor_set": judgement.standard.anchor_set.version,
        "drift": outcome.drift,
        "restarted": outcome.restarted,
    }


def _bins(calibration: Calibration) -> list[dict[str, float]]:
    """The reliability plot, as plain values."""
    return [asdict(each) for each in calibration.bins]
