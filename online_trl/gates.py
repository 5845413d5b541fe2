"""
May this candidate replace the incumbent? Pure functions from measurements to a decision.

Every gate compares with what is in service now, on the newest evidence, and says in one sentence what decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .types import Estimate, GateCheck, GateDecision

_RESAMPLES = 10_000


def reward_gate(
    candidate_margins: Sequence[float],
    live_margins: Sequence[float] | None,
    *,
    level: float = 0.05,
    tolerance: float = 0.0,
    min_accuracy: float = 0.5,
    min_pairs: int = 20,
) -> GateDecision:
    """
    Accepts a reward model unless it is worse than the one in service on the newest held-out preferences.

    The accuracies on the same pairs are compared by a paired bootstrap: the candidate is refused if its accuracy is
    lower by more than `tolerance` at the given level. With fewer than `min_pairs` pairs a bootstrap says nothing: then
    the first version is accepted as it is, and a later one if its accuracy is lower by no more than `tolerance`.
    Without any pair a later one is refused. The first version, which nothing stands behind, is refused only if its
    accuracy is below `min_accuracy` at the given level.

    Args:
        candidate_margins (`Sequence[float]`):
            Score of the chosen answer less that of the rejected one, for each held-out pair. A tie counts half.
        live_margins (`Sequence[float]`, *optional*):
            The same of the version in service, for the same pairs; `None` if there is none yet.
        level (`float`, *optional*, defaults to `0.05`):
            Probability of refusing a candidate that is exactly `tolerance` worse.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Loss of accuracy that is accepted, for the sake of fresher data.
        min_accuracy (`float`, *optional*, defaults to `0.5`):
            Accuracy below which no later candidate is accepted, except to replace one that is right no more often:
            when taste turns, the less wrong of two models is the better one.
        min_pairs (`int`, *optional*, defaults to `20`):
            Pairs needed for the bootstrap.

    Returns:
        [`~online_trl.types.GateDecision`]: The decision with its checks.

    Raises:
        `ValueError`: if the two sequences differ in length.
    """
    candidate = np.asarray(candidate_margins, dtype=float)
    broken = int(np.sum(~np.isfinite(candidate)))
    if broken:
        check = GateCheck("broken_scores", broken, 0, False)
        return GateDecision(False, f"refused: {broken} of {candidate.size} scores are not finite numbers", (check,))
    if live_margins is None:
        return _first_reward(_correct(candidate), level, min_accuracy, min_pairs)
    live = np.asarray(live_margins, dtype=float)
    if live.shape != candidate.shape:
        raise ValueError(
            f"{candidate.size} margins of the candidate, {live.size} of the live version: judge the same pairs"
        )
    return _next_reward(_correct(candidate), _correct(live), level, tolerance, min_accuracy, min_pairs)


def promotion_gate(
    *,
    win_rate: Estimate,
    satisfaction: Estimate,
    live_satisfaction: Estimate | None,
    kl: float,
    length_ratio: float,
    min_win_rate: float = 0.5,
    slack: float = 0.05,
    max_kl: float = 50.0,
    length_bounds: tuple[float, float] = (0.33, 3.0),
) -> GateDecision:
    """
    Accepts a policy that users prefer to the one in service, and that did not pay for it elsewhere.

    Args:
        win_rate ([`~online_trl.types.Estimate`]):
            How often users preferred its answer to that of the version in service.
        satisfaction ([`~online_trl.types.Estimate`]):
            What users said of its answers.
        live_satisfaction ([`~online_trl.types.Estimate`], *optional*):
            What they said of the version in service. Compared only if both have judgements: the upper end of the 95 %
            interval of the difference must not lie below 0.
        kl (`float`):
            KL divergence from the reference, in nats per answer.
        length_ratio (`float`):
            Mean length of its answers over that of the version in service.
        min_win_rate (`float`, *optional*, defaults to `0.5`):
            The mean win rate must be above this.
        slack (`float`, *optional*, defaults to `0.05`):
            How far below `min_win_rate` the interval may reach. Feedback is sparse: 0 asks for proof of every small
            step, which takes hundreds of comparisons.
        max_kl (`float`, *optional*, defaults to `50.0`):
            A guard against collapse rather than a goal; it grows with the length of answers.
        length_bounds (`tuple[float, float]`, *optional*, defaults to `(0.33, 3.0)`):
            Smallest and largest length ratio.

    Returns:
        [`~online_trl.types.GateDecision`]: The decision with its checks.
    """
    if win_rate.n == 0:
        check = GateCheck("comparisons", 0, 1, False)
        return GateDecision(False, "refused: nobody compared it with the version in service", (check,))
    shortest, longest = length_bounds
    checks = [
        (
            GateCheck("win_rate", win_rate.mean, min_win_rate, win_rate.mean > min_win_rate),
            f"the win rate {win_rate.mean:.2f} on {win_rate.n} comparisons is not above {min_win_rate:.2f}",
        ),
        (
            GateCheck("win_rate_low", win_rate.low, min_win_rate - slack, win_rate.low >= min_win_rate - slack),
            f"the interval of the win rate reaches down to {win_rate.low:.2f}, below {min_win_rate - slack:.2f}",
        ),
        *_satisfaction_check(satisfaction, live_satisfaction),
        (GateCheck("kl", kl, max_kl, kl <= max_kl), f"the KL divergence of {kl:.1f} nats is above {max_kl:.1f}"),
        (
            GateCheck("length_ratio_low", length_ratio, shortest, length_ratio >= shortest),
            f"answers are {length_ratio:.2f} times as long, below {shortest:.2f}",
        ),
        (
            GateCheck("length_ratio_high", length_ratio, longest, length_ratio <= longest),
            f"answers are {length_ratio:.2f} times as long, above {longest:.2f}",
        ),
    ]
    return _decide(
        checks,
        f"win rate {win_rate.mean:.2f} [{win_rate.low:.2f}, {win_rate.high:.2f}] on {win_rate.n} comparisons, "
        f"satisfaction {_against(satisfaction, live_satisfaction)}, KL {kl:.1f} nats, "
        f"answers {length_ratio:.2f} times as long",
    )


def _correct(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for a pair in the right order, 0.5 for a tie, 0 otherwise."""
    return np.where(margins > 0, 1.0, np.where(margins == 0, 0.5, 0.0))


