"""The rows of the log: what a policy answered, what people said of it, and what was erased."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from .base import InvalidRecordError, Message, check_messages, new_id, utcnow

ANONYMOUS = "anonymous"
"""User of whoever gives no name."""


CANCELLED = "cancelled"
"""Stands in the log as the finish reason of an answer that the client did not wait for."""


COMPARISON = "comparison"
"""
Names, among an answer's sampling parameters, how the server chose it to be compared with another: `strategy`,
`propensity` (the probability of the pair, given the candidates), and what it was chosen by.
"""


class Purpose(str, Enum):
    """Why an interaction took place. Only `CHAT` is ever trained on."""

    CHAT = "chat"
    """A user talked to the deployed policy: the source of prompts and of training feedback."""
    EVALUATION = "evaluation"
    """A judge was shown an answer to measure a policy version; kept out of the training data."""
    BACKGROUND = "background"
    """A front end asked for something no user will read (a title, tags); kept out of the training data."""


class FeedbackKind(str, Enum):
    """What a user can say about one or several answers."""

    BINARY = "binary"
    RATING = "rating"
    COMPARISON = "comparison"
    RANKING = "ranking"
    CORRECTION = "correction"
    IMPLICIT = "implicit"


class FeedbackSource(str, Enum):
    """Who said it: a person, a simulation or a model, or a person's behaviour rather than their words."""

    HUMAN = "human"
    SYNTHETIC = "synthetic"
    IMPLICIT = "implicit"


class Scope(str, Enum):
    """What the holder of an API key may do. `ADMIN` includes the others."""

    CHAT = "chat"
    """Ask for answers."""
    FEEDBACK = "feedback"
    """Say something about answers. A key with this scope alone may be published in a web page."""
    TRAIN = "train"
    """Read the log."""
    ADMIN = "admin"
    """Erase, release from quarantine, read the metrics, and everything else."""


class QuarantineReason(str, Enum):
    """Why feedback waits for somebody to look at it before anything is learned from it."""

    BURST = "burst"
    NEAR_DUPLICATE = "near_duplicate"


