"""What was measured of versions, as evaluations record it and reports tell it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .base import Estimate, Message, utcnow
from .decisions import GateDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEvaluation:
    """
    What was measured of one policy version.

    Args:
        policy_version (`str`):
            Name of the version.
        satisfaction ([`Estimate`]):
            What users said of its answers, in [0, 1].
        win_rate_vs_base ([`Estimate`], *optional*):
            How often its answer was preferred to that of the first version; `None` for the first version itself.
        win_rate_vs_live ([`Estimate`], *optional*):
            How often its answer was preferred to that of the version in service when it was made.
        kl (`float`):
            KL divergence from the first version, in nats per answer.
        length (`float`):
            Mean length of its answers, in words.
        reward_accuracy ([`Estimate`], *optional*):
            Accuracy of the reward model that paid it last, on held-out preferences.
        reward_versions (`tuple[str, ...]`):
            Reward versions that paid it, in order.
        chats ([`SatisfactionReport`], *optional*):
            What users said of its answers in their chats; `None` if it answered none.
    """

    policy_version: str
    satisfaction: Estimate
    kl: float
    length: float
    win_rate_vs_base: Estimate | None = None
    win_rate_vs_live: Estimate | None = None
    reward_accuracy: Estimate | None = None
    reward_versions: tuple[str, ...] = ()
    chats: SatisfactionReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SatisfactionReport:
    """
    What users think of one policy version, from all that they said so far. Every interval is a confidence sequence: it
    holds at all looks together, see [`~online_trl.estimates.confidence_sequence`].

    Args:
        policy_version (`str`):
            Name of the version.
        answers (`int`):
            Answers it gave.
        users (`int`):
            Users it answered.
        satisfaction ([`Estimate`]):
            Mean of thumbs (0 or 1) and ratings (scaled to [0, 1]).
        thumb_rate ([`Estimate`]):
            Share of the thumbs that point up.
        rating ([`Estimate`]):
            Mean rating, scaled to [0, 1].
        response_rate ([`Estimate`]):
            Share of its answers that somebody said something about. A score beside a falling response rate comes from
            those who stayed.
        win_rate ([`Estimate`], *optional*):
            Expected points against the version of reference, from comparisons of any two versions; `None` for the
            reference itself, and where nobody compared.
        implicit (`dict[str, int]`):
            How often each implicit signal came. They are no judgements, and are in no score.
    """

    policy_version: str
    answers: int
    users: int
    satisfaction: Estimate
    thumb_rate: Estimate
    rating: Estimate
    response_rate: Estimate
    win_rate: Estimate | None = None
    implicit: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRefresh:
    """
    One refresh of the reward model, as a report tells it.

    Args:
        version (`str`):
            The version that it published.
        decision ([`GateDecision`]):
            Whether it went into service, and why.
        accuracy ([`Estimate`]):
            Accuracy on the held-out preferences, and how many there were.
        statements (`int`):
            Statements that it was trained on.
        ece (`float`, *optional*):
            Expected calibration error on the held-out pairs.
        reliability (`tuple[tuple[float, float, float], ...]`):
            What it predicted for held-out pairs, what came true, and how much weight lay behind that, by how sure it
            was.
        drift (`str`, *optional*):
            The change of what people want that it answers to, in words.
        restarted (`str`, *optional*):
            Why it was made anew from the initial model, in words.
        upto (`int`, *optional*):
            Row of the log up to which it had heard.
    """

    version: str
    decision: GateDecision
    accuracy: Estimate
    statements: int
    ece: float | None = None
    reliability: tuple[tuple[float, float, float], ...] = ()
    drift: str | None = None
    restarted: str | None = None
    upto: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    One prompt with the answers of two policy versions.

    Args:
        prompt (`list[Message]`), before (`list[Message]`), after (`list[Message]`):
            The prompt, and what each version answered.
        before_version (`str`), after_version (`str`):
            Names of the two versions.
        before_score (`float`, *optional*), after_score (`float`, *optional*):
            What a user said of each answer, in [0, 1].
    """

    prompt: list[Message]
    before: list[Message]
    after: list[Message]
    before_version: str
    after_version: str
    before_score: float | None = None
    after_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledAnswer:
    """
    An answer that was drawn in order to be evaluated.

    Args:
        completion (`list[Message]`):
            What was answered.
        prompt_ids (`list[int]`, *optional*), completion_ids (`list[int]`, *optional*):
            Token ids of the prompt and of the answer, as they were sampled.
        logprobs (`list[float]`, *optional*):
            Log-probability of each token of `completion_ids` under the policy, in nats.
    """

    completion: list[Message]
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None

    @property
    def text(self) -> str:
        """What was answered, as one text."""
        return "\n\n".join(str(message.get("content") or "") for message in self.completion)


@dataclass(frozen=True, slots=True)
class AccuracyPoint:
    """
    How often a reward model was right at one point of time.

    Args:
        at (`str`):
            The point: a reward version, or an interval of the log such as `120-180`.
        accuracy ([`Estimate`]):
            Share of the statements that it is right about.
    """

    at: str
    accuracy: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """
    What an evaluator measured of one policy version.

    Args:
        policy_version (`str`):
            Name of the version.
        figures (`dict[str, Estimate]`):
            What was measured, by its name; see [`~online_trl.evaluation.evaluator.Evaluator`] for the names. What
            could not be measured is left out.
        live (`str`, *optional*), base (`str`, *optional*):
            The version in service and the one that all began with, if it was compared with them.
        judges (`tuple[str, ...]`):
            Names of the judges.
        main_judge (`str`, *optional*):
            The judge whose win rates stand for all.
        proxy_judge (`str`, *optional*), heldout_judge (`str`, *optional*):
            The judge that the policy was trained against, and the one that it was not.
        prompts (`int`):
            Prompts that it answered.
        reward_version (`str`, *optional*):
            The reward version whose accuracy was measured.
        accuracy_over_feedback (`tuple[AccuracyPoint, ...]`):
            How that one does on held-out feedback, the oldest first.
        accuracy_by_reward_version (`tuple[AccuracyPoint, ...]`):
            How each reward version did when it was published.
        settings (`dict[str, Any]`):
            How answers were drawn and judged, as plain values.
        created_at (`datetime`, *optional*):
            Timezone-aware. Defaults to now.
    """

    policy_version: str
    figures: dict[str, Estimate]
    prompts: int
    live: str | None = None
    base: str | None = None
    judges: tuple[str, ...] = ()
    main_judge: str | None = None
    proxy_judge: str | None = None
    heldout_judge: str | None = None
    reward_version: str | None = None
    accuracy_over_feedback: tuple[AccuracyPoint, ...] = ()
    accuracy_by_reward_version: tuple[AccuracyPoint, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utcnow)

    @property
    def scalars(self) -> dict[str, float]:
        """The figures as trackers log them: each mean under its name, and its interval as `NAME_low`, `NAME_high`."""
        named = {
            name + ending: value
            for name, estimate in self.figures.items()
            for ending, value in (("", estimate.mean), ("_low", estimate.low), ("_high", estimate.high))
        }
        return {name: value for name, value in named.items() if math.isfinite(value)}
