"""
How simulated users react to answers: who they are, what they say, how often, and with how much noise.

A statement is drawn from the satisfaction that a hidden taste gives, which nothing on the training side reads, and
from the session's own stream of random numbers, so that a session that is held again says the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import helpdesk

Statement = dict[str, Any]
"""What is said, as the feedback API takes it: `kind`, `value`, and `interaction_id` or `interaction_ids`."""

# Spread of the noise in a choice between two answers, in satisfaction: two users then agree on about 72 % of pairs.
CHOICE_NOISE = 0.12
_RATING_NOISE = 0.08
_POSITION_BIAS = 0.05
_TIE = 0.02


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
class Answer:
    """An answer that was given, and how satisfied the taste is with it."""

    interaction_id: str
    text: str
    satisfaction: float


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation: who asks what, and the stream of random numbers that decides the rest."""

    name: str
    user: str
    leniency: float
    question: helpdesk.Question
    rng: random.Random = field(repr=False)


def open_session(name: str, questions: Sequence[helpdesk.Question], *, seed: int, num_users: int) -> Session:
    """
    Returns a session of a random user about a random question.

    Args:
        name (`str`):
            Name of the session; who asks what depends on it alone.
        questions (`Sequence[helpdesk.Question]`):
            What may be asked.
        seed (`int`):
            Decides how lenient each user is.
        num_users (`int`):
            How many users there are.
    """
    rng = random.Random(f"session/{name}")
    user = f"user-{rng.randrange(num_users):03d}"
    leniency = random.Random(f"{seed}/{user}").gauss(0.0, 0.1)
    return Session(name, user, leniency, rng.choice(questions), rng)


def answers_wanted(kind: str | None) -> int:
    """Returns how many answers to one question a reaction of a kind is about."""
    return {"comparison": 2, "ranking": 4}.get(kind or "", 1)


def react(kind: str, session: Session, answers: Sequence[Answer]) -> Statement | None:
    """Returns what the user says about [`answers_wanted`] answers, or `None`: not everybody has something to say."""
    return _REACTIONS[kind](session, answers)


def round_to_scale(satisfaction: float, low: int, high: int) -> int:
    """Returns a satisfaction as a whole number on a scale, cut off at its ends."""
    return round(low + (high - low) * min(1.0, max(0.0, satisfaction)))


def compare(
    session: Session, answers: Sequence[Answer], *, noise: float = CHOICE_NOISE, bias: float = _POSITION_BIAS
) -> Statement:
    """
    Returns which of two answers the user prefers.

    Args:
        session ([`Session`]), answers (`Sequence[Answer]`):
            Who compares which two.
        noise (`float`, *optional*):
            Spread of the noise in the choice, in satisfaction.
        bias (`float`, *optional*):
            How often the first is taken whatever it says.
    """
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


def _rank(session: Session, answers: Sequence[Answer]) -> Statement:
    """Ranks by satisfaction with Gumbel noise, which is choosing the best, then the best of the rest, and so on."""
    noisy = [answer.satisfaction / CHOICE_NOISE - math.log(-math.log(session.rng.random())) for answer in answers]
    order = sorted(noisy, reverse=True)
    return {
        "kind": "ranking",
        "interaction_ids": [answer.interaction_id for answer in answers],
        "value": [order.index(value) + 1 for value in noisy],
    }


def _thumb(session: Session, answers: Sequence[Answer]) -> Statement | None:
    """Those who are delighted or annoyed vote more often than those who do not care."""
    (answer,) = answers
    if session.rng.random() > 0.4 + 1.2 * abs(answer.satisfaction - 0.5):
        return None
    up = session.rng.random() < _sigmoid((answer.satisfaction + session.leniency - 0.5) / CHOICE_NOISE)
    return {"kind": "binary", "interaction_id": answer.interaction_id, "value": up}


def _rate(session: Session, answers: Sequence[Answer]) -> Statement:
    (answer,) = answers
    felt = answer.satisfaction + session.leniency + session.rng.gauss(0.0, _RATING_NOISE)
    value = {"score": round_to_scale(felt, 1, 5), "low": 1, "high": 5}
    return {"kind": "rating", "interaction_id": answer.interaction_id, "value": value}


def _correct(session: Session, answers: Sequence[Answer]) -> Statement | None:
    (answer,) = answers
    if answer.satisfaction > 0.8:
        return None
    rewrite = helpdesk.write_answer(session.question, helpdesk.Style(), session.rng)
    return {"kind": "correction", "interaction_id": answer.interaction_id, "value": rewrite}


def _signal(session: Session, answers: Sequence[Answer]) -> Statement:
    (answer,) = answers
    liked = session.rng.random() < answer.satisfaction
    return {"kind": "implicit", "interaction_id": answer.interaction_id, "value": "copy" if liked else "abandon"}


_REACTIONS: dict[str, Callable[[Session, Sequence[Answer]], Statement | None]] = {
    "comparison": compare,
    "ranking": _rank,
    "binary": _thumb,
    "rating": _rate,
    "correction": _correct,
    "implicit": _signal,
}


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
