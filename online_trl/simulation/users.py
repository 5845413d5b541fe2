"""Simulated users who chat with a deployed policy and react, over HTTP, as people would.

Most conversations end without a word, some in a thumb, a comparison, a ranking, a rating, a correction, a signal;
noisy, and some of it late. What they like is hidden in a [`Taste`] that nothing on the training side reads. Everything
that is drawn depends on the seed and the number of the session alone, and feedback carries keys made of them: a round
that was interrupted can be held again, and nothing is stored twice.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from . import helpdesk
from .taste import Taste

# Spread of the noise in a choice between two answers, in satisfaction: two users then agree on about 72 % of pairs.
CHOICE_NOISE = 0.12
_RATING_NOISE = 0.08
_POSITION_BIAS = 0.05
_TIE = 0.02
_SESSIONS_PER_ROUND = 1_000_000
_ALREADY_SAID = 409


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """
    How often a session ends in which reaction; the rest of the sessions gets none.

    Args:
        comparison, ranking, binary, rating, correction, implicit (`float`):
            Shares of the sessions, which add up to at most 1.
        late (`float`, *optional*, defaults to `0.15`):
            Share of the reactions that arrive a round later.
    """

    comparison: float = 0.17
    ranking: float = 0.06
    binary: float = 0.08
    rating: float = 0.04
    correction: float = 0.03
    implicit: float = 0.02
    late: float = 0.15

    def draw(self, rng: random.Random) -> str | None:
        """Returns the kind of a session's reaction, or `None`."""
        kinds = ("comparison", "ranking", "binary", "rating", "correction", "implicit")
        shares = [getattr(self, kind) for kind in kinds]
        return rng.choices((*kinds, None), (*shares, max(0.0, 1 - sum(shares))))[0]


@dataclass(frozen=True, slots=True)
class _Answer:
    interaction_id: str
    text: str
    satisfaction: float


@dataclass(frozen=True, slots=True)
class _Session:
    """One conversation: who asks what, and the stream of random numbers that decides the rest."""

    name: str
    user: str
    leniency: float
    question: helpdesk.Question
    rng: random.Random = field(repr=False)


