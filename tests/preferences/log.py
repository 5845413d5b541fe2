"""A log, and short words for what happens in it."""

from __future__ import annotations

from typing import Any

from online_trl.preferences import PreferenceBatch, read_preferences
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction, PreferencePair


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


class Log:
    """A store, and short words for what happens in it."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store

    def answer(self, text: str, prompt: str = "Where is my parcel?", **fields: Any) -> Interaction:
        defaults = {"policy_version": "policy-0001", "session_id": "session", "user_id": "ada"}
        return self.store.add_interaction(
            Interaction(prompt=user(prompt), completion=assistant(text), **(defaults | fields))
        )

    def say(self, kind: str, answers: list[Interaction], value: Any, **fields: Any) -> Feedback:
        ids = [answer.interaction_id for answer in answers]
        defaults = {"user_id": "ada"}
        return self.store.add_feedback(
            Feedback(kind=FeedbackKind(kind), interaction_ids=ids, value=value, **(defaults | fields))
        )

    def rate(self, answer: Interaction, score: float, **fields: Any) -> Feedback:
        return self.say("rating", [answer], {"score": score, "low": 0, "high": 10}, **fields)

    def read(self, after: int = 0, upto: int | None = None) -> PreferenceBatch:
        return read_preferences(self.store, after=after, upto=self.store.latest_seq() if upto is None else upto)


def texts(pairs: tuple[PreferencePair, ...]) -> list[tuple[str, str]]:
    return [(pair.chosen[-1]["content"], pair.rejected[-1]["content"]) for pair in pairs]
