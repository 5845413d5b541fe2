"""Pairs that nobody has to be asked for: an answer to what was asked, over one to something else."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..types import FeedbackKind, Message, PreferencePair, Statement

# Where nearly all answers are to one prompt, looking further for another one is not worth it.
_TRIES = 8


def off_topic_pairs(statements: Sequence[Statement], count: int, *, seed: str) -> list[PreferencePair]:
    """
    Sets answers over answers to other prompts: the best-ranked answer of a statement wins, whatever was said of it.

    A reward model that has seen few statements hardly looks at the prompt, because none of them compares answers to
    different ones. These pairs teach it to, and cost no label. They are the observations of a prior: their number does
    not grow with that of the statements, which outweigh them when they are many.

    Source: the non-contextual pairs of Liu et al. 2024, "RRM: Robust Reward Model Training Mitigates Reward Hacking"
    (https://arxiv.org/abs/2409.13156), which adds as many as there are statements.

    Args:
        statements (`Sequence[Statement]`):
            What the answers are taken from.
        count (`int`):
            Statements that give a pair each, drawn at random; all of them if they are fewer.
        seed (`str`):
            Seed of the draw.

    Returns:
        `list[PreferencePair]`: Pairs with the weight and the voice of the statement that the chosen answer is from. A
        statement that no answer to another prompt is found for gives none.
    """
    rng = random.Random(seed)
    answers = [(statement, completion) for statement in statements for completion in statement.completions]
    drawn = rng.sample(list(statements), min(count, len(statements)))
    pairs = [_pair(statement, answers, rng) for statement in drawn]
    return [pair for pair in pairs if pair is not None]


def _pair(
    statement: Statement, answers: Sequence[tuple[Statement, list[Message]]], rng: random.Random
) -> PreferencePair | None:
    for _ in range(_TRIES):
        other, completion = rng.choice(answers)
        if other.prompt != statement.prompt and completion not in statement.completions:
            return PreferencePair(
                prompt=statement.prompt,
                chosen=statement.completions[statement.ranks.index(min(statement.ranks))],
                rejected=completion,
                kind=FeedbackKind.COMPARISON,
                seq=max(statement.seq, other.seq),
                weight=statement.weight,
                voice=statement.voice,
                feedback_ids=(*statement.feedback_ids, *other.feedback_ids),
                interaction_ids=(*statement.interaction_ids, *other.interaction_ids),
                said_at=statement.said_at,
                answered_at=statement.answered_at,
            )
    return None
