"""The records that flow between the stations of the loop.

Every record is frozen: a station that wants to say something new makes a new record. Records know nothing about SQL,
HTTP or torch, so that a feedback service can be started without any of the training stack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal

import uuid_utils

# Pydantic, which describes these records to the API's clients, cannot read the standard one before Python 3.12.
from typing_extensions import TypedDict

ANONYMOUS = "anonymous"
"""User of whoever gives no name."""
CANCELLED = "cancelled"
"""Stands in the log as the finish reason of an answer that the client did not wait for."""
COMPARISON = "comparison"
"""
Names, among an answer's sampling parameters, how the server chose it to be compared with another: `strategy`,
`propensity` (the probability of the pair, given the candidates), and what it was chosen by.
"""


class Message(TypedDict):
    """One chat message, in the conversational format of TRL and of the OpenAI API."""

    role: str
    content: str


def new_id() -> str:
    """Returns a new UUIDv7, whose text order is its time order (RFC 9562)."""
    return str(uuid_utils.uuid7())


def utcnow() -> datetime:
    """Returns the present time, timezone-aware, in UTC."""
    return datetime.now(timezone.utc)


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


class InvalidRecordError(ValueError):
    """A record contradicts itself; the message names the field, the value and what would be accepted."""


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
        _check_messages("prompt", self.prompt)
        _check_messages("completion", self.completion)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """
    Two answers to one prompt, the first preferred, with where that knowledge comes from.

    Args:
        prompt (`list[Message]`), chosen (`list[Message]`), rejected (`list[Message]`):
            The row in TRL's conversational preference format.
        kind ([`FeedbackKind`]):
            Kind of the feedback it was made from.
        feedback_ids (`tuple[str, ...]`):
            Rows of the log it was made from; none where the conversation's own course told.
        seq (`int`):
            Largest `seq` among the rows, feedback or answers, that made it known.
        margin (`float`, *optional*):
            By how much the first was preferred, as in TRL's `margin` column.
        weight (`float`, *optional*, defaults to `1.0`):
            How much the pair counts, in (0, 1].
        interaction_ids (`tuple[str, ...]`):
            The chosen and the rejected answer; one id where the chosen one is a user's rewrite.
        voice (`str`):
            Whose word it is: the user whose statement, or whose going on with the conversation, completed the pair. A
            row of an imported dataset, which does not say who judged, has a voice of its own.
        session_ids, user_ids, policy_versions (`tuple[str, ...]`):
            Whom and what it came from, without repeats, sorted.
        said_at (`datetime`, *optional*), answered_at (`datetime`, *optional*):
            When the newest statement behind it was made, and when the newest of its answers was given; both
            timezone-aware. They default to now.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    kind: FeedbackKind
    feedback_ids: tuple[str, ...]
    seq: int
    margin: float | None = None
    weight: float = 1.0
    interaction_ids: tuple[str, ...] = ()
    voice: str = ""
    session_ids: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()
    policy_versions: tuple[str, ...] = ()
    said_at: datetime = field(default_factory=utcnow)
    answered_at: datetime = field(default_factory=utcnow)

    @property
    def completions(self) -> list[list[Message]]:
        """The chosen and the rejected answer."""
        return [self.chosen, self.rejected]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each answer, as of a [`Ranking`]."""
        return (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """
    Answers to one prompt in the order in which somebody put them. A comparison that ended in a tie is the ranking of
    two answers on one rank.

    Args:
        prompt (`list[Message]`):
            What was asked.
        completions (`list[list[Message]]`):
            The answers, two or more.
        ranks (`tuple[int, ...]`):
            Rank of each answer: 1 is best, equal ranks are ties.
        interaction_ids (`tuple[str, ...]`):
            The answers, in the order of `completions`.
        kind, feedback_ids, seq, weight, voice, session_ids, user_ids, policy_versions, said_at, answered_at:
            As in [`PreferencePair`].
    """

    prompt: list[Message]
    completions: list[list[Message]]
    ranks: tuple[int, ...]
    kind: FeedbackKind
    feedback_ids: tuple[str, ...]
    seq: int
    weight: float = 1.0
    interaction_ids: tuple[str, ...] = ()
    voice: str = ""
    session_ids: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()
    policy_versions: tuple[str, ...] = ()
    said_at: datetime = field(default_factory=utcnow)
    answered_at: datetime = field(default_factory=utcnow)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedLabel:
    """
    One answer with a verdict, in TRL's unpaired preference format, with where the verdict comes from.

    Args:
        prompt (`list[Message]`), completion (`list[Message]`), label (`bool`):
            The row in TRL's conversational unpaired format.
        score (`float`):
            The verdict in [0, 1], of which `label` is `score > 0.5`.
        feedback_ids, seq, weight, interaction_ids, voice, session_ids, user_ids, policy_versions:
            As in [`PreferencePair`].
        said_at, answered_at:
            As in [`PreferencePair`].
    """

    prompt: list[Message]
    completion: list[Message]
    label: bool
    score: float
    feedback_ids: tuple[str, ...]
    seq: int
    weight: float = 1.0
    interaction_ids: tuple[str, ...] = ()
    voice: str = ""
    session_ids: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()
    policy_versions: tuple[str, ...] = ()
    said_at: datetime = field(default_factory=utcnow)
    answered_at: datetime = field(default_factory=utcnow)

    @property
    def completions(self) -> list[list[Message]]:
        """The one answer."""
        return [self.completion]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of the answer, as of a [`Ranking`]."""
        return (1,)


