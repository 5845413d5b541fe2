"""
A candidate serves a share of the users beside the version in service, and what they say decides: promote it, roll it
back, or go on watching.

Pure functions of numbers. People look at a canary all the time, so the test is sequential: its error rates hold
however often it is asked, and it may be asked after every judgement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import ConfigError, check_range
from .estimates.fixed import student_t_of
from .estimates.sequential import critical_value
from .estimates.users import ClusteredMean, Floats, clustered_mean, user_totals
from .types import CanaryAction, CanaryDecision, CanaryFeedback, Estimate, GateCheck, Judgements

Booleans = NDArray[np.bool_]

_UNIT = (0.0, 1.0)
_IMAGINARY = 2.0
"""Judgements added at each bound before the spread is measured: of few users, all may happen to agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySettings:
    """
    How a canary is run, and how it ends.

    Args:
        share (`float`, *optional*, defaults to `0.1`):
            Share of the users whom the candidate answers.
        false_promotion_rate (`float`, *optional*, defaults to `0.05`):
            Probability of ever promoting a candidate that is no better.
        false_rollback_rate (`float`, *optional*, defaults to `0.05`):
            Probability of ever calling a candidate worse that is no worse.
        effect (`float`, *optional*, defaults to `0.05`):
            Difference of satisfaction that the test is made to find soonest. It finds others, too.
        comparisons (`bool`, *optional*, defaults to `False`):
            Whether comparisons of the two count beside thumbs and ratings. To be settled beforehand: they share the
            error rates.
        response_budget (`float`, *optional*, defaults to `0.1`):
            Share by which fewer answers may get a response than of the version in service.
        min_users (`int`, *optional*, defaults to `20`):
            Users who must have judged each of the two before anything is decided.
        max_judgements (`int`, *optional*, defaults to `50000`), max_hours (`float`, *optional*, defaults to `336`):
            After so many thumbs and ratings of both, or after so long, a candidate that has not shown to be better is
            rolled back: the version in service needs no proof.

    Raises:
        [`~online_trl.config.ConfigError`]: if one of them is out of bounds.
    """

    share: float = 0.1
    false_promotion_rate: float = 0.05
    false_rollback_rate: float = 0.05
    effect: float = 0.05
    comparisons: bool = False
    response_budget: float = 0.1
    min_users: int = 20
    max_judgements: int = 50_000
    max_hours: float = 336.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"`share` is {self.share}; it must lie between 0 and 1")
        check_range("max_judgements", self.max_judgements, 1, None)
        check_range("max_hours", self.max_hours, 0.0, None)
        check_range("response_budget", self.response_budget, 0.0, 1.0)
        check_range("min_users", self.min_users, 5, None)
        for name in ("false_promotion_rate", "false_rollback_rate", "effect"):
            value = getattr(self, name)
            if not 0 < value < 0.5:
                raise ConfigError(f"`{name}` is {value}; it must lie between 0 and 0.5")


