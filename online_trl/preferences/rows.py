"""What a pair or a label is made of: rows that still stand, and the answers they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..dataset_import import IMPORT_VERSION
from ..types import CANCELLED, Feedback, FeedbackKind, Interaction, PreferencePair, Purpose, Ranking, UnpairedLabel

VERDICTS = (FeedbackKind.BINARY, FeedbackKind.RATING)
"""Kinds of feedback that say how good one answer is."""


def standing_feedback(feedback: Iterable[Feedback]) -> list[Feedback]:
    """
    Returns the rows that none of the rows supersedes, without the ones that only take something back. Of several
    thumbs and ratings that a user gave one answer, the last one counts.

    Args:
        feedback (`Iterable[Feedback]`):
            Rows of the log by `seq`.
    """
    rows = list(feedback)
    superseded = {row.supersedes for row in rows}
    standing = [row for row in rows if row.feedback_id not in superseded and row.value is not None]
    last = {_judged(row): row.feedback_id for row in standing if row.kind in VERDICTS}
    return [row for row in standing if row.kind not in VERDICTS or last[_judged(row)] == row.feedback_id]


def _judged(verdict: Feedback) -> tuple[str, str]:
    return verdict.user_id, verdict.interaction_ids[0]


def about_chats(feedback: Iterable[Feedback], interactions: Mapping[str, Interaction]) -> list[Feedback]:
    """Returns the rows that are about chats alone. An answer that is missing has just been erased."""
    chats = {name for name, answer in interactions.items() if answer.purpose is Purpose.CHAT}
    return [row for row in feedback if chats.issuperset(row.interaction_ids)]


def seq_of(row: Feedback | Interaction) -> int:
    """Returns the position of a stored row in the log."""
    if row.seq is None:
        raise ValueError(f"{row!r} has no `seq`; only rows that a store returned can be made into preferences")
    return row.seq


def says_something(answer: Interaction) -> bool:
    """Returns whether an answer can be judged: one that was cut before it began says nothing of its policy."""
    is_cut = answer.sampling.get("finish_reason") == CANCELLED
    return not is_cut or any(
        value for message in answer.completion for name, value in message.items() if name != "role"
    )


def are_alternatives(one: Interaction, other: Interaction) -> bool:
    """Returns whether two answers make a pair: the same prompt, answered differently."""
    is_one_prompt = one.prompt == other.prompt and one.completion != other.completion
    return is_one_prompt and says_something(one) and says_something(other)


def make_pair(
    rows: Sequence[Feedback],
    chosen: Interaction,
    rejected: Interaction,
    *,
    weight: float,
    margin: float | None = None,
    kind: FeedbackKind | None = None,
    seq: int | None = None,
) -> PreferencePair:
    """Makes a pair of two answers and the rows it follows from, whose last one gives kind and `seq` by default."""
    return PreferencePair(
        prompt=chosen.prompt,
        chosen=chosen.completion,
        rejected=rejected.completion,
        kind=rows[-1].kind if kind is None else kind,
        seq=seq_of(rows[-1]) if seq is None else seq,
        margin=margin,
        weight=weight,
        **_origin(rows, [chosen, rejected]),
    )


def make_ranking(row: Feedback, answers: Sequence[Interaction], ranks: Sequence[int]) -> Ranking:
    """Makes a ranking of answers to one prompt and the row that put them in this order."""
    return Ranking(
        prompt=answers[0].prompt,
        completions=[answer.completion for answer in answers],
        ranks=tuple(ranks),
        kind=row.kind,
        seq=seq_of(row),
        **_origin([row], answers),
    )


def make_label(row: Feedback, answer: Interaction) -> UnpairedLabel:
    """Makes a label of an answer and the verdict on it."""
    return UnpairedLabel(
        prompt=answer.prompt,
        completion=answer.completion,
        label=row.score > 0.5,
        score=row.score,
        seq=seq_of(row),
        **_origin([row], [answer]),
    )


def _origin(rows: Sequence[Feedback], answers: Sequence[Interaction]) -> dict[str, Any]:
    newest = max(answer.created_at for answer in answers)
    return {
        "feedback_ids": tuple(row.feedback_id for row in rows),
        "interaction_ids": tuple(dict.fromkeys(answer.interaction_id for answer in answers)),
        "voice": voice_of(rows[-1].user_id if rows else answers[0].user_id, answers[0]),
        "session_ids": _distinct(answer.session_id for answer in answers),
        "user_ids": _distinct([row.user_id for row in rows] + [answer.user_id for answer in answers]),
        "policy_versions": _distinct(answer.policy_version for answer in answers),
        "said_at": max((row.created_at for row in rows), default=newest),
        "answered_at": newest,
    }


def voice_of(speaker: str, answer: Interaction) -> str:
    """Returns whose word something is that a user said or asked; see [`~types.PreferencePair`]."""
    # A dataset does not say who spoke: each of its rows, which is a session, speaks for itself.
    is_imported = answer.policy_version == IMPORT_VERSION and answer.user_id == speaker
    return answer.session_id if is_imported else speaker


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
