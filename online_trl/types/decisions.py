"""What is decided about a candidate, and what it is decided by."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .base import Estimate


@dataclass(frozen=True, slots=True)
class Judgements:
    """
    What users said, as numbers in [0, 1], and who said each.

    Args:
        values (`tuple[float, ...]`), users (`tuple[str, ...]`):
            The judgements, and for each the user.
    """

    values: tuple[float, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionFeedback:
    """
    What came of the answers that one version gave.

    Args:
        scores ([`Judgements`]):
            Thumbs and ratings.
        responses ([`Judgements`]):
            For each answer, 1 if somebody said something about it, else 0; the user is the one who had asked.
    """

    scores: Judgements = field(default_factory=Judgements)
    responses: Judgements = field(default_factory=Judgements)


@dataclass(frozen=True, slots=True)
class CanaryFeedback:
    """
    What came of the answers that two versions gave side by side.

    Args:
        candidate ([`VersionFeedback`]), incumbent ([`VersionFeedback`]):
            Of each.
        comparisons ([`Judgements`]):
            Points of the candidate in comparisons of the two: 1 for a win, 0.5 for a tie, 0 for a loss.
    """

    candidate: VersionFeedback
    incumbent: VersionFeedback
    comparisons: Judgements = field(default_factory=Judgements)


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One condition of a gate: what was measured, what was asked, and whether it held."""

    name: str
    value: float
    threshold: float
    passed: bool


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether a candidate may replace the incumbent, and why, in words and in numbers."""

    accepted: bool
    reason: str
    checks: tuple[GateCheck, ...] = ()


class CanaryAction(str, Enum):
    """What to do with a candidate that serves a share of the users."""

    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryDecision:
    """
    What live feedback says of a candidate beside the version in service, and what follows.

    Args:
        action ([`CanaryAction`]):
            What to do.
        reason (`str`):
            Why, in words.
        satisfaction_difference ([`Estimate`]):
            Satisfaction with the candidate less that with the incumbent. Its interval, and that of the win rate, are
            one-sided at each end: by the false-promotion rate below, by the false-rollback rate above.
        response_rate (`float`), live_response_rate (`float`):
            Share of the answers of each that somebody said something about.
        win_rate ([`Estimate`], *optional*):
            How often the candidate's answer was preferred to the incumbent's, if comparisons count.
        checks (`tuple[GateCheck, ...]`):
            The conditions that were looked at.
    """

    action: CanaryAction
    reason: str
    satisfaction_difference: Estimate
    response_rate: float
    live_response_rate: float
    win_rate: Estimate | None = None
    checks: tuple[GateCheck, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDecision:
    """
    What the promotion gate said about one policy version, as a report tells it.

    Args:
        version (`str`):
            The candidate.
        incumbent (`str`, *optional*):
            The version in service that it was held against.
        decision ([`GateDecision`]):
            Whether it went into service, and why.
    """

    version: str
    decision: GateDecision
    incumbent: str | None = None
