"""The users of the adaptation benchmark: they react as those of the demo do, straight into the log."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import NAMESPACE_URL, uuid5

from adaptation_scenarios import Scenario
from online_trl.serving.settings import ServerSettings
from online_trl.simulation import helpdesk
from online_trl.simulation.reactions import Answer, Session, Statement, answers_wanted, open_session, react
from online_trl.simulation.taste import Taste
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, FeedbackSource, Interaction

NUM_USERS = 40
CANDIDATES = 8
# The few seconds between two versions stand for hours: what the server counts in a minute is what arrives at once.
_SCREENING = replace(ServerSettings().screening, burst_seconds=1, near_duplicate_seconds=1)

Sampler = Callable[[Sequence[str]], list[str]]
"""Returns the deployed policy's answer to each question."""
Choice = Callable[[str, Sequence[str]], tuple[int, int]]
"""Returns which two of several answers to a question are put side by side."""


class Audience:
    """
    Users who talk to each version as it is deployed.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log.
        taste ([`~online_trl.simulation.taste.Taste`]):
            What they like at present.
        scenario ([`Scenario`]):
            How they behave.
        seed (`int`):
            Seed of everything that is drawn.
        size (`float`, *optional*, defaults to `1.0`):
            Conversations, as a share of those of the scenario.
    """

    def __init__(
        self,
        store: FeedbackStore,
        taste: Taste,
        scenario: Scenario,
        *,
        seed: int,
        size: float = 1.0,
    ) -> None:
        self.store = store
        self.taste = taste
        self.scenario = scenario
        self.seed = seed
        self.sessions = max(1, round(size * scenario.sessions))
        self.said: Counter[str] = Counter()
        self.answers = 0
        self._on_its_way: dict[int, list[Feedback]] = defaultdict(list)

    def hold(self, round: int, version: str, sampler: Sampler, choose: Choice | None = None) -> None:
        """
        Holds the conversations with a version, and sends what is due by then.

        Args:
            round (`int`):
                Number of the version's interval.
            version (`str`):
                Name of the version.
            sampler (`Callable[[Sequence[str]], list[str]]`):
                Its answers.
            choose (`Callable[[str, Sequence[str]], tuple[int, int]]`, *optional*):
                Chooses the answers to compare, where the scenario asks.
        """
        names = [f"{self.seed}-{round}-{number}" for number in range(self.sessions)]
        sessions = [
            open_session(name, helpdesk.train_questions(), seed=self.seed, num_users=NUM_USERS) for name in names
        ]
        kinds = [self.scenario.mixture.draw(session.rng) for session in sessions]
        wanted = [CANDIDATES if self.scenario.asks else answers_wanted(kind) for kind in kinds]
        asked = [session.question.text for session, n in zip(sessions, wanted, strict=True) for _ in range(n)]
        texts = iter(sampler(asked))
        answers: list[list[Answer]] = []
        for session, n in zip(sessions, wanted, strict=True):
            answers.append(self._record(session, version, [next(texts) for _ in range(n)], choose))
        for session, kind, given in zip(sessions, kinds, answers, strict=True):
            self._say(round, session, self._reaction(session, kind, given))
        self._flood(round, sessions, answers)
        self._deliver(round)

    def _record(self, session: Session, version: str, texts: list[str], choose: Choice | None) -> list[Answer]:
        question = session.question.text
        if choose is not None:
            texts = [texts[index] for index in choose(question, texts)]
        rows = [
            Interaction(
                prompt=[{"role": "user", "content": question}],
                completion=[{"role": "assistant", "content": text or " "}],
                policy_version=version,
                session_id=session.name,
                user_id=session.user,
                sampling={"temperature": 1.0},
                interaction_id=_id(f"{version}/{session.name}/{place}"),
            )
            for place, text in enumerate(texts)
        ]
        self.store.submit_interactions(rows)
        self.answers += len(rows)
        return [
            Answer(row.interaction_id, text, self.taste.satisfaction(question, text))
            for row, text in zip(rows, texts, strict=True)
        ]

    def _reaction(self, session: Session, kind: str | None, answers: list[Answer]) -> Statement | None:
        if kind is None:
            return None
        if self._is_contrary(session.user):
            answers = [_opposite(answer) for answer in answers]
        statement = react(kind, session, answers)
        if statement is None and self.scenario.every_answer:
            statement = react("rating", session, answers)
        return statement

    def _is_contrary(self, user: str) -> bool:
        return int(user.rpartition("-")[2]) < self.scenario.contrary * NUM_USERS

    def _flood(self, round: int, sessions: Sequence[Session], answers: Sequence[list[Answer]]) -> None:
        """One user has something to say about every answer that anybody got, comparisons first."""
        chats = list(zip(sessions, answers, strict=True))
        topics = [(session, "comparison", given[:2]) for session, given in chats if len(given) > 1]
        topics += [(session, "rating", [answer]) for session, given in chats for answer in given]
        for number, (session, kind, about) in enumerate(topics[: self.scenario.flood]):
            flooder = replace(session, name=f"flood-{number}-{session.name}", user="flooder")
            self._say(round, flooder, react(kind, flooder, [_opposite(answer) for answer in about]))

    def _say(self, round: int, session: Session, statement: Statement | None) -> None:
        if statement is None:
            return
        lag = random.Random(f"lag/{session.name}").choice(self.scenario.lags)
        self._on_its_way[round + lag].append(_feedback(session, statement))

    def _deliver(self, round: int) -> None:
        due = self._on_its_way.pop(round, [])
        if due:
            self.store.submit_feedback(due, screening=_SCREENING).result()
        self.said.update(row.kind.value for row in due)


def _opposite(answer: Answer) -> Answer:
    return replace(answer, satisfaction=1.0 - answer.satisfaction)


def _feedback(session: Session, statement: Statement) -> Feedback:
    about = statement.get("interaction_ids") or [statement["interaction_id"]]
    return Feedback(
        kind=FeedbackKind(statement["kind"]),
        interaction_ids=list(about),
        value=statement["value"],
        user_id=session.user,
        source=FeedbackSource.SYNTHETIC,
        idempotency_key=session.name,
        feedback_id=_id(f"feedback/{session.name}"),
    )


def _id(name: str) -> str:
    """Returns the same id for the same name: what is drawn by ids is then the same in each run of a seed."""
    return str(uuid5(NAMESPACE_URL, name))
