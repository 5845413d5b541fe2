"""Simulated users who chat with a deployed policy and react, over HTTP, as people would.

Most conversations end without a word, some in a thumb, a comparison, a ranking, a rating, a correction, a signal;
noisy, and some of it late. What they like is hidden in a [`Taste`] that nothing on the training side reads. Everything
that is drawn depends on the seed and the number of the session alone, and feedback carries keys made of them: a round
that was interrupted can be held again, and nothing is stored twice.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from . import helpdesk
from .reactions import Answer, Mixture, Session, answers_wanted, compare, open_session, react, round_to_scale
from .taste import Taste

_SESSIONS_PER_ROUND = 1_000_000
_ALREADY_SAID = 409


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
        answers = self._ask(session, n=answers_wanted(kind))
        statement = react(kind, session, answers) if kind is not None else None
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
                    **compare(session, [answers[first], answers[second]], noise=0.02, bias=0.0),
                    "user_id": session.user,
                    "source": "synthetic",
                    "idempotency_key": f"{name}-{first}-{second}",
                }
            )

    def _session(self, name: str, questions: Sequence[helpdesk.Question]) -> Session:
        return open_session(name, questions, seed=self.seed, num_users=self.num_users)

    def _ask(self, session: Session, *, n: int = 1, model: str = "default", purpose: str = "chat") -> list[Answer]:
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
        return [Answer(name, text, self.taste.satisfaction(question, text)) for name, text in texts]

    def _post(self, feedback: dict[str, Any]) -> None:
        reply = self._client.post("/v1/feedback", json=feedback)
        # A round that is held again asks anew, and what was said about the earlier answers stays.
        if reply.status_code != _ALREADY_SAID:
            reply.raise_for_status()

    def _hold_back(self, feedback: dict[str, Any], *, due: int) -> None:
        with self._lock, self._pending.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"due": due, "feedback": feedback}) + "\n")


def _spread(questions: Sequence[helpdesk.Question], count: int, rng: random.Random) -> list[helpdesk.Question]:
    """Draws questions without repeating one before all have had their turn."""
    drawn: list[helpdesk.Question] = []
    while len(drawn) < count:
        drawn += rng.sample(questions, min(len(questions), count - len(drawn)))
    return drawn
