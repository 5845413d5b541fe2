"""People in front of a server that may be gone at any moment, who say a thing again until it is acknowledged."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from typing import Any

import httpx

from online_trl.simulation import helpdesk
from online_trl.simulation.reactions import Answer, Mixture, Session, answers_wanted, open_session, react
from online_trl.simulation.taste import Taste

PEOPLE = 48
"""How many people talk to the server; a canary draws among them."""
# Half an hour is short: everybody has something to say, at once.
MIXTURE = Mixture(comparison=0.4, ranking=0.0, binary=0.2, rating=0.4, correction=0.0, implicit=0.0, late=0.0)
_SECOND_TURNS = 0.3


class Users(threading.Thread):
    """
    Some of the people, one conversation after the other.

    Attributes:
        acknowledged (`list[str]`):
            Id of each statement that the server has acknowledged.
        refused (`Counter[int]`):
            How often each status came in place of what was asked for.
        unreachable (`int`):
            How often nobody answered.
    """

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name=name, daemon=True)
        self.url = url
        self.acknowledged: list[str] = []
        self.refused: Counter[int] = Counter()
        self.unreachable = 0
        self.ended = threading.Event()
        self._taste = Taste(0)

    def run(self) -> None:
        rng = random.Random(self.name)
        with httpx.Client(base_url=self.url, timeout=30.0) as client:
            for number in itertools.count():
                if self.ended.wait(rng.uniform(0.5, 1.5)):
                    return
                name = f"{self.name}/{number}"
                self._converse(client, open_session(name, helpdesk.train_questions(), seed=0, num_users=PEOPLE))

    def _converse(self, client: httpx.Client, session: Session) -> None:
        kind = MIXTURE.draw(session.rng)
        asked = [{"role": "user", "content": session.question.text}]
        answers = self._ask(client, session, asked, n=answers_wanted(kind))
        statement = react(kind, session, answers) if kind is not None and answers else None
        if statement is not None:
            self._say(client, {**statement, "user_id": session.user, "idempotency_key": session.name})
        if answers and session.rng.random() < _SECOND_TURNS:
            self._ask(client, session, [*asked, {"role": "assistant", "content": answers[0].text}, *asked], n=1)

    def _ask(self, client: httpx.Client, session: Session, messages: list[dict[str, str]], *, n: int) -> list[Answer]:
        reply = self._post(
            client,
            "/v1/chat/completions",
            {"messages": messages, "n": n, "max_tokens": 48, "user": session.user},
            headers={"X-Session-Id": session.name},
        )
        choices = [] if reply is None else reply.json()["choices"]
        texts = [(choice["interaction_id"], choice["message"]["content"]) for choice in choices]
        return [Answer(name, text, self._taste.satisfaction(session.question.text, text)) for name, text in texts]

    def _say(self, client: httpx.Client, statement: dict[str, Any]) -> None:
        while not self.ended.is_set():
            if (receipt := self._post(client, "/v1/feedback", statement)) is not None:
                self.acknowledged.append(receipt.json()["feedback_id"])
                return

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any], **request: Any) -> httpx.Response | None:
        """What came back, or nothing if there was nobody to answer."""
        try:
            reply = client.post(path, json=body, **request)
        except httpx.TransportError:
            self.unreachable += 1
            self.ended.wait(0.2)
            return None
        if reply.is_success:
            return reply
        self.refused[reply.status_code] += 1
        self.ended.wait(0.2)
        return None