Statement = PreferencePair | Ranking | UnpairedLabel
"""What a reward model learns from: one thing that somebody said of one or several answers to a prompt."""


class ModelRole(str, Enum):
    """What a version in the registry is for."""

    POLICY = "policy"
    REWARD = "reward"


class VersionStatus(str, Enum):
    """
    What became of a version: `CANDIDATE` until a gate decides, then `LIVE` or `REFUSED`; `RETIRED` once replaced;
    `ABANDONED` if a run that was resumed from before it left it behind.
    """

    CANDIDATE = "candidate"
    LIVE = "live"
    RETIRED = "retired"
    ABANDONED = "abandoned"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """
    One published set of weights.

    Args:
        name (`str`):
            Unique name: role and number, such as `policy-0003` or `reward-0012`.
        role ([`ModelRole`]):
            What it is for.
        parent (`str`, *optional*):
            Version it was trained from.
        feedback_interval (`tuple[int, int]`, *optional*):
            Half-open interval `(after, upto]` of `seq` whose feedback it learned from.
        prompt_interval (`tuple[int, int]`, *optional*):
            Half-open interval `(after, upto]` of `seq` whose prompts it was trained on (policies only).
        reward_versions (`tuple[str, ...]`):
            Reward versions that paid it, in order (policies only).
        metrics (`dict[str, float]`):
            What was measured when it was published, such as `reward_accuracy`.
        config (`dict[str, Any]`):
            Settings that made it, as far as they are plain values.
        checksums (`dict[str, str]`):
            SHA-256 of each file, by relative path.
        created_at (`datetime`):
            Timezone-aware publication time.
        status ([`VersionStatus`]):
            What became of it.
        reason (`str`):
            Why it has that status, in words.
        pruned_at (`datetime`, *optional*):
            When its weights were removed; what is known of it stays.
    """

    name: str
    role: ModelRole
    created_at: datetime
    parent: str | None = None
    feedback_interval: tuple[int, int] | None = None
    prompt_interval: tuple[int, int] | None = None
    reward_versions: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    status: VersionStatus = VersionStatus.CANDIDATE
    reason: str = ""
    pruned_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """
    What somebody measured of a version after it was published.

    Args:
        kind (`str`):
            What was measured, such as `win_rate`.
        at (`datetime`):
            When, timezone-aware.
        figures (`Mapping[str, Any]`):
            The results, as plain values that JSON can hold.
    """

    kind: str
    at: datetime
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval and the number of judgements behind it."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Judgements:
    """
    What users said, as numbers in [0, 1], and who said each.

    Args:
        values (`tuple[float, ...]`), users (`tuple[str, ...]`):
            The judgements, and for each the user.
    """

    values: tuple[float, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionFeedback:
    """
    What came of the answers that one version gave.

    Args:
        scores ([`Judgements`]):
            Thumbs and ratings.
        responses ([`Judgements`]):
            For each answer, 1 if somebody said something about it, else 0; the user is the one who had asked.
    """

    scores: Judgements = field(default_factory=Judgements)
    responses: Judgements = field(default_factory=Judgements)


@dataclass(frozen=True, slots=True)
class CanaryFeedback:
    """
    What came of the answers that two versions gave side by side.

    Args:
        candidate ([`VersionFeedback`]), incumbent ([`VersionFeedback`]):
            Of each.
        comparisons ([`Judgements`]):
            Points of the candidate in comparisons of the two: 1 for a win, 0.5 for a tie, 0 for a loss.
    """

    candidate: VersionFeedback
    incumbent: VersionFeedback
    comparisons: Judgements = field(default_factory=Judgements)


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One condition of a gate: what was measured, what was asked, and whether it held."""

    name: str
    value: float
    threshold: float
    passed: bool


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether a candidate may replace the incumbent, and why, in words and in numbers."""

    accepted: bool
    reason: str
    checks: tuple[GateCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Promotion:
    """
    One change of the version in service.

    Args:
        version (`str`):
            The version that went into service.
        replaced (`str`, *optional*):
            The version that it took over from.
        reason (`str`):
            Why, in words.
        at (`datetime`):
            When, timezone-aware.
    """

    version: str
    replaced: str | None
    reason: str
    at: datetime


class CanaryOutcome(str, Enum):
    """
    How a canary ended: `PROMOTED` if its candidate went into service, `ROLLED_BACK` if it was refused, `STOPPED` if
    neither was decided, because another version went into service or the candidate was abandoned.
    """

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """
    A candidate that answers a share of the users, and how that ended.

    Args:
        canary_id (`str`):
            Unique; who gets the candidate is drawn from it.
        version (`str`):
            The candidate.
        incumbent (`str`):
            The version in service, which answers everybody else.
        share (`float`):
            Share of the users, and of the sessions without one, that get the candidate.
        started_at (`datetime`), ended_at (`datetime`, *optional*):
            From when to when, timezone-aware. Without an end, it runs.
        outcome ([`CanaryOutcome`], *optional*), reason (`str`, *optional*):
            How it ended, and why, in words.
    """

    canary_id: str
    version: str
    incumbent: str
    share: float
    started_at: datetime
    ended_at: datetime | None = None
    outcome: CanaryOutcome | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEvaluation:
    """
    What was measured of one policy version.

    Args:
        policy_version (`str`):
            Name of the version.
        satisfaction ([`Estimate`]):
            What users said of its answers, in [0, 1].
        win_rate_vs_base ([`Estimate`], *optional*):
            How often its answer was preferred to that of the first version; `None` for the first version itself.
        win_rate_vs_live ([`Estimate`], *optional*):
            How often its answer was preferred to that of the version in service when it was made.
        kl (`float`):
            KL divergence from the first version, in nats per answer.
        length (`float`):
            Mean length of its answers, in words.
        reward_accuracy ([`Estimate`], *optional*):
            Accuracy of the reward model that paid it last, on held-out preferences.
        reward_versions (`tuple[str, ...]`):
            Reward versions that paid it, in order.
        chats ([`SatisfactionReport`], *optional*):
            What users said of its answers in their chats; `None` if it answered none.
    """

    policy_version: str
    satisfaction: Estimate
    kl: float
    length: float
    win_rate_vs_base: Estimate | None = None
    win_rate_vs_live: Estimate | None = None
    reward_accuracy: Estimate | None = None
    reward_versions: tuple[str, ...] = ()
    chats: SatisfactionReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SatisfactionReport:
    """
    What users think of one policy version, from all that they said so far. Every interval is a confidence sequence: it
    holds at all looks together, see [`~online_trl.estimates.confidence_sequence`].

    Args:
        policy_version (`str`):
            Name of the version.
        answers (`int`):
            Answers it gave.
        users (`int`):
            Users it answered.
        satisfaction ([`Estimate`]):
            Mean of thumbs (0 or 1) and ratings (scaled to [0, 1]).
        thumb_rate ([`Estimate`]):
            Share of the thumbs that point up.
        rating ([`Estimate`]):
            Mean rating, scaled to [0, 1].
        response_rate ([`Estimate`]):
            Share of its answers that somebody said something about. A score beside a falling response rate comes from
            those who stayed.
        win_rate ([`Estimate`], *optional*):
            Expected points against the version of reference, from comparisons of any two versions; `None` for the
            reference itself, and where nobody compared.
        implicit (`dict[str, int]`):
            How often each implicit signal came. They are no judgements, and are in no score.
    """

    policy_version: str
    answers: int
    users: int
    satisfaction: Estimate
    thumb_rate: Estimate
    rating: Estimate
    response_rate: Estimate
    win_rate: Estimate | None = None
    implicit: dict[str, int] = field(default_factory=dict)


class CanaryAction(str, Enum):
    """What to do with a candidate that serves a share of the users."""

    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryDecision:
    """
    What live feedback says of a candidate beside the version in service, and what follows.

    Args:
        action ([`CanaryAction`]):
            What to do.
        reason (`str`):
            Why, in words.
        satisfaction_difference ([`Estimate`]):
            Satisfaction with the candidate less that with the incumbent. Its interval, and that of the win rate, are
            one-sided at each end: by the false-promotion rate below, by the false-rollback rate above.
        response_rate (`float`), live_response_rate (`float`):
            Share of the answers of each that somebody said something about.
        win_rate ([`Estimate`], *optional*):
            How often the candidate's answer was preferred to the incumbent's, if comparisons count.
        checks (`tuple[GateCheck, ...]`):
            The conditions that were looked at.
    """

    action: CanaryAction
    reason: str
    satisfaction_difference: Estimate
    response_rate: float
    live_response_rate: float
    win_rate: Estimate | None = None
    checks: tuple[GateCheck, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRefresh:
    """
    One refresh of the reward model, as a report tells it.

    Args:
        version (`str`):
            The version that it published.
        decision ([`GateDecision`]):
            Whether it went into service, and why.
        accuracy ([`Estimate`]):
            Accuracy on the held-out preferences, and how many there were.
        statements (`int`):
            Statements that it was trained on.
        ece (`float`, *optional*):
            Expected calibration error on the held-out pairs.
        reliability (`tuple[tuple[float, float, float], ...]`):
            What it predicted for held-out pairs, what came true, and how much weight lay behind that, by how sure it
            was.
        drift (`str`, *optional*):
            The change of what people want that it answers to, in words.
        restarted (`str`, *optional*):
            Why it was made anew from the initial model, in words.
        upto (`int`, *optional*):
            Row of the log up to which it had heard.
    """

    version: str
    decision: GateDecision
    accuracy: Estimate
    statements: int
    ece: float | None = None
    reliability: tuple[tuple[float, float, float], ...] = ()
    drift: str | None = None
    restarted: str | None = None
    upto: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDecision:
    """
    What the promotion gate said about one policy version, as a report tells it.

    Args:
        version (`str`):
            The candidate.
        incumbent (`str`, *optional*):
            The version in service that it was held against.
        decision ([`GateDecision`]):
            Whether it went into service, and why.
    """

    version: str
    decision: GateDecision
    incumbent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    One prompt with the answers of two policy versions.

    Args:
        prompt (`list[Message]`), before (`list[Message]`), after (`list[Message]`):
            The prompt, and what each version answered.
        before_version (`str`), after_version (`str`):
            Names of the two versions.
        before_score (`float`, *optional*), after_score (`float`, *optional*):
            What a user said of each answer, in [0, 1].
    """

    prompt: list[Message]
    before: list[Message]
    after: list[Message]
    before_version: str
    after_version: str
    before_score: float | None = None
    after_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledAnswer:
    """
    An answer that was drawn in order to be evaluated.

    Args:
        completion (`list[Message]`):
            What was answered.
        prompt_ids (`list[int]`, *optional*), completion_ids (`list[int]`, *optional*):
            Token ids of the prompt and of the answer, as they were sampled.
        logprobs (`list[float]`, *optional*):
            Log-probability of each token of `completion_ids` under the policy, in nats.
    """

    completion: list[Message]
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None

    @property
    def text(self) -> str:
        """What was answered, as one text."""
        return "\n\n".join(str(message.get("content") or "") for message in self.completion)


@dataclass(frozen=True, slots=True)
class AccuracyPoint:
    """
    How often a reward model was right at one point of time.

    Args:
        at (`str`):
            The point: a reward version, or an interval of the log such as `120-180`.
        accuracy ([`Estimate`]):
            Share of the statements that it is right about.
    """

    at: str
    accuracy: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """
    What an evaluator measured of one policy version.

    Args:
        policy_version (`str`):
            Name of the version.
        figures (`dict[str, Estimate]`):
            What was measured, by its name; see [`~online_trl.evaluation.evaluator.Evaluator`] for the names. What
            could not be measured is left out.
        live (`str`, *optional*), base (`str`, *optional*):
            The version in service and the one that all began with, if it was compared with them.
        judges (`tuple[str, ...]`):
            Names of the judges.
        main_judge (`str`, *optional*):
            The judge whose win rates stand for all.
        proxy_judge (`str`, *optional*), heldout_judge (`str`, *optional*):
            The judge that the policy was trained against, and the one that it was not.
        prompts (`int`):
            Prompts that it answered.
        reward_version (`str`, *optional*):
            The reward version whose accuracy was measured.
        accuracy_over_feedback (`tuple[AccuracyPoint, ...]`):
            How that one does on held-out feedback, the oldest first.
        accuracy_by_reward_version (`tuple[AccuracyPoint, ...]`):
            How each reward version did when it was published.
        settings (`dict[str, Any]`):
            How answers were drawn and judged, as plain values.
        created_at (`datetime`, *optional*):
            Timezone-aware. Defaults to now.
    """

    policy_version: str
    figures: dict[str, Estimate]
    prompts: int
    live: str | None = None
    base: str | None = None
    judges: tuple[str, ...] = ()
    main_judge: str | None = None
    proxy_judge: str | None = None
    heldout_judge: str | None = None
    reward_version: str | None = None
    accuracy_over_feedback: tuple[AccuracyPoint, ...] = ()
    accuracy_by_reward_version: tuple[AccuracyPoint, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utcnow)

    @property
    def scalars(self) -> dict[str, float]:
        """The figures as trackers log them: each mean under its name, and its interval as `NAME_low`, `NAME_high`."""
        named = {
            name + ending: value
            for name, estimate in self.figures.items()
            for ending, value in (("", estimate.mean), ("_low", estimate.low), ("_high", estimate.high))
        }
        return {name: value for name, value in named.items() if math.isfinite(value)}


def _check_messages(name: str, messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidRecordError(f"`{name}` is empty; it needs at least one message")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InvalidRecordError(f"`{name}` holds {message!r}; a message is {{'role': …, 'content': …}}")


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
