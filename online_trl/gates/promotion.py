"""May this policy replace the one in service?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..config import ConfigError, check_range
from ..types import Estimate, GateCheck, GateDecision
from .decision import decide

_Check = tuple[GateCheck, str]


@dataclass(frozen=True, slots=True)
class GuardMeasurement:
    """
    A metric that nobody optimises for, and that a promotion must not harm.

    Args:
        candidate (`float`), incumbent (`float`):
            What was measured of the candidate and of the version in service, on the same prompts.
    """

    candidate: float
    incumbent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    How far a guard metric may move for the sake of users' approval.

    Args:
        fall (`float`, *optional*), rise (`float`, *optional*):
            How far the candidate may lie below or above the incumbent. `None` for as far as it likes.
        relative (`bool`, *optional*, defaults to `False`):
            Whether `fall` and `rise` are shares of the incumbent's value.

    Raises:
        [`~online_trl.config.ConfigError`]: if neither is given, or one is negative.
    """

    fall: float | None = None
    rise: float | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        if self.fall is None and self.rise is None:
            raise ConfigError("a budget needs a `fall`, a `rise` or both: how far the metric may move")
        check_range("fall", self.fall or 0.0, 0.0, None)
        check_range("rise", self.rise or 0.0, 0.0, None)


DEFAULT_BUDGETS: Mapping[str, Budget] = {
    "task": Budget(fall=0.02),
    "harness": Budget(fall=0.02),
    "heldout_reward": Budget(fall=0.1),
    "reward_gap": Budget(rise=1.0),
    "refusals": Budget(rise=0.02),
    "repetition": Budget(rise=0.05),
    "length": Budget(fall=0.67, rise=2.0, relative=True),
    "kl": Budget(rise=50.0),
}
"""
How far guard metrics may move where nothing else is said. Shares in [0, 1], the held-out reward and the gap between
the proxy's and it in standard deviations of the base's scores, lengths as shares of the incumbent's, KL in nats per
answer from the reference, whose own is 0: a guard against collapse rather than a goal, as it grows with the length of
answers. `task` stands for each `task/NAME`, too. Whether people still respond is known once they are served: a canary
guards it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionThresholds:
    """
    What a policy has to show before it goes into service.

    Args:
        min_win_rate (`float`, *optional*, defaults to `0.5`):
            Against the version in service, the mean win rate must be above this to count as a rise.
        slack (`float`, *optional*, defaults to `0.05`):
            How far below that, or below an equal satisfaction, the 95 % interval of a rise may reach. Feedback is
            sparse: 0 asks for proof of every small step, which takes hundreds of comparisons.
        budgets (`dict[str, Budget]`, *optional*):
            Of each guard metric, what differs from [`DEFAULT_BUDGETS`]. A metric named here has to be measured; `task`
            names each `task/NAME` that has no budget of its own.
    """

    min_win_rate: float = 0.5
    slack: float = 0.05
    budgets: dict[str, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("min_win_rate", self.min_win_rate, 0.0, 1.0)


def promotion_gate(
    *,
    win_rate: Estimate,
    satisfaction: Estimate,
    live_satisfaction: Estimate | None,
    guards: Mapping[str, GuardMeasurement],
    thresholds: PromotionThresholds | None = None,
) -> GateDecision:
    """
    Accepts a policy that users like better than the one in service, and that did not pay for it elsewhere: the win
    rate or satisfaction has risen, neither is lower beyond noise, and no guard metric has moved beyond its budget,
    however much users like the policy. A guard that could not be measured (`nan`) refuses.

    The case it is for is the rollback of GPT-4o in 2025: thumbs had risen while what held flattery in check had
    weakened, see "Expanding on what we missed with sycophancy"
    (https://openai.com/index/expanding-on-sycophancy/).

    Args:
        win_rate ([`~online_trl.types.Estimate`]):
            How often users preferred its answer to that of the version in service.
        satisfaction ([`~online_trl.types.Estimate`]):
            What users said of its answers.
        live_satisfaction ([`~online_trl.types.Estimate`], *optional*):
            What they said of the version in service. Compared only if both have judgements.
        guards (`Mapping[str, GuardMeasurement]`):
            The guard metrics by name.
        thresholds ([`PromotionThresholds`], *optional*):
            What is asked.

    Returns:
        [`~online_trl.types.GateDecision`]: The decision with its checks.

    Raises:
        `ValueError`: if a guard has no budget.
    """
    asked = thresholds or PromotionThresholds()
    goals = [*_win_rate(win_rate, asked), *_satisfaction(satisfaction, live_satisfaction, asked)]
    if not goals:
        check = GateCheck("judgements", 0, 1, False)
        return GateDecision(False, "refused: nobody judged it beside the version in service", (check,))
    checks = [_rise(goals), *(goal.not_lower for goal in goals), *_guard_checks(guards, asked.budgets)]
    values = (f"{name} {guard.candidate:.3g} against {guard.incumbent:.3g}" for name, guard in guards.items())
    return decide(checks, ", ".join([*(goal.summary for goal in goals), *values]))


@dataclass(frozen=True, slots=True)
class _Goal:
    """Something that users say, of which one has to rise and none may fall."""

    rose: bool
    why_not: str
    not_lower: _Check
    summary: str


def _win_rate(win_rate: Estimate, asked: PromotionThresholds) -> Iterator[_Goal]:
    if win_rate.n == 0:
        return
    mean, low, high = win_rate.mean, win_rate.low, win_rate.high
    least, reach = asked.min_win_rate, asked.min_win_rate - asked.slack
    words = f"win rate {mean:.2f} [{low:.2f}, {high:.2f}] on {win_rate.n} comparisons"
    yield _Goal(
        rose=mean > least and low >= reach,
        why_not=f"the {words} " + (f"reaches below {reach:.2f}" if mean > least else f"is not above {least:.2f}"),
        not_lower=(
            GateCheck("win_rate_high", high, least, high >= least),
            f"the {words} is below {least:.2f} beyond noise",
        ),
        summary=words,
    )


def _satisfaction(satisfaction: Estimate, live: Estimate | None, asked: PromotionThresholds) -> Iterator[_Goal]:
    if live is None or live.n == 0 or satisfaction.n == 0:
        return
    difference = satisfaction.mean - live.mean
    noise = math.hypot(satisfaction.high - satisfaction.low, live.high - live.low) / 2
    words = f"satisfaction {satisfaction.mean:.2f} against {live.mean:.2f}"
    yield _Goal(
        rose=difference > 0 and difference - noise >= -asked.slack,
        why_not=f"{words}, a difference of {difference:+.2f} ± {noise:.2f}, is no rise",
        not_lower=(
            GateCheck("satisfaction_difference", difference + noise, 0.0, difference + noise >= 0),
            f"{words} of the live version is lower beyond noise",
        ),
        summary=words,
    )


def _rise(goals: list[_Goal]) -> _Check:
    rises = sum(goal.rose for goal in goals)
    return GateCheck("rises", rises, 1, rises >= 1), "; ".join(goal.why_not for goal in goals)


def _guard_checks(guards: Mapping[str, GuardMeasurement], budgets: Mapping[str, Budget]) -> Iterator[_Check]:
    known = {**DEFAULT_BUDGETS, **budgets}
    for name, guard in guards.items():
        budget = known.get(name) or known.get(_family(name))
        if budget is None:
            raise ValueError(f"the guard `{name}` has no budget; name it among `budgets`, or leave it out")
        yield _guard_check(name, guard, budget)
    for name in sorted(budgets.keys() - guards.keys() - {_family(measured) for measured in guards}):
        yield GateCheck(name, math.nan, math.nan, False), f"{name}, which has a budget, was not measured"


def _family(name: str) -> str:
    return name.partition("/")[0]


def _guard_check(name: str, guard: GuardMeasurement, budget: Budget) -> _Check:
    candidate, incumbent = guard.candidate, guard.incumbent
    unit = abs(incumbent) if budget.relative else 1.0
    low = -math.inf if budget.fall is None else incumbent - budget.fall * unit
    high = math.inf if budget.rise is None else incumbent + budget.rise * unit
    is_about_falls = budget.rise is None or (budget.fall is not None and candidate < incumbent)
    moved, limit = ("fell", low) if is_about_falls else ("rose", high)
    return (
        GateCheck(name, candidate, limit, low <= candidate <= high),
        f"{name} could not be measured"
        if math.isnan(candidate) or math.isnan(incumbent)
        else f"{name} {moved} from {incumbent:.3g} to {candidate:.3g}, beyond its budget of {limit:.3g}",
    )