class SimulatedUsers:
    """
    Users of a server; a context manager that closes their connections in the end.

    Args:
        base_url (`str`):
            Address of the server, without `/v1`.
        taste ([`Taste`]):
            What they secretly like.
        seed (`int`):
            Seed of everything that is drawn.
        state_dir (`Path`):
            Where feedback that is still on its way is kept.
        mixture ([`Mixture`], *optional*):
            How often they react, and how.
        num_users (`int`, *optional*, defaults to `40`):
            How many of them there are.
        concurrency (`int`, *optional*, defaults to `8`):
            Conversations held at once.
    """

    def __init__(
        self,
        base_url: str,
        taste: Taste,
        *,
        seed: int,
        state_dir: Path,
        mixture: Mixture | None = None,
        num_users: int = 40,
        concurrency: int = 8,
    ) -> None:
        self.taste = taste
        self.seed = seed
        self.mixture = mixture or Mixture()
        self.num_users = num_users
        self.concurrency = concurrency
        self._pending = state_dir / "pending.jsonl"
        self._lock = threading.Lock()
        state_dir.mkdir(parents=True, exist_ok=True)
        self._client = httpx.Client(base_url=base_url, timeout=120.0, transport=httpx.HTTPTransport(retries=3))

    def __enter__(self) -> SimulatedUsers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the server."""
        self._client.close()

    def chat(self, n_sessions: int, round: int, *, progress: Callable[[int, int], None] | None = None) -> None:
        """
        Holds conversations and reacts to them.

        Args:
            n_sessions (`int`):
                How many.
            round (`int`):
                Number of the round, part of what they are drawn from.
            progress (`Callable[[int, int], None]`, *optional*):
                Called with the number of sessions held and of all sessions.
        """
        self._each(lambda number: self._hold(round, number), range(n_sessions), n_sessions, progress)

    def chat_forever(self, stop: threading.Event, round: int, *, pause: float = 0.05) -> None:
        """
        Holds one conversation after the other until told to stop.

        Args:
            stop (`threading.Event`):
                Ends it.
            round (`int`):
                Number of the round.
            pause (`float`, *optional*, defaults to `0.05`):
                Seconds between two of them.
        """
        for number in itertools.count(_SESSIONS_PER_ROUND // 2):
            if stop.wait(pause):
                return
            self._hold(round, number)

    def deliver_late(self, round: int) -> None:
        """
        Sends the feedback of earlier rounds that was held back until now.

        Args:
            round (`int`):
                Number of the round that begins.
        """
        if not self._pending.is_file():
            return
        waiting = [json.loads(line) for line in self._pending.read_text(encoding="utf-8").splitlines()]
        for entry in waiting:
            if entry["due"] <= round:
                self._post(entry["feedback"])
        staged = self._pending.with_suffix(".tmp")
        staged.write_text("".join(json.dumps(entry) + "\n" for entry in waiting if entry["due"] > round))
        os.replace(staged, self._pending)

    def evaluate(
        self,
        versions: Sequence[str],
        n_prompts: int,
        round: int,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Judges the answers of several versions to the same held-out prompts: each answer is rated, each pair compared.
        What comes of it is in the log, as answers of the purpose `evaluation` and feedback about them.

        Args:
            versions (`Sequence[str]`):
                Policy versions.
            n_prompts (`int`):
                How many prompts.
            round (`int`):
                Number of the round.
            progress (`Callable[[int, int], None]`, *optional*):
                Called with the number of prompts judged and of all prompts.
        """
        questions = _spread(helpdesk.held_out_questions(), n_prompts, random.Random(f"judge/{self.seed}/{round}"))
        numbered = list(enumerate(questions))
        self._each(lambda row: self._judge(versions, round, *row), numbered, n_prompts, progress)

    def _each(
        self,
        run: Callable[[Any], None],
        items: Iterable[Any],
        total: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        with ThreadPoolExecutor(self.concurrency) as pool:
            for done, _ in enumerate(pool.map(run, items), start=1):
                if progress is not None:
                    progress(done, total)

    def _hold(self, round: int, number: int) -> None:
        session = self._session(f"{self.seed}-{round}-{number}", helpdesk.train_questions())
        kind = self.mixture.draw(session.rng)
        answers = self._ask(session, n={"comparison": 2, "ranking": 4}.get(kind or "", 1))
        statement = _REACTIONS[kind](session, answers) if kind is not None else None
        if statement is None:
            return
        feedback = {**statement, "user_id": session.user, "source": "synthetic", "idempotency_key": session.name}
        if session.rng.random() < self.mixture.late:
            self._hold_back(feedback, due=round + 1)
        else:
            self._post(feedback)

    def _judge(self, versions: Sequence[str], round: int, number: int, question: helpdesk.Question) -> None:
        name = f"judge-{self.seed}-{round}-{number}"
        session = self._session(name, (question,))
        answers = {version: self._ask(session, model=version, purpose="evaluation")[0] for version in versions}
        for version, answer in answers.items():
            score = round_to_scale(answer.satisfaction + session.rng.gauss(0.0, 0.02), 0, 100)
            self._post(
                {
                    "kind": "rating",
                    "interaction_id": answer.interaction_id,
                    "value": {"score": score, "low": 0, "high": 100},
                    "user_id": session.user,
                    "source": "synthetic",
                    "idempotency_key": f"{name}-{version}",
                }
            )
        for first, second in itertools.combinations(versions, 2):
            self._post(
                {
                    **_compare(session, [answers[first], answers[second]], noise=0.02, bias=0.0),
                    "user_id": session.user,
                    "source": "synthetic",
                    "idempotency_key": f"{name}-{first}-{second}",
                }
            )

    def _session(self, name: str, questions: Sequence[helpdesk.Question]) -> _Session:
        rng = random.Random(f"session/{name}")
        user = f"user-{rng.randrange(self.num_users):03d}"
        leniency = random.Random(f"{self.seed}/{user}").gauss(0.0, 0.1)
        return _Session(name, user, leniency, rng.choice(questions), rng)

    def _ask(self, session: _Session, *, n: int = 1, model: str = "default", purpose: str = "chat") -> list[_Answer]:
        question = session.question.text
        reply = self._client.post(
            "/v1/chat/completions",
            json={
                "model": model,
                "messages": [{"role": "user", "content": question}],
                "n": n,
                "temperature": 1.0,
                "max_tokens": 64,
                "user": session.user,
            },
            headers={"X-Session-Id": session.name, "X-Purpose": purpose},
        )
        reply.raise_for_status()
        texts = [(choice["interaction_id"], choice["message"]["content"]) for choice in reply.json()["choices"]]
        return [_Answer(name, text, self.taste.satisfaction(question, text)) for name, text in texts]

    def _post(self, feedback: dict[str, Any]) -> None:
        reply = self._client.post("/v1/feedback", json=feedback)
        # A round that is held again asks anew, and what was said about the earlier answers stays.
        if reply.status_code != _ALREADY_SAID:
            reply.raise_for_status()

    def _hold_back(self, feedback: dict[str, Any], *, due: int) -> None:
        with self._lock, self._pending.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"due": due, "feedback": feedback}) + "\n")


