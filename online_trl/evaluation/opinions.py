"""What users said of the answers of a log: asked about any version, at any position, and read on as the log grows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from ..dataset_import import IMPORT_VERSION
from ..preferences import standing_feedback
from ..store import LogReader
from ..types import ANONYMOUS, Feedback, FeedbackKind, Interaction, Judgements, Purpose

_POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
_VERDICTS = (FeedbackKind.BINARY, FeedbackKind.RATING)
_PAGE_ROWS = 10_000


class Answer(NamedTuple):
    """What has to be known of an answer, without text and tokens: there may be millions."""

    seq: int
    created_at: datetime
    purpose: Purpose
    policy_version: str
    user_id: str
    session_id: str

    def voice(self, speaker: str) -> str:
        """Whose word it is that somebody said about it. Who gives no name is told apart by the session."""
        return self.session_id if speaker == ANONYMOUS else speaker


@dataclass(frozen=True)
class Said:
    """
    Feedback that counts.

    Args:
        rows (`Sequence[Feedback]`):
            All of it, in the order of the log.
    """

    rows: Sequence[Feedback]

    @cached_property
    def standing(self) -> Sequence[Feedback]:
        """What nobody took back or replaced."""
        return standing_feedback(self.rows)


@dataclass(frozen=True)
class Opinions:
    """
    Answers, and what was said of them. What users took back or replaced does not count.

    Args:
        answers (`Mapping[str, Answer]`):
            The answers by their ids, those of each version in the order of the log.
        said ([`Said`]):
            The feedback from the first of them on.
    """

    answers: Mapping[str, Answer]
    said: Said

    @classmethod
    def read(
        cls, store: LogReader, purpose: Purpose | None, *versions: str, after: int = 0, upto: int | None = None
    ) -> Opinions:
        """Reads the answers of some versions, or of all, in an interval of the log, and the feedback on them."""
        return OpinionReader(store, purpose, *versions, after=after).read(upto)

    def of(self, purpose: Purpose) -> Opinions:
        """Returns the answers of one purpose, and what was said of them."""
        return self.among(lambda answer: answer.purpose is purpose)

    def among(self, counts: Callable[[Answer], bool]) -> Opinions:
        """Returns the answers that count, and what was said of them."""
        return Opinions({name: row for name, row in self.answers.items() if counts(row)}, self.said)

    def at(self, position: int) -> Opinions:
        """Returns what was known at an earlier position of the log."""
        answers = {name: answer for name, answer in self.answers.items() if answer.seq <= position}
        return Opinions(answers, Said([row for row in self.said.rows if (row.seq or 0) <= position]))

    @property
    def versions(self) -> list[str]:
        """The versions that answered; where all were read, in the order of their first answers."""
        return list(self._answers_of)

    @property
    def rows(self) -> Sequence[Feedback]:
        """The feedback that stands, in the order of the log."""
        return self.said.standing

    def scores(self, policy_version: str, *kinds: FeedbackKind) -> Judgements:
        """Thumbs and ratings of a version, or one of the two."""
        said = [
            (row.score, answer.voice(row.user_id))
            for row, answer in self._about.get(policy_version, ())
            if row.kind in (kinds or _VERDICTS)
        ]
        return _judgements(said)

    def responses(self, policy_version: str) -> Judgements:
        """For each answer of a version, whether somebody said something about it."""
        return _judgements(
            (float(name in self._answered), self.answers[name].voice(self.answers[name].user_id))
            for name in self._answers_of.get(policy_version, ())
        )

    def implicit(self, policy_version: str) -> dict[str, int]:
        """How often each implicit signal came about a version."""
        about = self._about.get(policy_version, ())
        return dict(Counter(row.value for row, _ in about if row.kind is FeedbackKind.IMPLICIT))

    def all_responses(self) -> Judgements:
        """For each answer of any version, whether somebody said something about it."""
        return _judgements(
            (float(name in self._answered), answer.voice(answer.user_id)) for name, answer in self.answers.items()
        )

    def comparisons(self) -> tuple[list[tuple[str, str, float]], list[str]]:
        """Comparisons of two versions with the points of the first, and who made each."""
        return self._comparisons

    @cached_property
    def _comparisons(self) -> tuple[list[tuple[str, str, float]], list[str]]:
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

    @cached_property
    def _answers_of(self) -> Mapping[str, list[str]]:
        """The ids of the answers of each version."""
        answers: dict[str, list[str]] = defaultdict(list)
        for name, answer in self.answers.items():
            answers[answer.policy_version].append(name)
        return dict(answers)

    @cached_property
    def _answered(self) -> frozenset[str]:
        """The ids of the answers that somebody said something about."""
        spoken = (row for row in self.rows if row.kind is not FeedbackKind.IMPLICIT)
        return frozenset(name for row in spoken for name in row.interaction_ids)

    @cached_property
    def _about(self) -> Mapping[str, list[tuple[Feedback, Answer]]]:
        """For each version, the feedback on one answer of it."""
        about: dict[str, list[tuple[Feedback, Answer]]] = defaultdict(list)
        for row in self.rows:
            answer = self.answers.get(row.interaction_ids[0])
            if len(row.interaction_ids) == 1 and answer is not None:
                about[answer.policy_version].append((row, answer))
        return dict(about)


class OpinionReader:
    """
    Reads the opinions of a log that grows, each time only the rows that are new.

    What was read before stays true but for two things: an erasure removes rows, and feedback that comes out of
    quarantine may change what others replaced. After either, everything is read again.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        purpose ([`~online_trl.types.Purpose`], *optional*):
            Which answers count. Defaults to all.
        *versions (`str`):
            Whose answers count. Defaults to all.
        after (`int`, *optional*, defaults to `0`):
            Row of the log after which to begin.
    """

    def __init__(self, store: LogReader, purpose: Purpose | None = None, *versions: str, after: int = 0) -> None:
        self.store = store
        self.purpose = purpose
        self.versions = versions
        self.after = after
        self.times_begun = 1
        """How often everything was read: what was made of opinions that were read before the last time is outdated."""
        self._answers: dict[str, Answer] = {}
        self._said: list[Feedback] = []
        self._position = after

    def read(self, upto: int | None = None) -> Opinions:
        """
        Returns the opinions of the log up to a row.

        Args:
            upto (`int`, *optional*):
                The row, not before that of an earlier call. Defaults to the end of the log.
        """
        upto = self.store.latest_seq() if upto is None else upto
        said = self.store.admitted_feedback(after=self._position, upto=upto) if self._answers else []
        if self._answers and self._reach_back(said, upto):
            self._begin_anew()
            said = []
        is_first = not self._answers
        for version in self.versions or (None,):
            for answer in _pages(self.store, self.purpose, version, self._position, upto):
                self._answers[answer.interaction_id] = _answer(answer)
        if is_first and self._answers:
            # What was said before the first answer is about none of them.
            first = min(answer.seq for answer in self._answers.values())
            said = self.store.admitted_feedback(after=first, upto=upto)
        self._said += [_without_words(row) for row in said]
        self._position = upto
        return Opinions(dict(self._answers), Said(list(self._said)))

    def _begin_anew(self) -> None:
        self.times_begun += 1
        self._answers, self._said = {}, []
        self._position = self.after

    def _reach_back(self, said: Sequence[Feedback], upto: int) -> bool:
        """Whether an erasure since the last call, or what was said, reaches back to what was read before it."""
        if self.store.tombstones(after=self._position, upto=upto):
            return True
        written = {row.feedback_id for row in self.store.feedback(after=self._position, upto=upto)}
        return any(row.feedback_id not in written for row in said)


def _answer(row: Interaction) -> Answer:
    return Answer(row.seq or 0, row.created_at, row.purpose, row.policy_version, row.user_id, row.session_id)


def _without_words(row: Feedback) -> Feedback:
    """Nothing here depends on them, and what is erased from the log must not live on in a process that read it."""
    if row.kind is FeedbackKind.CORRECTION and row.value is not None:
        return replace(row, value="…", comment=None, tags={})
    return row if row.comment is None and not row.tags else replace(row, comment=None, tags={})


def _pages(
    store: LogReader, purpose: Purpose | None, policy_version: str | None, after: int, upto: int | None
) -> Iterator[Interaction]:
    """Reads answers a page at a time; imported ones are of no policy."""
    while True:
        page = store.interactions(
            after=after, upto=upto, purpose=purpose, policy_version=policy_version, limit=_PAGE_ROWS, tokens=False
        )
        yield from (answer for answer in page if answer.policy_version != IMPORT_VERSION)
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1].seq or 0


def _judgements(said: Iterable[tuple[float, str]]) -> Judgements:
    pairs = list(said)
    return Judgements(tuple(value for value, _ in pairs), tuple(user for _, user in pairs))