def assign(user_key: str, canary_id: str, share: float) -> bool:
    """
    Returns whether somebody gets the candidate. Every server says the same, for as long as the canary runs; another
    canary draws anew.

    Args:
        user_key (`str`):
            The user, or the session where there is no user.
        canary_id (`str`):
            Id of the canary.
        share (`float`):
            Share of the users that get it, from 0 to 1.
    """
    digest = hashlib.sha256(f"{canary_id}/{user_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def decide_canary(feedback: CanaryFeedback, *, settings: CanarySettings, hours: float = 0.0) -> CanaryDecision:
    """
    Says what to do with a candidate, from all that has been said since its canary began.

    The candidate is promoted once it is better: satisfaction is higher, or users prefer its answers where they compare
    the two, at the false-promotion rate. It is rolled back once it is worse in either, or once the share of its
    answers that get a response has fallen by more than the budget, at the false-rollback rate; and at the end of its
    time. It is not promoted while that share lies below the budget, however high its score: those who stopped voting
    are not in it. What is tested together shares the error rate evenly.

    A difference of two means of users, each of whom only one version answers, is tested by a one-sided sequential test
    from each side, the normal mixture of [`~online_trl.estimates.sequential.critical_value`], which is a mixture
    sequential probability ratio test: Johari, Koomen, Pekelis and Walsh 2022, "Always valid inference: continuous
    monitoring of A/B tests" (https://doi.org/10.1287/opre.2021.2135). Weights, clock and assumptions are those of
    [`~online_trl.estimates.confidence_sequence`].

    Args:
        feedback ([`~online_trl.types.CanaryFeedback`]):
            What came of the answers that both gave since it began.
        settings ([`CanarySettings`]):
            How the canary is run.
        hours (`float`, *optional*, defaults to `0.0`):
            How long it has run.

    Returns:
        [`~online_trl.types.CanaryDecision`]: What to do, and why.
    """
    candidate, incumbent = feedback.candidate, feedback.incumbent
    responses = (_mean(candidate.responses), _mean(incumbent.responses))
    standing = Standing.of(
        scores=(_mean(candidate.scores), _mean(incumbent.scores)),
        responses=responses,
        comparisons=_mean(feedback.comparisons),
        settings=settings,
    )
    judgements = len(candidate.scores.values) + len(incumbent.scores.values)
    is_over = judgements >= settings.max_judgements or hours >= settings.max_hours
    action, why = _settle(standing, is_over=is_over)
    checks = _checks(standing)
    difference = _ends(standing, "satisfaction", judgements)
    preferred = None
    if settings.comparisons:
        lead = _ends(standing, "win_rate", len(feedback.comparisons.values))
        preferred = Estimate(lead.mean + 0.5, max(0.0, lead.low + 0.5), min(1.0, lead.high + 0.5), lead.n)
    return CanaryDecision(
        action=action,
        reason=f"{why}: {_words(difference, preferred, checks[-1])}",
        satisfaction_difference=difference,
        response_rate=float(responses[0].mean),
        live_response_rate=float(responses[1].mean),
        win_rate=preferred,
        checks=checks,
    )


@dataclass(frozen=True, slots=True)
class Lead:
    """
    How far a candidate is ahead of the incumbent in one respect, of one canary or of many at once.

    Args:
        mean (array of shape `(...)`), variance (array of shape `(...)`):
            The estimate.
        users (array of shape `(...)`):
            Users behind it; of two groups, the smaller.
    """

    mean: Floats
    variance: Floats
    users: Floats

    @classmethod
    def between(cls, candidate: ClusteredMean, incumbent: ClusteredMean, *, least: float = 1.0) -> Lead:
        """A candidate's mean less `least` times that of an incumbent with users of its own."""
        return cls(
            candidate.mean - least * incumbent.mean,
            _variance(candidate) + least**2 * _variance(incumbent),
            np.minimum(candidate.users, incumbent.users),
        )

    @classmethod
    def over_even(cls, points: ClusteredMean) -> Lead:
        """Mean points in comparisons less one half."""
        return cls(points.mean - 0.5, _variance(points), points.users)

    def reach(self, level: float, settings: CanarySettings) -> Floats:
        """
        How far the true lead may be from this one on one side, such that it ever is farther with probability `level`.
        Without users enough, any distance.
        """
        is_enough = self.users >= settings.min_users
        variance = np.where(is_enough, self.variance, 1.0)
        # Tightest where the effect is three standard errors, which is about when it is found.
        critical = critical_value((settings.effect / 3) ** 2 / variance, level)
        widened = student_t_of(critical, np.where(is_enough, self.users, settings.min_users) - 1)
        return np.where(is_enough, widened * np.sqrt(variance), np.inf)


@dataclass(frozen=True, slots=True)
class Standing:
    """
    How a candidate stands beside the incumbent, of one canary or of many at once.

    Args:
        leads (`Mapping[str, Lead]`):
            How far it is ahead in what users say: `satisfaction`, and `win_rate` if comparisons count.
        low (`Mapping[str, array of shape (...)]`), high (`Mapping[str, array of shape (...)]`):
            How far it is ahead at least and at most. `high` has `response_rate` too, of which a budget may be lost.
        response_rate (array of shape `(...)`), least_response_rate (array of shape `(...)`):
            Share of its answers that got a response, and what is asked of it.
    """

    leads: Mapping[str, Lead]
    low: Mapping[str, Floats]
    high: Mapping[str, Floats]
    response_rate: Floats
    least_response_rate: Floats

    @classmethod
    def of(
        cls,
        *,
        scores: tuple[ClusteredMean, ClusteredMean],
        responses: tuple[ClusteredMean, ClusteredMean],
        comparisons: ClusteredMean | None = None,
        settings: CanarySettings,
    ) -> Standing:
        """What the means of both, the candidate's first, amount to."""
        leads = {"satisfaction": Lead.between(*scores)}
        if settings.comparisons and comparisons is not None:
            leads["win_rate"] = Lead.over_even(comparisons)
        least = 1 - settings.response_budget
        tested = {**leads, "response_rate": Lead.between(*responses, least=least)}
        promotion_level = settings.false_promotion_rate / len(leads)
        rollback_level = settings.false_rollback_rate / len(tested)
        return cls(
            leads=leads,
            low={name: lead.mean - lead.reach(promotion_level, settings) for name, lead in leads.items()},
            high={name: lead.mean + lead.reach(rollback_level, settings) for name, lead in tested.items()},
            response_rate=responses[0].mean,
            least_response_rate=least * responses[1].mean,
        )

    @property
    def is_worse(self) -> Booleans:
        """Whether it is to be rolled back. Where nothing is known, which is `nan`, nothing is known to be worse."""
        worse: Booleans = np.any([high < 0 for high in self.high.values()], axis=0)
        return worse

    @property
    def keeps_responses(self) -> Booleans:
        """Whether as many of its answers get a response as is asked."""
        return self.response_rate >= self.least_response_rate

    @property
    def is_better(self) -> Booleans:
        """Whether it is to be promoted."""
        is_ahead: Booleans = np.any([low > 0 for low in self.low.values()], axis=0)
        return is_ahead & self.keeps_responses & ~self.is_worse


def _mean(judgements: Judgements) -> ClusteredMean:
    return clustered_mean(user_totals(judgements.values, judgements.users))


def _variance(mean: ClusteredMean) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean.guarded_spread(_IMAGINARY, _UNIT) / mean.independent


def _checks(standing: Standing) -> tuple[GateCheck, ...]:
    """The conditions; that of the response rate is the last."""
    rate, least = float(standing.response_rate), float(standing.least_response_rate)
    return (
        *(GateCheck(f"{name}_low", float(low), 0.0, bool(low > 0)) for name, low in standing.low.items()),
        *(GateCheck(f"{name}_high", float(high), 0.0, not high < 0) for name, high in standing.high.items()),
        GateCheck("response_rate", rate, least, bool(standing.keeps_responses)),
    )


def _settle(standing: Standing, *, is_over: bool) -> tuple[CanaryAction, str]:
    ahead = [name for name, low in standing.low.items() if low > 0]
    if standing.is_worse:
        worse = [name for name, high in standing.high.items() if high < 0]
        return CanaryAction.ROLL_BACK, f"rolled back, as {_names(worse)} is lower"
    if standing.is_better:
        return CanaryAction.PROMOTE, f"promoted, as {_names(ahead)} is higher"
    held = f"{_names(ahead)} is higher, but fewer answers get a response" if ahead else "no difference is proven"
    if is_over:
        return CanaryAction.ROLL_BACK, f"rolled back at the end of its time, as {held}"
    return CanaryAction.CONTINUE, f"goes on, as {held}"


def _names(measures: Sequence[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in measures)


def _ends(standing: Standing, name: str, n: int) -> Estimate:
    """A lead with its interval, within the bounds of a difference of two shares."""
    if n == 0:
        return Estimate(math.nan, -1.0, 1.0, n)
    low, high = float(standing.low[name]), float(standing.high[name])
    return Estimate(float(standing.leads[name].mean), max(-1.0, low), min(1.0, high), n)


def _words(difference: Estimate, preferred: Estimate | None, guard: GateCheck) -> str:
    words = [_judged("satisfaction", difference, "+.3f", "judgements")]
    if preferred is not None:
        words.append(_judged("win rate", preferred, ".3f", "comparisons"))
    if not math.isnan(guard.value):
        words.append(f"responses to {guard.value:.1%} of the answers, at least {guard.threshold:.1%} asked")
    return ", ".join(words)


def _judged(name: str, estimate: Estimate, form: str, units: str) -> str:
    if math.isnan(estimate.mean):
        return f"{name} not judged"
    mean, low, high = (format(value, form) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{name} {mean} [{low}, {high}] on {estimate.n} {units}"
