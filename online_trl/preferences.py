"""
What users said, as rows to learn from: preference pairs and unpaired labels, each with the feedback behind it.

Everything here is a function of the log alone. A pair belongs to the interval of `seq` in which the last row that it
was made from was written, so over consecutive intervals every pair turns up exactly once.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .dataset_import import DatasetFormatError as DatasetFormatError
from .dataset_import import import_dataset as import_dataset
from .store import FeedbackStore, prompt_key
from .types import Feedback, FeedbackKind, Interaction, PreferencePair, Purpose, UnpairedLabel

if TYPE_CHECKING:
    from datasets import Dataset

CLEAR_DIFFERENCE = 0.5
"""Scores, in [0, 1], that differ by less say nothing about which answer is better: people are lenient or strict."""

LOOKBACK = 8
"""A verdict is held against so many earlier ones on the same prompt; without a limit, the pairs of a prompt that many
send would grow with the square of their verdicts."""

REGENERATED_WEIGHT = 0.25
"""Weight of the pair behind a regenerated answer: people also ask again out of curiosity."""


@dataclass(frozen=True)
class PreferenceBatch:
    """
    What one interval of the log has to teach.

    Args:
        pairs (`tuple[PreferencePair, ...]`):
            Preference pairs, by `seq`.
        labels (`tuple[UnpairedLabel, ...]`):
            Thumbs and ratings, by `seq`.
        feedback_ids (`tuple[str, ...]`):
            Every feedback row of the interval about a chat, whether or not it gave a pair or a label.
        after (`int`), upto (`int`):
            The interval `(after, upto]`.
    """

    pairs: tuple[PreferencePair, ...]
    labels: tuple[UnpairedLabel, ...]
    feedback_ids: tuple[str, ...]
    after: int
    upto: int


def read_preferences(store: FeedbackStore, *, after: int, upto: int) -> PreferenceBatch:
    """
    Returns what the interval `(after, upto]` of the log has to teach.

    A pair may join a new verdict to one from before the interval. A row that was superseded or taken back by `upto` is
    left out.

    Args:
        store ([`~store.FeedbackStore`]):
            The log.
        after (`int`):
            `seq` after which the interval begins: the `upto` of the batch before.
        upto (`int`):
            Last `seq` of the interval, at most `store.latest_seq()`.

    Raises:
        `ValueError`: if the interval runs backwards or beyond the end of the log.
    """
    if not 0 <= after <= upto <= store.latest_seq():
        raise ValueError(f"({after}, {upto}] is no interval of the log, which ends at {store.latest_seq()}")
    feedback = store.related_feedback(after=after, upto=upto)
    interactions = store.get_interactions(name for row in feedback for name in row.interaction_ids)
    regenerated = {interactions[row.interaction_ids[0]].session_id for row in feedback if _is_regenerate(row)}
    siblings = store.session_interactions(regenerated, upto=upto)
    interactions |= {answer.interaction_id: answer for answer in siblings}
    return PreferenceBatch(
        pairs=tuple(pairs_from_feedback(feedback, interactions, after=after)),
        labels=tuple(labels_from_feedback(feedback, interactions, after=after)),
        feedback_ids=tuple(row.feedback_id for row in _about_chats(feedback, interactions) if _seq(row) > after),
        after=after,
        upto=upto,
    )


def standing_feedback(feedback: Iterable[Feedback]) -> list[Feedback]:
    """Returns the rows that none of the rows supersedes, without the ones that only take something back."""
    rows = list(feedback)
    superseded = {row.supersedes for row in rows}
    return [row for row in rows if row.feedback_id not in superseded and row.value is not None]


def pairs_from_feedback(
    feedback: Iterable[Feedback], interactions: Mapping[str, Interaction], *, after: int = 0
) -> list[PreferencePair]:
    """
    Makes preference pairs of feedback about chats. Two answers make a pair if they answer the same prompt and differ.

    | feedback | pairs | weight |
    |---|---|---|
    | comparison | the preferred answer over the other; none for a tie | 1 |
    | ranking | each answer of a tier over each of the next tier | 1, shared by the pairs of the two tiers |
    | correction | the user's rewrite over the answer | 1 |
    | thumb, rating | the better of two answers over the other, see below | 1 / pairs of the busier answer |
    | regenerate | the session's next answer to the prompt over the regenerated one | [`REGENERATED_WEIGHT`] |

    A thumb or rating is held against the last [`LOOKBACK`] thumbs and ratings before it on the same prompt, and gives
    a pair where the scores differ by [`CLEAR_DIFFERENCE`] or more; `margin` is the difference. The busier of the two
    answers is the one with more pairs of this kind so far.

    A ranking says of two tiers that are not neighbours only what follows from those between, so it gives no pair. It
    weighs as much as the comparisons of neighbours that it stands for. Other implicit signals give no pair.

    Args:
        feedback (`Iterable[Feedback]`):
            Rows of the log by `seq`, superseded ones included.
        interactions (`Mapping[str, Interaction]`):
            The interactions that they are about, and the other answers of the sessions, by id.
        after (`int`, *optional*, defaults to `0`):
            Only pairs of which the newest row comes after this `seq`.

    Returns:
        `list[PreferencePair]`: The pairs by `seq`.
    """
    rows = _about_chats(standing_feedback(feedback), interactions)
    pairs = [pair for row in rows for pair in _stated_pairs(row, [interactions[name] for name in row.interaction_ids])]
    pairs += _mined_pairs([row for row in rows if row.kind in _VERDICTS], interactions)
    pairs += _regenerated_pairs([row for row in rows if _is_regenerate(row)], interactions)
    return sorted((pair for pair in pairs if pair.seq > after), key=lambda pair: pair.seq)


def labels_from_feedback(
    feedback: Iterable[Feedback], interactions: Mapping[str, Interaction], *, after: int = 0
) -> list[UnpairedLabel]:
    """
    Makes an unpaired label of every thumb and rating about a chat.

    Args:
        feedback (`Iterable[Feedback]`):
            Rows of the log by `seq`, superseded ones included.
        interactions (`Mapping[str, Interaction]`):
            The interactions that they are about, by id.
        after (`int`, *optional*, defaults to `0`):
            Only rows after this `seq`.

    Returns:
        `list[UnpairedLabel]`: The labels by `seq`.
    """
    rows = _about_chats(standing_feedback(feedback), interactions)
    return [
        _label(row, interactions[row.interaction_ids[0]])
        for row in rows
        if row.kind in _VERDICTS and _seq(row) > after
    ]


_VERDICTS = (FeedbackKind.BINARY, FeedbackKind.RATING)


def _about_chats(feedback: Iterable[Feedback], interactions: Mapping[str, Interaction]) -> list[Feedback]:
    return [row for row in feedback if all(interactions[name].purpose is Purpose.CHAT for name in row.interaction_ids)]


def _is_regenerate(row: Feedback) -> bool:
    return row.kind is FeedbackKind.IMPLICIT and row.value == "regenerate"


def _seq(row: Feedback | Interaction) -> int:
    if row.seq is None:
        raise ValueError(f"{row!r} has no `seq`; only rows that a store returned can be made into preferences")
    return row.seq


def _are_alternatives(one: Interaction, other: Interaction) -> bool:
    return one.prompt == other.prompt and one.completion != other.completion


def _stated_pairs(row: Feedback, answers: Sequence[Interaction]) -> list[PreferencePair]:
    """The pairs that one row states on its own."""
    if row.kind is FeedbackKind.COMPARISON and row.value != "tie":
        return _pairs_of_tiers(row, [[answer] for answer in (answers if row.value == "first" else answers[::-1])])
    if row.kind is FeedbackKind.RANKING:
        ranked = list(zip(row.value, answers, strict=True))
        tiers = [[answer for rank, answer in ranked if rank == tier] for tier in sorted(set(row.value))]
        return _pairs_of_tiers(row, tiers)
    if row.kind is FeedbackKind.CORRECTION:
        rewrite = replace(answers[0], completion=[{"role": "assistant", "content": row.value}])
        return _pairs_of_tiers(row, [[rewrite], list(answers)])
    return []


def _pairs_of_tiers(row: Feedback, tiers: Sequence[Sequence[Interaction]]) -> list[PreferencePair]:
    pairs = []
    for better, worse in pairwise(tiers):
        couples = [(one, other) for one in better for other in worse if _are_alternatives(one, other)]
        pairs += [_pair([row], one, other, weight=1 / len(couples)) for one, other in couples]
    return pairs


def _mined_pairs(verdicts: Iterable[Feedback], interactions: Mapping[str, Interaction]) -> list[PreferencePair]:
    """The pairs that follow from verdicts, thumbs and ratings, on different answers to the same prompt."""
    pairs = []
    earlier: dict[str, deque[tuple[Feedback, Interaction]]] = defaultdict(lambda: deque(maxlen=LOOKBACK))
    pairs_of: Counter[str] = Counter()
    for row in verdicts:
        answer = interactions[row.interaction_ids[0]]
        recent = earlier[prompt_key(answer.prompt)]
        partners = [
            (old, other) for old, other in recent if _clearly_differ(row, old) and _are_alternatives(answer, other)
        ]
        pairs_of.update([answer.interaction_id] * len(partners))
        for old, other in partners:
            pairs_of[other.interaction_id] += 1
            busier = max(pairs_of[answer.interaction_id], pairs_of[other.interaction_id])
            one, two = (answer, other) if row.score > old.score else (other, answer)
            pairs.append(_pair([old, row], one, two, margin=abs(row.score - old.score), weight=1 / busier))
        recent.append((row, answer))
    return pairs


def _clearly_differ(row: Feedback, other: Feedback) -> bool:
    # Scores are quotients: 0.7 - 0.2 is a little less than 0.5.
    return abs(row.score - other.score) > CLEAR_DIFFERENCE - 1e-9


def _regenerated_pairs(rows: Iterable[Feedback], interactions: Mapping[str, Interaction]) -> list[PreferencePair]:
    """The next answer over the regenerated one. It may be younger than the feedback, and then dates the pair."""
    sessions: dict[str, list[Interaction]] = defaultdict(list)
    for answer in sorted(interactions.values(), key=_seq):
        if answer.purpose is Purpose.CHAT:
            sessions[answer.session_id].append(answer)
    pairs = []
    for row in rows:
        old = interactions[row.interaction_ids[0]]
        later = (new for new in sessions[old.session_id] if _seq(new) > _seq(old) and new.prompt == old.prompt)
        new = next(later, old)
        if _are_alternatives(new, old):
            pairs.append(_pair([row], new, old, seq=max(_seq(row), _seq(new)), weight=REGENERATED_WEIGHT))
    return pairs


def _pair(
    rows: Sequence[Feedback],
    chosen: Interaction,
    rejected: Interaction,
    *,
    weight: float,
    margin: float | None = None,
    seq: int | None = None,
) -> PreferencePair:
    return PreferencePair(
        prompt=chosen.prompt,
        chosen=chosen.completion,
        rejected=rejected.completion,
        kind=rows[-1].kind,
        seq=_seq(rows[-1]) if seq is None else seq,
        margin=margin,
        weight=weight,
        **_origin(rows, [chosen, rejected]),
    )


def _label(row: Feedback, answer: Interaction) -> UnpairedLabel:
    return UnpairedLabel(
        prompt=answer.prompt,
        completion=answer.completion,
        label=row.score > 0.5,
        score=row.score,
        seq=_seq(row),
        **_origin([row], [answer]),
    )


def _origin(rows: Sequence[Feedback], answers: Sequence[Interaction]) -> dict[str, Any]:
    return {
        "feedback_ids": tuple(row.feedback_id for row in rows),
        "session_ids": _distinct(answer.session_id for answer in answers),
        "user_ids": _distinct([row.user_id for row in rows] + [answer.user_id for answer in answers]),
        "policy_versions": _distinct(answer.policy_version for answer in answers),
    }


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def preference_dataset(pairs: Sequence[PreferencePair]) -> Dataset:
    """
    Returns pairs in TRL's conversational preference format: `prompt`, `chosen`, `rejected`, and `margin` if every pair
    has one.

    Args:
        pairs (`Sequence[PreferencePair]`):
            One row each, in this order.
    """
    columns = _columns(pairs, ("prompt", "chosen", "rejected", "margin"))
    if not pairs or None in columns["margin"]:
        del columns["margin"]
    return _dataset(columns)


def unpaired_dataset(labels: Sequence[UnpairedLabel]) -> Dataset:
    """
    Returns labels in TRL's conversational unpaired preference format: `prompt`, `completion`, `label`.

    Args:
        labels (`Sequence[UnpairedLabel]`):
            One row each, in this order.
    """
    return _dataset(_columns(labels, ("prompt", "completion", "label")))


def prompt_dataset(interactions: Sequence[Interaction]) -> Dataset:
    """
    Returns the prompts of interactions in TRL's conversational prompt-only format: `prompt`.

    Args:
        interactions (`Sequence[Interaction]`):
            One row each, in this order; repeated prompts stay.
    """
    return _dataset(_columns(interactions, ("prompt",)))


def _columns(records: Sequence[Any], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [getattr(record, name) for record in records] for name in names}


def _dataset(columns: dict[str, list[Any]]) -> Dataset:
    from datasets import Dataset, Features, Value

    scalars = {"label": Value("bool"), "margin": Value("float64")}
    messages = [{"role": Value("string"), "content": Value("string")}]
    features = Features({name: scalars.get(name, messages) for name in columns})
    return Dataset.from_dict(columns, features=features)
