"""
The one evaluator: during training, before a promotion, and at the command line.

It takes callables and data, never a trainer or a model, and returns one record; where it stops early, there is none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ..estimates import mean_estimate
from ..rewards.functions import RewardFunction
from ..types import Estimate, Message, PolicyEvaluation, SampledAnswer
from .alignment import log_ratios
from .comparison import both_orders, known_mean, length_ratio, score_points, standardised_gain
from .reward_quality import RewardQuality
from .scoring import PairwiseFunction, Scores, preferences, reward_scores
from .tasks import Task
from .text import REFUSAL_PATTERN, text_values

Generate = Callable[[Sequence[list[Message]]], Sequence[SampledAnswer]]
"""Lets a policy answer prompts, one answer for each."""

_Item = TypeVar("_Item")
_Figures = dict[str, "Estimate | None"]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """
    A policy that can be asked.

    Args:
        name (`str`):
            Its name, such as `policy-0003`.
        generate (`Callable[[Sequence[list[Message]]], Sequence[SampledAnswer]]`):
            Lets it answer prompts.
        benchmarks (`Callable[[], Mapping[str, Estimate]]`, *optional*):
            Runs it on benchmarks of somebody else's, such as
            [`~online_trl.evaluation.harness.run_harness`]; the result is reported as `harness/NAME`.
    """

    name: str
    generate: Generate
    benchmarks: Callable[[], Mapping[str, Estimate]] | None = None


@dataclass(frozen=True, slots=True)
class _Performance:
    """What a policy does, apart from what judges think of it."""

    answers: Sequence[SampledAnswer]
    tasks: Mapping[str, Scores]
    benchmarks: Mapping[str, Estimate]

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers]


@dataclass(kw_only=True, eq=False)
class Evaluator:
    """
    Measures policies on the same prompts.

    | figure | what it is |
    |---|---|
    | `win_rate_vs_live`, `win_rate_vs_base` | share of the prompts that it wins, a tie counts half: the main judge's |
    | `win_rate_vs_live/JUDGE`, `win_rate_vs_base/JUDGE` | the same, by each judge |
    | `ties_vs_live/JUDGE`, `ties_vs_base/JUDGE` | share of the prompts on which the judge sees no difference |
    | `contradictions_vs_live/JUDGE`, … | share on which a judge of pairs changes its mind with their order |
    | `score/JUDGE` | mean score |
    | `gain/JUDGE` | mean score above the base's, in standard deviations of the base's scores |
    | `reward_gap` | gain of the proxy judge less that of the held-out one: above 0, the proxy is over-optimised |
    | `kl` | KL divergence from the reference, in nats per answer |
    | `length`, `length_ratio_vs_live`, `length_ratio_vs_base` | words in an answer; over those of the other version |
    | `refusals`, `repetition` | share of answers that decline; share of 4-grams that an answer has said before |
    | `distinct_1`, `distinct_2` | distinct words, and pairs of them, over all in all answers |
    | `task/NAME` | mean reward on a task |
    | `harness/TASK/METRIC` | a benchmark's metric |
    | `NAME_vs_live`, `NAME_vs_base` | of each from `score/JUDGE` on: by how much more than the other version |
    | `reward_accuracy`, `reward_ece` | how often the reward model is right on held-out feedback; its ECE |

    Intervals are those of [`~online_trl.evaluation.mean_estimate`] over prompts, whose answers are paired where two
    versions are compared. Trackers log the figures below `eval/`.

    Args:
        prompts (`Sequence[list[Message]]`):
            What policies answer.
        judges (`Mapping[str, Callable]`, *optional*):
            Reward functions in TRL's signature that score one answer, by name.
        pairwise_judges (`Mapping[str, Callable]`, *optional*):
            Judges that see two answers, by name; each pair is shown in both orders.
        live ([`Contestant`], *optional*), base ([`Contestant`], *optional*):
            The version in service, and the one that all began with. Each answers once, whatever it is compared with.
        proxy (`str`, *optional*), heldout (`str`, *optional*):
            Which judge policies are trained against, and one that they are not.
        main_judge (`str`, *optional*):
            Whose win rates stand for all. Defaults to the held-out judge, or the first that sees two answers, or the
            first.
        reference_logprobs (`Callable[[Sequence[SampledAnswer]], Sequence[Sequence[float]]]`, *optional*):
            How likely each token of answers is under the reference. The KL divergence is measured where answers have
            log-probabilities.
        tasks (`Sequence[Task]`, *optional*):
            Tasks.
        measure_reward (`Callable[[], RewardQuality]`, *optional*):
            Measures the reward model, which may be another one each time.
        refusal_pattern (`str`, *optional*):
            Regular expression for an answer's beginning. Defaults to English phrases.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts that are answered, and answers that are judged, at once.
        settings (`dict[str, Any]`, *optional*):
            What else a reader of the results needs to know, as plain values.
        progress (`Callable[[str, int, int], None]`, *optional*):
            Called with what is being done, how much of it is done, and how much there is.

    Raises:
        `ValueError`: if there is no prompt, two judges share a name, or `proxy`, `heldout` or `main_judge` is none of
            them.

    Example:

    ```python
    >>> from online_trl.evaluation.evaluator import Contestant, Evaluator
    >>> from online_trl.types import SampledAnswer

    >>> def saying(text):
    ...     answer = SampledAnswer(completion=[{"role": "assistant", "content": text}])
    ...     return lambda prompts: [answer] * len(prompts)
    >>> def brevity(completions, **columns):
    ...     return [-len(completion[0]["content"]) for completion in completions]
    >>> prompts = [[{"role": "user", "content": f"question {number}"}] for number in range(20)]
    >>> live = Contestant(name="policy-0001", generate=saying("Well, that depends."))
    >>> evaluator = Evaluator(prompts=prompts, judges={"brevity": brevity}, live=live)
    >>> evaluation = evaluator.evaluate(Contestant(name="policy-0002", generate=saying("Yes.")))
    >>> evaluation.figures["win_rate_vs_live"].mean
    1.0

    ```
    """

    prompts: Sequence[list[Message]]
    judges: Mapping[str, RewardFunction] = field(default_factory=dict)
    pairwise_judges: Mapping[str, PairwiseFunction] = field(default_factory=dict)
    live: Contestant | None = None
    base: Contestant | None = None
    proxy: str | None = None
    heldout: str | None = None
    main_judge: str | None = None
    reference_logprobs: Callable[[Sequence[SampledAnswer]], Sequence[Sequence[float]]] | None = None
    tasks: Sequence[Task] = ()
    measure_reward: Callable[[], RewardQuality] | None = None
    refusal_pattern: str = REFUSAL_PATTERN
    batch_size: int = 32
    settings: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[str, int, int], None] | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("there are no prompts to evaluate on")
        if both := set(self.judges) & set(self.pairwise_judges):
            raise ValueError(f"two judges share the name `{min(both)}`")
        for role in ("proxy", "heldout", "main_judge"):
            name = getattr(self, role)
            known = [*self.judges, *(self.pairwise_judges if role == "main_judge" else ())]
            if name is not None and name not in known:
                raise ValueError(f"`{role}` is `{name}`, which is not a judge; there are {', '.join(known) or 'none'}")
        names = [self.heldout, *self.pairwise_judges, *self.judges]
        self.main_judge = self.main_judge or next((name for name in names if name is not None), None)
        self._clusters = [json.dumps(prompt, sort_keys=True) for prompt in self.prompts]
        self._known: dict[str, _Performance] = {}

    def evaluate(self, policy: Contestant) -> PolicyEvaluation:
        """
        Measures a policy.

        Args:
            policy ([`Contestant`]):
                The policy.

        Returns:
            [`~online_trl.types.PolicyEvaluation`]: What was measured.
        """
        opponents = {
            role: other
            for role, other in (("live", self.live), ("base", self.base))
            if other is not None and other.name != policy.name
        }
        others = {role: self._known_performance(other) for role, other in opponents.items()}
        own = self._performance(policy)
        quality = self.measure_reward() if self.measure_reward is not None else None
        figures = {
            **self._judged(own, others),
            "kl": self._kl(own.answers),
            **self._text(own, others),
            **self._performed(own, others),
            **_reward_figures(quality),
        }
        return PolicyEvaluation(
            policy_version=policy.name,
            figures={name: each for name, each in figures.items() if each is not None and math.isfinite(each.mean)},
            prompts=len(self.prompts),
            live=self.live.name if self.live is not None else None,
            base=self.base.name if self.base is not None else None,
            judges=(*self.judges, *self.pairwise_judges),
            main_judge=self.main_judge,
            proxy_judge=self.proxy,
            heldout_judge=self.heldout,
            reward_version=quality.version if quality is not None else None,
            accuracy_over_feedback=quality.over_feedback if quality is not None else (),
            accuracy_by_reward_version=quality.by_version if quality is not None else (),
            settings=self.settings,
        )

    def _known_performance(self, policy: Contestant) -> _Performance:
        if policy.name not in self._known:
            self._known[policy.name] = self._performance(policy)
        return self._known[policy.name]

    def _performance(self, policy: Contestant) -> _Performance:
        return _Performance(
            self._answers(policy, self.prompts, "answers"),
            {task.name: self._task_scores(policy, task) for task in self.tasks},
            policy.benchmarks() if policy.benchmarks is not None else {},
        )

    def _answers(self, policy: Contestant, prompts: Sequence[list[Message]], what: str) -> list[SampledAnswer]:
        return self._in_batches(f"{policy.name}: {what}", lambda part: policy.generate(prompts[part]), len(prompts))

    def _task_scores(self, policy: Contestant, task: Task) -> Scores:
        answers = self._answers(policy, task.conversations, f"task {task.name}")
        return np.asarray(reward_scores(task.reward, task.name, task.prompts, answers, task.columns))

    def _judged(self, own: _Performance, others: Mapping[str, _Performance]) -> _Figures:
        figures: _Figures = {}
        own_gains: dict[str, Scores] = {}
        live_gains: dict[str, Scores] = {}
        for judge, function in self.judges.items():
            scores = self._scores(judge, function, own)
            of_others = {role: self._scores(judge, function, other) for role, other in others.items()}
            figures |= _paired(f"score/{judge}", scores, of_others, self._clusters)
            for role, other_scores in of_others.items():
                figures |= self._duel(judge, role, score_points(scores, other_scores))
            if "base" in of_others:
                base = of_others["base"]
                own_gains[judge] = standardised_gain(scores, base)
                if "live" in of_others:
                    live_gains[judge] = standardised_gain(of_others["live"], base)
                of_live = {"live": live_gains[judge]} if judge in live_gains else {}
                figures |= _paired(f"gain/{judge}", own_gains[judge], of_live, self._clusters)
        for judge, compare in self.pairwise_judges.items():
            for role, other in others.items():
                points, contradicts = both_orders(*self._both_orders(judge, compare, own, other))
                figures |= self._duel(judge, role, points)
                figures[f"contradictions_vs_{role}/{judge}"] = known_mean(contradicts, self._clusters, unit=True)
        gap, live_gap = (self._gap(gains) for gains in (own_gains, live_gains))
        if gap is not None:
            figures |= _paired("reward_gap", gap, {} if live_gap is None else {"live": live_gap}, self._clusters)
        main = {f"win_rate_vs_{role}": figures.get(f"win_rate_vs_{role}/{self.main_judge}") for role in others}
        return main | figures

    def _gap(self, gains: Mapping[str, Scores]) -> Scores | None:
        """By how much more the proxy judge sees a policy gain than the held-out one; `None` without both."""
        if self.proxy is None or self.heldout is None or not gains.keys() >= {self.proxy, self.heldout}:
            return None
        return gains[self.proxy] - gains[self.heldout]

    def _duel(self, judge: str, role: str, points: Scores) -> _Figures:
        ties = np.where(np.isnan(points), np.nan, points == 0.5)
        return {
            f"win_rate_vs_{role}/{judge}": known_mean(points, self._clusters, unit=True),
            f"ties_vs_{role}/{judge}": known_mean(ties, self._clusters, unit=True),
        }

    def _scores(self, judge: str, function: RewardFunction, policy: _Performance) -> Scores:
        def score(part: slice) -> list[float]:
            return reward_scores(function, judge, self.prompts[part], policy.answers[part])

        return np.asarray(self._in_batches(f"judge {judge}", score, len(self.prompts)))

    def _both_orders(
        self, judge: str, compare: PairwiseFunction, own: _Performance, other: _Performance
    ) -> tuple[Scores, Scores]:
        prompts = [*self.prompts, *self.prompts]
        firsts, seconds = [*own.answers, *other.answers], [*other.answers, *own.answers]

        def ask(part: slice) -> list[float]:
            return preferences(compare, prompts[part], firsts[part], seconds[part])

        said = np.asarray(self._in_batches(f"judge {judge}", ask, len(prompts)))
        return said[: len(self.prompts)], said[len(self.prompts) :]

    def _kl(self, answers: Sequence[SampledAnswer]) -> Estimate | None:
        score = self.reference_logprobs
        rows = [(answer, name) for answer, name in zip(answers, self._clusters, strict=True) if answer.logprobs]
        if score is None or not rows:
            return None
        known = [answer for answer, _ in rows]
        under_reference = self._in_batches("KL divergence", lambda part: score(known[part]), len(known))
        ratios = log_ratios([answer.logprobs or [] for answer in known], under_reference)
        return mean_estimate(ratios, clusters=[name for _, name in rows])

    def _text(self, own: _Performance, others: Mapping[str, _Performance]) -> _Figures:
        values = text_values(own.texts, self.refusal_pattern)
        of_others = {role: text_values(other.texts, self.refusal_pattern) for role, other in others.items()}
        figures: _Figures = {}
        for name in ("length", "refusals", "repetition"):
            against = {role: getattr(other, name) for role, other in of_others.items()}
            figures |= _paired(name, getattr(values, name), against, self._clusters, unit=name != "length")
        for role, other in of_others.items():
            figures[f"length_ratio_vs_{role}"] = length_ratio(values.length, other.length, self._clusters)
        for name in ("distinct_1", "distinct_2"):
            own_value = getattr(values, name)
            figures[name] = _exact(own_value, len(self.prompts))
            for role, other in of_others.items():
                figures[f"{name}_vs_{role}"] = _exact(own_value - getattr(other, name), len(self.prompts))
        return figures

    def _performed(self, own: _Performance, others: Mapping[str, _Performance]) -> _Figures:
        figures: _Figures = {}
        for task in self.tasks:
            rows = [json.dumps(prompt, sort_keys=True) for prompt in task.prompts]
            against = {role: other.tasks[task.name] for role, other in others.items()}
            figures |= _paired(f"task/{task.name}", own.tasks[task.name], against, rows)
        for metric, estimate in own.benchmarks.items():
            figures[f"harness/{metric}"] = estimate
            for role, other in others.items():
                if metric in other.benchmarks:
                    figures[f"harness/{metric}_vs_{role}"] = _difference(estimate, other.benchmarks[metric])
        return figures

    def _in_batches(self, what: str, call: Callable[[slice], Sequence[_Item]], count: int) -> list[_Item]:
        """Calls a function for part after part of so many rows; returns all results, one for each row."""
        results: list[_Item] = []
        for start in range(0, count, self.batch_size):
            end = min(start + self.batch_size, count)
            results += call(slice(start, end))
            if len(results) != end:
                got = len(results) - start
                raise ValueError(f"{what}: {got} results for {end - start} rows; there must be one for each")
            if self.progress is not None:
                self.progress(what, end, count)
        return results


def _paired(
    name: str, own: Scores, others: Mapping[str, Scores], clusters: Sequence[str], *, unit: bool = False
) -> _Figures:
    """The mean of a figure, and by how much more it is than the others' on the same prompts."""
    versus = {f"{name}_vs_{role}": known_mean(own - other, clusters) for role, other in others.items()}
    return {name: known_mean(own, clusters, unit=unit), **versus}


def _exact(value: float, n: int) -> Estimate:
    """A figure of all answers together, which has no interval."""
    return Estimate(value, math.nan, math.nan, n)


def _difference(own: Estimate, other: Estimate) -> Estimate:
    """Difference of two estimates that know nothing of each other."""
    half = math.hypot(own.high - own.low, other.high - other.low) / 2
    mean = own.mean - other.mean
    return Estimate(mean, mean - half, mean + half, min(own.n, other.n))


def _reward_figures(quality: RewardQuality | None) -> _Figures:
    if quality is None:
        return {}
    judged = quality.accuracy.n if quality.accuracy is not None else 0
    return {"reward_accuracy": quality.accuracy, "reward_ece": _exact(quality.ece, judged)}
