"""What the log and the registry say about each version, gathered for whoever shows it. Loads no model."""

from __future__ import annotations

import fcntl
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .. import evaluation
from ..config import ConfigError
from ..estimates import confidence_sequence, win_rate_matrix
from ..evaluation.judgements import report_opinions
from ..evaluation.opinions import OpinionReader, Opinions, Said
from ..evaluation_records import recorded_evaluations
from ..lineage import ingredients, learning_delays
from ..loop import LOCK_FILE, PROCESSES_FILE, STATE_FILE, LoopState
from ..registry import ModelRegistry
from ..store import LogReader
from ..types import (
    Estimate,
    EvaluationRecord,
    FeedbackKind,
    FeedbackSource,
    Interaction,
    ModelRole,
    PolicyEvaluation,
    Purpose,
    Sample,
    SatisfactionReport,
    VersionEvaluation,
)
from .looks import Looks
from .record import Ancestor, Delay, FeedbackOrigin, LoopStatus, RunReport
from .standings import Standings, reward_accuracy

_COMPARED = 5
_MEASURED_ANSWERS = 300
_SAMPLED_ANSWERS = 1000


class Gatherer:
    """
    Gathers what is to be shown.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        registry ([`~online_trl.registry.ModelRegistry`], *optional*):
            The versions. The oldest policy is the base that all others are compared with.
    """

    def __init__(self, store: LogReader, registry: ModelRegistry | None = None) -> None:
        self.store = store
        self.registry = registry
        self._reader = OpinionReader(store)
        self._said: Said | None = None
        self._looks = Looks()

    def report(
        self,
        *,
        serving: str | None = None,
        trainer: str | None = None,
        seed: int | None = None,
        seconds: float | None = None,
    ) -> RunReport:
        """
        Gathers everything but what is chosen: samples and lineage. Of the log, it reads what is new since the last
        time.

        Args:
            serving (`str`, *optional*):
                The policy in service, where no registry tells.
            trainer (`str`, *optional*), seed (`int`, *optional*), seconds (`float`, *optional*):
                What ran, and how long, if it was a run.
        """
        upto = self.store.latest_seq()
        opinions = self._reader.read(upto)
        self._said = opinions.said
        standings = Standings(self.registry)
        asked, chats = opinions.of(Purpose.EVALUATION), opinions.of(Purpose.CHAT)
        names = list(dict.fromkeys([*standings.policies, *opinions.versions, *filter(None, [serving])]))
        reports = {row.policy_version: row for row in report_opinions(chats, reference=names[0] if names else None)}
        evaluations = {name: standings.evaluations(name) for name in names}
        return RunReport(
            trainer=trainer,
            seed=seed,
            seconds=seconds,
            versions=tuple(
                self._version(name, names[0], asked, reports.get(name), standings, evaluations[name]) for name in names
            ),
            statuses=standings.statuses(names),
            in_service=standings.live or serving,
            decisions=standings.decisions(),
            events=standings.events(_rows_by_time(opinions)),
            canary=standings.canary,
            looks=self._looks.over(chats, upto, times_begun=self._reader.times_begun),
            win_rates=_win_rates(opinions, names, standings.live or serving),
            reward_history=standings.reward_history(),
            feedback_by_kind=self.store.summary().feedback_by_kind,
            origin=_origin(opinions, chats),
            delay=self._delay(opinions),
            evaluations=tuple(row for name in names[1:] for row in recorded_evaluations(evaluations[name])[-1:]),
            latest_seq=upto,
        )

    def samples(self, before: str, after: str, *, count: int = 2) -> tuple[Sample, ...]:
        """
        Returns prompts that two versions both answered, with what users had said of each answer when
        [`Gatherer.report`] was last called.

        Args:
            before (`str`), after (`str`):
                The versions.
            count (`int`, *optional*, defaults to `2`):
                At most so many, spread over all there are.
        """
        for purpose in (Purpose.EVALUATION, Purpose.CHAT):
            first, second = (self._answers(name, purpose, _SAMPLED_ANSWERS) for name in (before, after))
            shared = sorted(first.keys() & second.keys()) if before != after else []
            chosen = [(first[key], second[key]) for key in shared[:: max(1, len(shared) // count)][:count]]
            if chosen:
                scores = self._scores([answer.interaction_id for pair in chosen for answer in pair])
                return tuple(
                    Sample(
                        prompt=one.prompt,
                        before=one.completion,
                        after=other.completion,
                        before_version=before,
                        after_version=after,
                        before_score=scores.get(one.interaction_id),
                        after_score=scores.get(other.interaction_id),
                    )
                    for one, other in chosen
                )
        return ()

    def lineage(self, name: str) -> tuple[Ancestor, ...]:
        """
        Returns a version and those that made it, itself first; nothing of one that is not in the registry.

        Args:
            name (`str`):
                A policy or a reward model.
        """
        known = (
            [] if self.registry is None else [row.name for role in ModelRole for row in self.registry.versions(role)]
        )
        if self.registry is None or name not in known:
            return ()
        return tuple(
            Ancestor(
                version=row.version.name,
                status=row.version.status.value,
                made_of=(
                    *(f"started from {parent}" for parent in filter(None, [row.version.parent])),
                    *(f"paid by {reward}" for reward in row.version.reward_versions),
                ),
                trained_on=len(row.consumed.trained_on.feedback_ids),
                judged_on=len(row.consumed.judged_on.feedback_ids),
            )
            for row in ingredients(self.registry, name)
        )

    def _version(
        self,
        name: str,
        base: str,
        asked: Opinions,
        chats: SatisfactionReport | None,
        standings: Standings,
        records: Sequence[EvaluationRecord],
    ) -> VersionEvaluation:
        version = standings.policies.get(name)
        parent = version.parent if version is not None else None
        rewards = version.reward_versions if version is not None else ()
        return VersionEvaluation(
            policy_version=name,
            satisfaction=evaluation.satisfaction_of(asked, name),
            win_rate_vs_base=None if name == base else evaluation.win_rate_of(asked, name, base),
            win_rate_vs_live=evaluation.win_rate_of(asked, name, parent) if parent is not None else None,
            kl=0.0 if name == base else _kl(records),
            length=self._length(name, recorded_evaluations(records)),
            reward_accuracy=reward_accuracy(standings.rewards.get(rewards[-1])) if rewards else None,
            reward_versions=rewards,
            chats=chats,
        )

    def _length(self, name: str, evaluations: Sequence[PolicyEvaluation]) -> float:
        if evaluations and "length" in evaluations[-1].figures:
            return evaluations[-1].figures["length"].mean
        for purpose in (Purpose.EVALUATION, Purpose.CHAT):
            if answers := self._answers(name, purpose, _MEASURED_ANSWERS):
                return evaluation.answer_length(answers.values())
        return math.nan

    def _answers(self, name: str, purpose: Purpose, limit: int) -> dict[str, Interaction]:
        """The newest answers of a version, by prompt."""
        rows = self.store.interactions(
            policy_version=name, purpose=purpose, limit=limit, newest_first=True, tokens=False
        )
        return {json.dumps(row.prompt, sort_keys=True): row for row in reversed(rows)}

    def _scores(self, interaction_ids: Sequence[str]) -> dict[str, float]:
        said = self._said or self._reader.read().said
        rated = (row for row in said.standing if row.kind in (FeedbackKind.BINARY, FeedbackKind.RATING))
        return {row.interaction_ids[0]: row.score for row in rated if row.interaction_ids[0] in interaction_ids}

    def _delay(self, opinions: Opinions) -> Delay | None:
        seconds = [] if self.registry is None else learning_delays(self.registry, opinions.said.rows)
        if not seconds:
            return None
        median, most = np.quantile(seconds, [0.5, 0.9])
        unlearned = 1.0 - len(seconds) / len(opinions.said.rows)
        return Delay(median=float(median), most=float(most), rows=len(seconds), unlearned=unlearned)


def loop_status(folder: str | Path) -> LoopStatus | None:
    """
    Returns how the loop of `online-trl run` or of the demo is; `None` if none has begun there.

    Args:
        folder (`str` or `Path`):
            Its `output_dir`.
    """
    folder = Path(folder)
    if not (folder / STATE_FILE).is_file():
        return None
    is_running = _is_held(folder / LOCK_FILE)
    try:
        state = LoopState(folder / STATE_FILE)
    except ConfigError as error:
        return LoopStatus(round=0, step="unknown", since="", trouble=str(error), is_running=is_running)
    at, processes = state.content["at"], folder / PROCESSES_FILE
    # Whoever was killed could not write that what it kept up has ended.
    is_kept = is_running is not False and processes.is_file()
    trouble = ""
    if "paused" in at:
        trouble = f"paused: {at['paused']}"
    elif "failed" in at:
        trouble = f"failed {at['failed']} times, the last time with {at['reason']}"
    return LoopStatus(
        round=state.round,
        step=at.get("step", "not begun"),
        since=at.get("since", ""),
        trouble=trouble,
        processes=json.loads(processes.read_text(encoding="utf-8")) if is_kept else {},
        is_running=is_running,
    )


def _is_held(lock: Path) -> bool | None:
    """Whether somebody holds the lock that an `online-trl run` holds on its folder; the demo has none."""
    if not lock.is_file():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _kl(records: Sequence[EvaluationRecord]) -> float:
    measured = [each.figures["kl"].mean for each in recorded_evaluations(records) if "kl" in each.figures]
    return measured[-1] if measured else math.nan


def _win_rates(opinions: Opinions, names: Sequence[str], live: str | None) -> Mapping[tuple[str, str], Estimate]:
    """Of the base, the version in service and the newest ones, each against each."""
    games, judges = opinions.comparisons()
    met = Counter(frozenset(game[:2]) for game in games)
    compared = {name for game in games for name in game[:2]}
    first = [name for name in (*names[:1], live) if name in compared]
    newest = [name for name in reversed(names) if name in compared and name not in first]
    shown = {*first, *newest[: _COMPARED - len(set(first))]}
    references = [name for name in names if name in shown]
    rates = win_rate_matrix(games, judges, references=references)
    return {
        (name, other): Estimate(rate.mean, rate.low, rate.high, met[frozenset((name, other))])
        for (name, other), rate in rates.items()
        if name in shown
    }


def _origin(opinions: Opinions, chats: Opinions) -> FeedbackOrigin:
    speakers = Counter(row.user_id for row in opinions.rows)
    sources = Counter(row.source.value for row in opinions.rows)
    responses = chats.all_responses()
    return FeedbackOrigin(
        rows=len(opinions.rows),
        users=len(speakers),
        busiest=max(speakers.values()) / len(opinions.rows) if speakers else math.nan,
        by_source={source.value: sources[source.value] for source in FeedbackSource if sources[source.value]},
        answers=len(responses.values),
        answered_users=len(set(responses.users)),
        response_rate=confidence_sequence(responses.values, responses.users),
    )


def _rows_by_time(opinions: Opinions) -> list[tuple[float, int]]:
    return [(answer.created_at.timestamp(), answer.seq) for answer in opinions.answers.values()]