class ErasedSubject(str, Enum):
    """What was erased from the log."""

    USER = "user"
    INTERACTION = "interaction"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """
    What stays of what was erased from the log.

    Args:
        seq (`int`):
            Position of the erasure in the log.
        subject ([`ErasedSubject`]):
            Whether a user or an interaction was erased.
        subject_hash (`str`):
            SHA-256 by which the name of the subject is recognised.
        created_at (`datetime`):
            When, timezone-aware.
        interaction_ids (`tuple[str, ...]`), feedback_ids (`tuple[str, ...]`):
            The rows that went, in the order of the log.
    """

    seq: int
    subject: ErasedSubject
    subject_hash: str
    created_at: datetime
    interaction_ids: tuple[str, ...] = ()
    feedback_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """
    One answer that a deployed policy gave.

    Args:
        prompt (`list[Message]`):
            Messages up to and including the user turn that was answered.
        completion (`list[Message]`):
            Messages that the policy answered with, normally one of role `assistant`.
        policy_version (`str`):
            Name of the version that answered, such as `policy-0003`.
        session_id (`str`):
            Conversation the answer belongs to.
        user_id (`str`):
            Opaque identifier of the user.
        purpose ([`Purpose`], *optional*, defaults to `Purpose.CHAT`):
            Why the interaction took place.
        sampling (`dict[str, Any]`, *optional*):
            Sampling parameters that were in force: `temperature`, `top_p`, `max_tokens`, `seed` …
        prompt_ids (`list[int]`, *optional*):
            Token ids of the prompt, as the engine saw them.
        completion_ids (`list[int]`, *optional*):
            Token ids of the completion, as the engine sampled them.
        logprobs (`list[float]`, *optional*):
            Log-probability of each token of `completion_ids` under the sampling distribution, in nats.
        template_hash (`str`, *optional*), weights_hash (`str`, *optional*):
            SHA-256 of the chat template and of the weights that answered, where the engine knows them.
        upstream_id (`str`, *optional*):
            Id that an upstream server gave its completion; feedback may name the interaction by it.
        parent_id (`str`, *optional*):
            The interaction whose answer this one's prompt goes on from.
        regenerates (`str`, *optional*):
            The earlier answer to the same turn of the conversation that the user asked to be replaced by this one.
        created_at (`datetime`, *optional*):
            Timezone-aware creation time. Defaults to now.
        interaction_id (`str`, *optional*):
            UUIDv7. Defaults to a new one.
        seq (`int`, *optional*):
            Position in the log, given by the store at commit.

    Raises:
        [`InvalidRecordError`]: if the prompt or the completion is empty or not made of messages.
    """

    prompt: list[Message]
    completion: list[Message]
    policy_version: str
    session_id: str
    user_id: str
    purpose: Purpose = Purpose.CHAT
    sampling: dict[str, Any] = field(default_factory=dict)
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None
    template_hash: str | None = None
    weights_hash: str | None = None
    upstream_id: str | None = None
    parent_id: str | None = None
    regenerates: str | None = None
    created_at: datetime = field(default_factory=utcnow)
    interaction_id: str = field(default_factory=new_id)
    seq: int | None = None

    def __post_init__(self) -> None:
        check_messages("prompt", self.prompt)
        check_messages("completion", self.completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """
    One statement about one or several interactions. It is always late: it names interactions, and they name the policy
    version that produced them.

    | `kind` | `interaction_ids` | `value` |
    |---|---|---|
    | `binary` | one | `True` (thumb up) or `False` |
    | `rating` | one | `{"score": 4, "low": 1, "high": 5}` |
    | `comparison` | two | `"first"`, `"second"` or `"tie"` |
    | `ranking` | two or more | one rank per interaction, 1 is best, equal ranks are ties: `[2, 1, 3, 3]` |
    | `correction` | one | the user's own rewrite of the answer |
    | `implicit` | one | name of the signal: `"regenerate"`, `"copy"`, `"abandon"` … |

    Args:
        kind ([`FeedbackKind`]):
            What kind of statement this is.
        interaction_ids (`list[str]`):
            The interactions it is about.
        value (`bool`, `dict`, `str`, `list[int]` or `None`):
            The statement, see the table. `None` takes back the row named by `supersedes`.
        user_id (`str`):
            Opaque identifier of the user who said it.
        source ([`FeedbackSource`], *optional*, defaults to `FeedbackSource.HUMAN`):
            Who said it.
        comment (`str`, *optional*):
            Free text beside the statement.
        tags (`dict[str, str]`, *optional*):
            Labels of the sender, kept as they are.
        session_id (`str`, *optional*):
            Conversation it was said in, if the sender names one.
        supersedes (`str`, *optional*):
            `feedback_id` of an earlier row that this one replaces (or, with `value=None`, takes back).
        idempotency_key (`str`, *optional*):
            The same key twice is one row. Defaults to `feedback_id`.
        created_at (`datetime`, *optional*):
            Timezone-aware creation time. Defaults to now.
        feedback_id (`str`, *optional*):
            UUIDv7. Defaults to a new one.
        seq (`int`, *optional*):
            Position in the log, given by the store at commit.

    Raises:
        [`InvalidRecordError`]: if `value` or the number of interactions does not fit `kind`.
    """

    kind: FeedbackKind
    interaction_ids: list[str]
    value: Any
    user_id: str
    source: FeedbackSource = FeedbackSource.HUMAN
    comment: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    session_id: str | None = None
    supersedes: str | None = None
    idempotency_key: str = ""
    created_at: datetime = field(default_factory=utcnow)
    feedback_id: str = field(default_factory=new_id)
    seq: int | None = None

    def __post_init__(self) -> None:
        if not self.idempotency_key:
            object.__setattr__(self, "idempotency_key", self.feedback_id)
        if self.value is None:
            if self.supersedes is None:
                raise InvalidRecordError(
                    "feedback without a `value` must name the row that it takes back: `supersedes`"
                )
            return
        _check_interaction_ids(self.kind, self.interaction_ids)
        _VALUE_CHECKS[self.kind](self.value, self.interaction_ids)

    @property
    def score(self) -> float:
        """Statement as a number in [0, 1]: a thumb is 0 or 1, a rating is scaled from its bounds.

        Raises:
            [`InvalidRecordError`]: if the kind has no number (comparison, ranking, correction, implicit).
        """
        if self.kind is FeedbackKind.BINARY:
            return float(self.value)
        if self.kind is FeedbackKind.RATING:
            low, high = self.value["low"], self.value["high"]
            return float((self.value["score"] - low) / (high - low))
        raise InvalidRecordError(
            f"feedback of kind `{self.kind.value}` has no score; only `binary` and `rating` have one"
        )


_INTERACTION_COUNTS: dict[FeedbackKind, tuple[int, int | None]] = {
    FeedbackKind.BINARY: (1, 1),
    FeedbackKind.RATING: (1, 1),
    FeedbackKind.COMPARISON: (2, 2),
    FeedbackKind.RANKING: (2, None),
    FeedbackKind.CORRECTION: (1, 1),
    FeedbackKind.IMPLICIT: (1, 1),
}


def _check_interaction_ids(kind: FeedbackKind, interaction_ids: Sequence[str]) -> None:
    low, high = _INTERACTION_COUNTS[kind]
    count = len(interaction_ids)
    if count < low or (high is not None and count > high):
        wanted = f"{low}" if high == low else f"at least {low}"
        raise InvalidRecordError(f"feedback of kind `{kind.value}` names {count} interactions; it needs {wanted}")
    if len(set(interaction_ids)) != count:
        raise InvalidRecordError("`interaction_ids` names the same interaction twice")


def _check_binary(value: Any, _: Sequence[str]) -> None:
    if not isinstance(value, bool):
        raise InvalidRecordError(f"a `binary` value is true or false, not {value!r}")


def _check_rating(value: Any, _: Sequence[str]) -> None:
    if not isinstance(value, Mapping) or set(value) != {"score", "low", "high"}:
        raise InvalidRecordError(f"a `rating` value is {{'score': 4, 'low': 1, 'high': 5}}, not {value!r}")
    if not all(_is_finite_number(number) for number in value.values()):
        raise InvalidRecordError(f"a `rating` value holds finite numbers, not {value!r}")
    if not value["low"] < value["high"] or not value["low"] <= value["score"] <= value["high"]:
        raise InvalidRecordError(f"a `rating` needs low < high and low <= score <= high, not {value!r}")


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


ComparisonValue = Literal["first", "second", "tie"]


def _check_comparison(value: Any, _: Sequence[str]) -> None:
    if value not in ("first", "second", "tie"):
        raise InvalidRecordError(f"a `comparison` value is 'first', 'second' or 'tie', not {value!r}")


def _check_ranking(value: Any, interaction_ids: Sequence[str]) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(interaction_ids):
        raise InvalidRecordError(f"a `ranking` value holds one rank per interaction, not {value!r}")
    if not all(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1 for rank in value):
        raise InvalidRecordError(f"a rank is a whole number from 1 (best), not {value!r}")


def _check_text(value: Any, _: Sequence[str]) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRecordError(f"a `correction` or `implicit` value is a non-empty text, not {value!r}")


_VALUE_CHECKS = {
    FeedbackKind.BINARY: _check_binary,
    FeedbackKind.RATING: _check_rating,
    FeedbackKind.COMPARISON: _check_comparison,
    FeedbackKind.RANKING: _check_ranking,
    FeedbackKind.CORRECTION: _check_text,
    FeedbackKind.IMPLICIT: _check_text,
}
