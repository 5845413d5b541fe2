"""Clients that send feedback and chat without a pause, and remember what the server acknowledged."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from online_trl.serving.client_keys import client_key
from online_trl.store import FeedbackStore

Statement = dict[str, Any]


@dataclass
class Account:
    """
    What the clients know, to be held against the log.

    Args:
        receipts (`dict[str, dict]`):
            Receipt of each acknowledged statement, by its idempotency key.
        said (`list[Statement]`):
            The acknowledged statements; some of them are sent again.
        answers (`list[str]`):
            Interaction ids of the replies that arrived whole.
        in_doubt (`dict[str, Statement]`):
            Statements of which no reply arrived, by key; most of them are sent again.
        replies (`Counter`):
            How often which status came; 0 stands for a request that was sent and got no reply.
        contradictions (`list[str]`):
            Keys whose second receipt was not the first.
    """

    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: list[Statement] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    in_doubt: dict[str, Statement] = field(default_factory=dict)
    replies: Counter[int] = field(default_factory=Counter)
    contradictions: list[str] = field(default_factory=list)


class Crowd:
    """
    Several clients of one server, which may die and come back under another address meanwhile.

    Args:
        address (`Callable[[], str]`):
            Returns the server's address now.
        interaction_ids (`Sequence[str]`):
            What the feedback is about.
        writers (`int`, *optional*, defaults to `8`), chatters (`int`, *optional*, defaults to `0`):
            Clients that send feedback, and clients that chat.
        seed (`int`, *optional*, defaults to `0`):
            Seed of what they do.
    """

    def __init__(
        self,
        address: Callable[[], str],
        interaction_ids: Sequence[str],
        *,
        writers: int = 8,
        chatters: int = 0,
        seed: int = 0,
    ) -> None:
        self.account = Account()
        self._address = address
        self._interaction_ids = interaction_ids
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._live, args=(act, f"{seed}-{act.__name__}-{number}"), daemon=True)
            for act, count in ((self._say, writers), (self._chat, chatters))
            for number in range(count)
        ]

    @contextmanager
    def busy(self) -> Iterator[Account]:
        """Lets the clients work for as long as the block lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield self.account
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _live(self, act: Callable[[httpx.Client, random.Random, str], None], name: str) -> None:
        rng = random.Random(name)
        with httpx.Client(timeout=30) as client:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                try:
                    act(client, rng, f"{name}-{number}")
                except httpx.ConnectError:  # nothing was sent
                    self._stop.wait(0.1)
                except httpx.TransportError:
                    with self._lock:
                        self.account.replies[0] += 1

    def _say(self, client: httpx.Client, rng: random.Random, name: str) -> None:
        statements = self._again(rng) or self._anew(rng, name)
        body: Any = statements if len(statements) > 1 else statements[0]
        try:
            reply = client.post(f"{self._address()}/v1/feedback", json=body)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            with self._lock:
                self.account.in_doubt.update({statement["idempotency_key"]: statement for statement in statements})
            raise
        with self._lock:
            self.account.replies[reply.status_code] += 1
            if reply.status_code == 201:
                receipts = reply.json()
                self._note(receipts if isinstance(receipts, list) else [receipts])
                self.account.said += statements

    def _again(self, rng: random.Random) -> list[Statement]:
        """A statement whose reply never came, or now and then one that was acknowledged."""
        with self._lock:
            if self.account.in_doubt and rng.random() < 0.5:
                return [self.account.in_doubt[rng.choice(list(self.account.in_doubt))]]
            if self.account.said and rng.random() < 0.1:
                return [rng.choice(self.account.said)]
        return []

    def _anew(self, rng: random.Random, name: str) -> list[Statement]:
        return [
            {
                "kind": "binary",
                "interaction_id": rng.choice(self._interaction_ids),
                "value": rng.random() < 0.5,
                "user_id": f"{name}",
                "comment": f"{name}/{number}",
                "idempotency_key": f"{name}/{number}",
            }
            for number in range(rng.choice((1, 1, 1, 5)))
        ]

    def _note(self, receipts: Sequence[dict[str, Any]]) -> None:
        for receipt in receipts:
            key = receipt["idempotency_key"]
            if self.account.receipts.setdefault(key, receipt) != receipt:
                self.account.contradictions.append(key)
            self.account.in_doubt.pop(key, None)

    def _chat(self, client: httpx.Client, rng: random.Random, name: str) -> None:
        question = [{"role": "user", "content": f"How do I return the lamp {name}?"}]
        body = {"messages": question, "max_tokens": 4, "stream": rng.random() < 0.5}
        reply = client.post(f"{self._address()}/v1/chat/completions", json=body)
        # An answer that was streamed is whole only with its end.
        whole = reply.status_code == 200 and (not body["stream"] or reply.text.rstrip().endswith("data: [DONE]"))
        with self._lock:
            self.account.replies[reply.status_code] += 1
            if whole:
                self.account.answers.append(reply.headers["X-Interaction-Id"])


@dataclass(frozen=True, slots=True)
class Balance:
    """What the clients know against what is in the log: the last four count what must not be."""

    acknowledged: int
    stored: int
    in_doubt: int
    lost: int
    twice: int
    contradicted: int
    misplaced: int

    @property
    def is_even(self) -> bool:
        """Whether every acknowledged row is in the log, once, where its receipt says."""
        return not (self.lost or self.twice or self.contradicted or self.misplaced)


def balance(account: Account, store: FeedbackStore) -> Balance:
    """Holds what was acknowledged against the log."""
    rows = {client_key(row): row for row in store.feedback()}
    comments = Counter(row.comment for row in rows.values())
    found = store.get_interactions(account.answers)
    answers = store.interactions()
    seqs = sorted([row.seq or 0 for row in rows.values()] + [answer.seq or 0 for answer in answers])
    lost = [key for key in account.receipts if key not in rows] + [
        name for name in account.answers if name not in found
    ]
    moved = [
        key
        for key, receipt in account.receipts.items()
        if key in rows and (rows[key].seq, rows[key].feedback_id) != (receipt["seq"], receipt["feedback_id"])
    ]
    return Balance(
        acknowledged=len(account.receipts) + len(account.answers),
        stored=len(seqs),
        in_doubt=len(account.in_doubt),
        lost=len(lost),
        twice=sum(count - 1 for count in comments.values()),
        contradicted=len(account.contradictions),
        misplaced=len(moved) + (seqs != list(range(1, store.latest_seq() + 1))),
    )
