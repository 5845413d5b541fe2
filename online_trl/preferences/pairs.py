"""Feedback about chats as preference pairs and unpaired labels."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from ..store import prompt_key
from ..types import Feedback, FeedbackKind, Interaction, PreferencePair, Ranking, UnpairedLabel
from .change import Change, Evidence
from .datasets import statement_key
from .regeneration import regenerated_pairs
from .repeats import count_once
from .rows import VERDICTS, are_alternatives, make_label, make_pair, make_ranking, says_something

Made = TypeVar("Made", PreferencePair, UnpairedLabel, Ranking)
Ranked = TypeVar("Ranked")

CLEAR_DIFFERENCE = 0.5
"""Scores, in [0, 1], that differ by less say nothing about which answer is better: people are lenient or strict."""

LOOKBACK = 8
"""A verdict is held against so many earlier ones on the same prompt; without a limit, the pairs of a prompt that many
send would grow with the square of their verdicts."""


def pairs_from_feedback(
    feedback: Iterable[Feedback], interactions: Mapping[str, Interaction], *, after: int = 0
) -> list[PreferencePair]:
    """
    Makes preference pairs of feedback about chats. Two answers make a pair if they answer the same prompt and differ.
    An answer that was cut before its first word is in none.

    | feedback | pairs | weight |
    |---|---|---|
    | comparison | the preferred answer over the other; none for a tie | 1 |
    | ranking | each answer of a tier over each of the next tier | 1, shared by the pairs of the two tiers |
    | correction | the user's rewrite over the answer | 1 |
    | thumb, rating | the better of two answers over the other, see below | 1 / pairs of the busier answer |
    | regenerate | the session's next answer to the prompt over the regenerated one | [`REGENERATED_WEIGHT`] |
    | none | an answer over the one it `regenerates`, once it is accepted, see below | [`REGENERATED_WEIGHT`] |

    Of the thumbs and ratings that a user gave one answer, the last one counts. It is held against the last
    [`LOOKBACK`] such verdicts before it on the same prompt, and gives a pair where the scores differ by
    [`CLEAR_DIFFERENCE`] or more; `margin` is the difference. The busier of the two answers is the one with more pairs
    of this kind so far.

    A ranking says of two tiers that are not neighbours only what follows from those between, so it gives no pair. It
    weighs as much as the comparisons of neighbours that it stands for.

    A regenerated answer is accepted when the conversation goes on from it, or by a thumb up, a rating above the
    middle, or the signal `copy` or `share`. It is preferred to the answer it replaced unless that was accepted before
    it. Where no feedback tells, the pair has no `feedback_ids`; `interaction_ids` says which answers it is about, and
    its `seq` is that of the answer which went on. Other implicit signals give no pair.

    Somebody who prefers one answer to another several times, or says what follows from what they said, counts once:
    see [`~preferences.repeats.count_once`]. Where what they said first is replaced or taken back, what they said again
    counts from then on.

    Args:
        feedback (`Iterable[Feedback]`):
            Rows of the log by `seq`, superseded ones included.
        interactions (`Mapping[str, Interaction]`):
            The interactions that they are about, the other answers of the sessions, and those that regenerated answers
            were followed by, by id.
        after (`int`, *optional*, defaults to `0`):
            Only pairs that count since a row after this `seq`.

    Returns:
        `list[PreferencePair]`: The pairs by `seq`.
    """
    return fresh_pairs(Change.of(feedback, interactions, after=after))


def labels_from_feedback(
    feedback: Iterable[Feedback], interactions: Mapping[str, Interaction], *, after: int = 0
) -> list[UnpairedLabel]:
    """
    Makes an unpaired label of the last thumb or rating that each user gave an answer in a chat.

    Args:
        feedback (`Iterable[Feedback]`):
            Rows of the log by `seq`, superseded ones included.
        interactions (`Mapping[str, Interaction]`):
            The interactions that they are about, by id.
        after (`int`, *optional*, defaults to `0`):
            Only labels that count since a row after this `seq`.

    Returns:
        `list[UnpairedLabel]`: The labels by `seq`.
    """
    return fresh_labels(Change.of(feedback, interactions, after=after))


def rankings_from_feedback(
    feedback: Iterable[Feedback], interactions: Mapping[str, Interaction], *, after: int = 0
) -> list[Ranking]:
    """
    Makes a ranking of every ranking and every tied comparison about chats. It holds the answers to one prompt that
    differ and were not cut before their first word; where fewer than two are left, there is none.

    Somebody who puts the same answers in the same order again counts once.

    Args:
        feedback (`Iterable[Feedback]`):
            Rows of the log by `seq`, superseded ones included.
        interactions (`Mapping[str, Interaction]`):
            The interactions that they are about, by id.
        after (`int`, *optional*, defaults to `0`):
            Only rankings that count since a row after this `seq`.

    Returns:
        `list[Ranking]`: The rankings by `seq`.
    """
    return fresh_rankings(Change.of(feedback, interactions, after=after))


def fresh_pairs(change: Change) -> list[PreferencePair]:
    """Returns the pairs that count since a change, by `seq`."""
    return _fresh(change, _pairs)


def fresh_labels(change: Change) -> list[UnpairedLabel]:
    """Returns the labels that count since a change, by `seq`."""
    return _fresh(change, _labels)


def fresh_rankings(change: Change) -> list[Ranking]:
    """Returns the rankings that count since a change, by `seq`."""
    return _fresh(change, _rankings)


def _fresh(change: Change, make: Callable[[Evidence], list[Made]]) -> list[Made]:
    """
    What counts now and did not before: what is newer than the change and, if something was withdrawn, what had been
    left out on its account.
    """
    made = make(change.now)
    if not change.withdrawn:
        return [statement for statement in made if statement.seq > change.after]
    known = {statement_key(statement) for statement in make(change.before)}
    return [statement for statement in made if statement_key(statement) not in known]


def _pairs(evidence: Evidence) -> list[PreferencePair]:
    """All pairs, by `seq`: it takes the earlier ones to know what has been said before."""
    rows, interactions = evidence.rows, evidence.interactions
    pairs = [pair for row in rows for pair in _stated_pairs(row, [interactions[name] for name in row.interaction_ids])]
    pairs += _mined_pairs([row for row in rows if row.kind in VERDICTS], interactions)
    pairs += regenerated_pairs(rows, interactions)
    return count_once(sorted(pairs, key=lambda pair: pair.seq))


def _labels(evidence: Evidence) -> list[UnpairedLabel]:
    verdicts = (row for row in evidence.rows if row.kind in VERDICTS)
    return [make_label(row, evidence.interactions[row.interaction_ids[0]]) for row in verdicts]


def _rankings(evidence: Evidence) -> list[Ranking]:
    first: dict[tuple[str, frozenset[tuple[str, int]]], Ranking] = {}
    for row in evidence.rows:
        ranking = _ranking(row, [evidence.interactions[name] for name in row.interaction_ids])
        if ranking is not None:
            order = frozenset(zip(ranking.interaction_ids, ranking.ranks, strict=True))
            first.setdefault((ranking.voice, order), ranking)
    return list(first.values())


def _ranking(row: Feedback, answers: Sequence[Interaction]) -> Ranking | None:
    ranked = _ranked(row, answers)
    return make_ranking(row, *zip(*ranked, strict=True)) if len(ranked) > 1 else None


def _ranked(row: Feedback, answers: Sequence[Interaction]) -> list[tuple[Interaction, int]]:
    """Those of the answers that a ranking or a tie puts in order which can be compared, each with its rank."""
    is_tie = row.kind is FeedbackKind.COMPARISON and row.value == "tie"
    if not is_tie and row.kind is not FeedbackKind.RANKING:
        return []
    kept: list[tuple[Interaction, int]] = []
    for answer, rank in zip(answers, [1, 1] if is_tie else row.value, strict=True):
        if says_something(answer) and all(are_alternatives(answer, other) for other, _ in kept):
            kept.append((answer, rank))
    return kept


def _stated_pairs(row: Feedback, answers: Sequence[Interaction]) -> list[PreferencePair]:
    """The pairs that one row states on its own."""
    if row.kind is FeedbackKind.COMPARISON and row.value != "tie":
        return _pairs_of_tiers(row, [[answer] for answer in (answers if row.value == "first" else answers[::-1])])
    if row.kind is FeedbackKind.RANKING:
        return _pairs_of_tiers(row, tiers(_ranked(row, answers)))
    if row.kind is FeedbackKind.CORRECTION:
        rewrite = replace(answers[0], completion=[{"role": "assistant", "content": row.value}])
        return _pairs_of_tiers(row, [[rewrite], list(answers)])
    return []


def tiers(ranked: Iterable[tuple[Ranked, int]]) -> list[list[Ranked]]:
    """Returns what was ranked in groups of one rank, the best first."""
    by_rank: dict[int, list[Ranked]] = defaultdict(list)
    for each, rank in ranked:
        by_rank[rank].append(each)
    return [by_rank[rank] for rank in sorted(by_rank)]


def _pairs_of_tiers(row: Feedback, tiers: Sequence[Sequence[Interaction]]) -> list[PreferencePair]:
    pairs = []
    for better, worse in pairwise(tiers):
        couples = [(one, other) for one in better for other in worse if are_alternatives(one, other)]
        pairs += [make_pair([row], one, other, weight=1 / len(couples)) for one, other in couples]
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
            (old, other) for old, other in recent if _clearly_differ(row, old) and are_alternatives(answer, other)
        ]
        pairs_of.update([answer.interaction_id] * len(partners))
        for old, other in partners:
            pairs_of[other.interaction_id] += 1
            busier = max(pairs_of[answer.interaction_id], pairs_of[other.interaction_id])
            one, two = (answer, other) if row.score > old.score else (other, answer)
            pairs.append(make_pair([old, row], one, two, margin=abs(row.score - old.score), weight=1 / busier))
        recent.append((row, answer))
    return pairs


def _clearly_differ(row: Feedback, other: Feedback) -> bool:
    # Scores are quotients: 0.7 - 0.2 is a little less than 0.5.
    return abs(row.score - other.score) > CLEAR_DIFFERENCE - 1e-9
