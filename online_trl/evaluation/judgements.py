"""
What users think of a policy version, measured from the log.

Several judgements of one user are not independent, so every interval treats each user as one cluster. Judgements that
were asked for and are measured once ([`satisfaction`], [`win_rate`]; purpose `EVALUATION`, which nothing is trained
on) have an interval for a fixed sample; live feedback, which people watch and act on as it arrives
([`satisfaction_reports`]), has confidence sequences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..dataset_import import IMPORT_VERSION
from ..estimates import bradley_terry, confidence_sequence, mean_estimate
from ..preferences import standing_feedback
from ..store import LogReader
from ..types import (
    ANONYMOUS,
    CanaryFeedback,
    Estimate,
    Feedback,
    FeedbackKind,
    Interaction,
    Judgements,
    Purpose,
    SatisfactionReport,
    VersionFeedback,
)

_UNIT = (0.0, 1.0)
_POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
_VERDICTS = (FeedbackKind.BINARY, FeedbackKind.RATING)
_PAGE_ROWS = 10_000


def satisfaction(store: LogReader, policy_version: str, *, purpose: Purpose = Purpose.EVALUATION) -> Estimate:
    """
    How satisfied users are with the answers of a version: the mean of the thumbs (0 or 1) and ratings (scaled to
    [0, 1]) that they gave them, each user one cluster. What a user took back or replaced does not count. The interval
    holds at one look.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        policy_version (`str`):
            Name of the version.
        purpose ([`~online_trl.types.Purpose`], *optional*, defaults to `Purpose.EVALUATION`):
            Which answers count.
    """
    scores = _Record.read(store, purpose).scores(policy_version)
    return mean_estimate(scores.values, clusters=scores.users, bounds=_UNIT)


def win_rate(
    store: LogReader, policy_version: str, opponent: str, *, purpose: Purpose = Purpose.EVALUATION
) -> Estimate:
    """
    How often users preferred the answer of one version to that of another: 1 for a win, 0.5 for a tie, each user one
    cluster. What a user took back or replaced does not count. The interval holds at one look.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        policy_version (`str`):
            Name of the version.
        opponent (`str`):
            Name of the version it is compared with.
        purpose ([`~online_trl.types.Purpose`], *optional*, defaults to `Purpose.EVALUATION`):
            Which answers count.

    Raises:
        `ValueError`: if both are the same version.
    """
    if policy_version == opponent:
        raise ValueError(f"{policy_version} has no win rate against itself; compare two versions")
    points = _Record.read(store, purpose).points(policy_version, opponent)
    return mean_estimate(points.values, clusters=points.users, bounds=_UNIT)


def satisfaction_reports(
    store: LogReader,
    *,
    purpose: Purpose = Purpose.CHAT,
    reference: str | None = None,
    after: int = 0,
    upto: int | None = None,
) -> tuple[SatisfactionReport, ...]:
    """
    What users think of every version that answered in the interval `(after, upto]` of the log, with intervals that
    hold at all looks together. What they took back or replaced does not count.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        purpose ([`~online_trl.types.Purpose`], *optional*, defaults to `Purpose.CHAT`):
            Which answers count.
        reference (`str`, *optional*):
            The version that win rates are against. Defaults to the one that answered first.
        after (`int`, *optional*, defaults to `0`), upto (`int`, *optional*):
            The interval. It ends with the log by default.

    Returns:
        `tuple[SatisfactionReport, ...]`: One of each version, in the order of their first answers.
    """
    record = _Record.read(store, purpose, after=after, upto=upto)
    versions = list(dict.fromkeys(answer.policy_version for answer in record.answers.values()))
    if not versions:
        return ()
    comparisons, judges = record.comparisons()
    win_rates = bradley_terry(comparisons, judges, reference=reference or versions[0])
    return tuple(_report(record, version, win_rates.get(version)) for version in versions)


def canary_feedback(
    store: LogReader, candidate: str, incumbent: str, *, after: int = 0, upto: int | None = None
) -> CanaryFeedback:
    """
    Gathers what users said of the chats that two versions answered side by side.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        candidate (`str`), incumbent (`str`):
            Names of the versions.
        after (`int`, *optional*, defaults to `0`), upto (`int`, *optional*):
            The interval `(after, upto]` of the log in which both served: what the incumbent heard before the canary
            began came from other users. It ends with the log by default.
    """
    record = _Record.read(store, Purpose.CHAT, candidate, incumbent, after=after, upto=upto)
    return CanaryFeedback(
        candidate=VersionFeedback(record.scores(candidate), record.responses(candidate)),
        incumbent=VersionFeedback(record.scores(incumbent), record.responses(incumbent)),
        comparisons=record.points(candidate, incumbent),
    )


def _report(record: _Record, version: str, win_rate: Estimate | None) -> SatisfactionReport:
    responses = record.responses(version)
    return SatisfactionReport(
        policy_version=version,
        answers=len(responses.values),
        users=len(set(responses.users)),
        satisfaction=_sequence(record.scores(version)),
        thumb_rate=_sequence(record.scores(version, FeedbackKind.BINARY)),
        rating=_sequence(record.scores(version, FeedbackKind.RATING)),
        response_rate=_sequence(responses),
        win_rate=win_rate,
        implicit=record.implicit(version),
    )


def _sequence(judgements: Judgements) -> Estimate:
    return confidence_sequence(judgements.values, judgements.users)


class _Answer(NamedTuple):
    """What has to be known of an answer, without text and tokens: there may be millions."""

    policy_version: str
    user_id: str
    session_id: str

    def voice(self, speaker: str) -> str:
        """Whose word it is that somebody said about it. Who gives no name is told apart by the session."""
        return self.session_id if speaker == ANONYMOUS else speaker


@dataclass(frozen=True)
class _Record:
    """Answers by their ids, and the feedback that stands, in the order of the log."""

    answers: Mapping[str, _Answer]
    rows: Sequence[Feedback]

    @classmethod
    def read(
        cls, store: LogReader, purpose: Purpose, *versions: str, after: int = 0, upto: int | None = None
    ) -> _Record:
        """Reads the answers of some versions, or of all, and the feedback from the first of them on."""
        answers, first = {}, None
        for version in versions or (None,):
            for answer in _pages(store, purpose, version, after, upto):
                answers[answer.interaction_id] = _Answer(answer.policy_version, answer.user_id, answer.session_id)
                first = min(first or answer.seq or 0, answer.seq or 0)
        if first is None:
            return cls({}, ())
        return cls(answers, standing_feedback(store.admitted_feedback(after=first, upto=upto)))

    def scores(self, policy_version: str, *kinds: FeedbackKind) -> Judgements:
        """Thumbs and ratings of a version, or one of the two."""
        said = [
            (row.score, answer.voice(row.user_id))
            for row, answer in self._about(policy_version)
            if row.kind in (kinds or _VERDICTS)
        ]
        return _judgements(said)

    def responses(self, policy_version: str) -> Judgements:
        """For each answer of a version, whether somebody said something about it."""
        answered = {name for row in self.rows if row.kind is not FeedbackKind.IMPLICIT for name in row.interaction_ids}
        return _judgements(
            (float(name in answered), answer.voice(answer.user_id))
            for name, answer in self.answers.items()
            if answer.policy_version == policy_version
        )

    def implicit(self, policy_version: str) -> dict[str, int]:
        """How often each implicit signal came about a version."""
        signals = (row.value for row, _ in self._about(policy_version) if row.kind is FeedbackKind.IMPLICIT)
        return dict(Counter(signals))

    def comparisons(self) -> tuple[list[tuple[str, str, float]], list[str]]:
        """Comparisons of two versions with the points of the first, and who made each."""
        games, judges = [], []
        for row in self.rows:
            if row.kind is not FeedbackKind.COMPARISON or not self.answers.keys() >= set(row.interaction_ids):
                continue
            first, second = (self.answers[name] for name in row.interaction_ids)
            if first.policy_version != second.policy_version:
                games.append((first.policy_version, second.policy_version, _POINTS[row.value]))
                judges.append(first.voice(row.user_id))
        return games, judges

    def points(self, policy_version: str, opponent: str) -> Judgements:
        """Points of a version in comparisons with another."""
        own = {(policy_version, opponent): False, (opponent, policy_version): True}
        return _judgements(
            (1 - points if own[first, second] else points, judge)
            for (first, second, points), judge in zip(*self.comparisons(), strict=True)
            if (first, second) in own
        )

    def _about(self, policy_version: str) -> Iterator[tuple[Feedback, _Answer]]:
        """Feedback whose one answer a version gave."""
        for row in self.rows:
            answer = self.answers.get(row.interaction_ids[0])
            if len(row.interaction_ids) == 1 and answer is not None and answer.policy_version == policy_version:
                yield row, answer


def _pages(
    store: LogReader, purpose: Purpose, policy_version: str | None, after: int, upto: int | None
) -> Iterator[Interaction]:
    """Reads answers a page at a time; imported ones are of no policy."""
    while True:
        page = store.interactions(
            after=after, upto=upto, purpose=purpose, policy_version=policy_version, limit=_PAGE_ROWS
        )
        yield from (answer for answer in page if answer.policy_version != IMPORT_VERSION)
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1].seq or 0


def _judgements(said: Iterable[tuple[float, str]]) -> Judgements:
    pairs = list(said)
    return Judgements(tuple(value for value, _ in pairs), tuple(user for _, user in pairs))