def round_to_scale(satisfaction: float, low: int, high: int) -> int:
    """Returns a satisfaction as a whole number on a scale, cut off at its ends."""
    return round(low + (high - low) * min(1.0, max(0.0, satisfaction)))


def _compare(
    session: _Session, answers: Sequence[_Answer], *, noise: float = CHOICE_NOISE, bias: float = _POSITION_BIAS
) -> dict[str, Any]:
    first, second = answers
    difference = first.satisfaction - second.satisfaction
    if abs(difference) < _TIE:
        value = "tie"
    else:
        wins = _sigmoid(difference / noise) * (1 - bias) + bias
        value = "first" if session.rng.random() < wins else "second"
    return {
        "kind": "comparison",
        "interaction_ids": [first.interaction_id, second.interaction_id],
        "value": value,
    }


def _rank(session: _Session, answers: Sequence[_Answer]) -> dict[str, Any]:
    """Ranks by satisfaction with Gumbel noise, which is choosing the best, then the best of the rest, and so on."""
    noisy = [answer.satisfaction / CHOICE_NOISE - math.log(-math.log(session.rng.random())) for answer in answers]
    order = sorted(noisy, reverse=True)
    return {
        "kind": "ranking",
        "interaction_ids": [answer.interaction_id for answer in answers],
        "value": [order.index(value) + 1 for value in noisy],
    }


def _thumb(session: _Session, answers: Sequence[_Answer]) -> dict[str, Any] | None:
    """Those who are delighted or annoyed vote more often than those who do not care."""
    (answer,) = answers
    if session.rng.random() > 0.4 + 1.2 * abs(answer.satisfaction - 0.5):
        return None
    up = session.rng.random() < _sigmoid((answer.satisfaction + session.leniency - 0.5) / CHOICE_NOISE)
    return {"kind": "binary", "interaction_id": answer.interaction_id, "value": up}


def _rate(session: _Session, answers: Sequence[_Answer]) -> dict[str, Any]:
    (answer,) = answers
    felt = answer.satisfaction + session.leniency + session.rng.gauss(0.0, _RATING_NOISE)
    value = {"score": round_to_scale(felt, 1, 5), "low": 1, "high": 5}
    return {"kind": "rating", "interaction_id": answer.interaction_id, "value": value}


def _correct(session: _Session, answers: Sequence[_Answer]) -> dict[str, Any] | None:
    (answer,) = answers
    if answer.satisfaction > 0.8:
        return None
    rewrite = helpdesk.write_answer(session.question, helpdesk.Style(), session.rng)
    return {"kind": "correction", "interaction_id": answer.interaction_id, "value": rewrite}


def _signal(session: _Session, answers: Sequence[_Answer]) -> dict[str, Any]:
    (answer,) = answers
    liked = session.rng.random() < answer.satisfaction
    return {"kind": "implicit", "interaction_id": answer.interaction_id, "value": "copy" if liked else "abandon"}


_REACTIONS: dict[str, Callable[[_Session, Sequence[_Answer]], dict[str, Any] | None]] = {
    "comparison": _compare,
    "ranking": _rank,
    "binary": _thumb,
    "rating": _rate,
    "correction": _correct,
    "implicit": _signal,
}


def _spread(questions: Sequence[helpdesk.Question], count: int, rng: random.Random) -> list[helpdesk.Question]:
    """Draws questions without repeating one before all have had their turn."""
    drawn: list[helpdesk.Question] = []
    while len(drawn) < count:
        drawn += rng.sample(questions, min(len(questions), count - len(drawn)))
    return drawn


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