def _first_reward(correct: NDArray[np.float64], level: float, min_accuracy: float, min_pairs: int) -> GateDecision:
    if correct.size < min_pairs:
        return GateDecision(
            True, f"accepted: the first version, and {correct.size} held-out pairs are too few to judge it by"
        )
    accuracy = float(correct.mean())
    # There is nothing to fall back on, so only what is worse than chance beyond noise is turned away.
    best_case = _upper_bound(correct, level)
    check = GateCheck("accuracy", best_case, min_accuracy, best_case >= min_accuracy)
    refusal = (
        f"the accuracy {accuracy:.2f} on {correct.size} held-out pairs, {best_case:.2f} at best, is below "
        f"{min_accuracy:.2f}"
    )
    return _decide([(check, refusal)], f"the first version, accuracy {accuracy:.2f} on {correct.size} held-out pairs")


def _next_reward(
    correct: NDArray[np.float64],
    live_correct: NDArray[np.float64],
    level: float,
    tolerance: float,
    min_accuracy: float,
    min_pairs: int,
) -> GateDecision:
    pairs = correct.size
    if pairs == 0:
        check = GateCheck("pairs", 0, 1, False)
        return GateDecision(
            False, "refused: there is no held-out pair to compare it with the live version on", (check,)
        )
    accuracy, live_accuracy = float(correct.mean()), float(live_correct.mean())
    floor = min(min_accuracy, live_accuracy)
    difference = accuracy - live_accuracy
    best_case = difference if pairs < min_pairs else _upper_bound(correct - live_correct, level)
    compared = f"accuracy {accuracy:.2f} against {live_accuracy:.2f} of the live version on {pairs} held-out pairs"
    checks = [
        (
            GateCheck("accuracy", accuracy, floor, accuracy >= floor),
            f"the accuracy {accuracy:.2f} on {pairs} held-out pairs is below {floor:.2f}",
        ),
        (
            GateCheck("accuracy_difference", best_case, -tolerance, best_case >= -tolerance),
            f"{compared}, a difference of {best_case:+.2f} at best",
        ),
    ]
    return _decide(checks, compared)


def _upper_bound(differences: NDArray[np.float64], level: float) -> float:
    """
    The upper end of the one-sided bootstrap interval of a mean. Pairs that differ by the same amount are
    interchangeable, so a resample is a draw of how often each amount occurs.
    """
    amounts, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(0).multinomial(differences.size, counts / differences.size, size=_RESAMPLES)
    return float(np.quantile(draws @ amounts / differences.size, 1 - level))


def _satisfaction_check(satisfaction: Estimate, live: Estimate | None) -> list[tuple[GateCheck, str]]:
    if live is None or live.n == 0 or satisfaction.n == 0:
        return []
    noise = math.hypot(satisfaction.high - satisfaction.low, live.high - live.low) / 2
    best_case = satisfaction.mean - live.mean + noise
    return [
        (
            GateCheck("satisfaction_difference", best_case, 0.0, best_case >= 0),
            f"satisfaction {_against(satisfaction, live)} of the live version is lower beyond noise",
        )
    ]


def _against(satisfaction: Estimate, live: Estimate | None) -> str:
    if satisfaction.n == 0:
        return "not judged"
    return f"{satisfaction.mean:.2f}" + (f" against {live.mean:.2f}" if live is not None and live.n else "")


def _decide(checks: Sequence[tuple[GateCheck, str]], summary: str) -> GateDecision:
    """Accepts with the summary if every check passed, else refuses with what each failed one says."""
    failures = [failure for check, failure in checks if not check.passed]
    reason = f"refused: {'; '.join(failures)}" if failures else f"accepted: {summary}"
    return GateDecision(not failures, reason, tuple(check for check, _ in checks))
