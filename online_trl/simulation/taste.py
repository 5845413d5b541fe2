"""
What simulated users secretly like: the satisfaction, a number in [0, 1], that an answer to a question gives them.

Only [`SimulatedUsers`] reads it; the training side sees what they say. Garbage satisfies nobody: what is not
well-formed text of the simulated world with an instruction in it scores close to 0, however many pleasing words it
has.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Collection, Mapping

from . import helpdesk

WEIGHTS: Mapping[str, float] = {"action": 0.25, "concise": 0.2, "definite": 0.2, "polite": 0.2, "item": 0.15}

STRICTNESS = 1.5
"""Power of the weighted mean: above 1, one fault spoils more than its share."""

_HEDGES = frozenset({"maybe", "think", "perhaps", "could"})
_MARKS = frozenset(".,!?")
_SENTENCE_ENDS = frozenset(".!?")

Bigrams = frozenset[tuple[str, str]]


class Taste:
    """
    A hidden taste: satisfaction is the weighted mean of five parts, times how well-formed the answer is.

    | part | 1 when it | 0 when it |
    |---|---|---|
    | `concise` | has at most `patience` words | has `boredom` words or more |
    | `polite` | is courteous, not blunt | is blunt (0.25 when neither) |
    | `item` | names the item that was asked about | names another one (0.3 when none) |
    | `definite` | hedges in no sentence | hedges in two or more (0.35 in one) |
    | `action` | tells how to do what was asked | tells something else |

    Args:
        taste_seed (`int`, *optional*, defaults to `0`):
            Draws the final weights, `patience` and `boredom`: all tastes like the same things, not equally much.
        weights (`Mapping[str, float]`, *optional*):
            Weight of each part, around which the final one is drawn. A part that is left out does not count.
        flipped (`Collection[str]`, *optional*):
            Parts of which the opposite pleases.

    Raises:
        `ValueError`: if `weights` or `flipped` name an unknown part, or if no weight is above 0.

    Example:

    ```python
    >>> from online_trl.simulation.taste import Taste

    >>> taste = Taste(taste_seed=0)
    >>> answer = "Happy to help! Brush the dust off the lamp and let it dry."
    >>> round(taste.satisfaction("How do I clean the lamp?", answer), 2)
    1.0
    >>> taste.satisfaction("How do I clean the lamp?", "lamp lamp lamp, please!")
    0.0

    ```
    """

    def __init__(
        self, taste_seed: int = 0, *, weights: Mapping[str, float] = WEIGHTS, flipped: Collection[str] = ()
    ) -> None:
        for name, parts in (("weights", weights), ("flipped", flipped)):
            if unknown := sorted(set(parts) - set(WEIGHTS)):
                raise ValueError(f"`{name}` names {unknown}; the parts of a taste are {sorted(WEIGHTS)}")
        if not sum(weights.values()) > 0 or min(weights.values()) < 0:
            raise ValueError(f"`weights` must not be negative and not all 0, got {dict(weights)}")
        self.taste_seed = taste_seed
        self.flipped = frozenset(flipped)
        self._weights = dict(weights)
        rng = random.Random(f"taste/{taste_seed}")
        drawn = {part: weights.get(part, 0.0) * rng.lognormvariate(0.0, 0.2) for part in WEIGHTS}
        self.weights = {part: weight / sum(drawn.values()) for part, weight in drawn.items()}
        self.patience = rng.uniform(16.0, 20.0)
        self.boredom = self.patience + rng.uniform(14.0, 20.0)

    def flip(self, parts: Collection[str]) -> Taste:
        """Returns the same taste with the opposite liking of `parts`, such as a change of mind halfway."""
        return Taste(self.taste_seed, weights=self._weights, flipped=self.flipped ^ frozenset(parts))

    def satisfaction(self, prompt: str, completion: str) -> float:
        """
        Returns how satisfied a user is, in [0, 1].

        Args:
            prompt (`str`):
                A question of the simulated help desk.
            completion (`str`):
                The answer.

        Raises:
            `ValueError`: if `prompt` is not a question of the simulated help desk.
        """
        parts = self.parts(prompt, completion)
        return parts["well_formed"] * sum(weight * parts[part] for part, weight in self.weights.items()) ** STRICTNESS

    def parts(self, prompt: str, completion: str) -> dict[str, float]:
        """Returns what satisfaction is made of: the five parts, after flipping, and `well_formed`, each in [0, 1]."""
        question = helpdesk.read_question(prompt)
        tokens = helpdesk.words(completion)
        seen = frozenset(helpdesk.bigrams(tokens))
        parts = {
            "concise": _ramp(_count_words(tokens), self.boredom, self.patience),
            "polite": _polite(seen),
            "item": _item(completion, question.item),
            "definite": _definite(tokens),
            "action": _ramp(_explains(question.action, seen), 0.5, 0.9),
        }
        parts = {part: 1.0 - value if part in self.flipped else value for part, value in parts.items()}
        return {**parts, "well_formed": well_formed(completion)}


def well_formed(text: str) -> float:
    """
    Returns how much `text` is something that one would say at the help desk, in [0, 1], whatever was asked.

    It is the product of four: its neighbouring words occur in this world, it ends with a sentence, it does not repeat
    itself, and it holds an instruction.
    """
    tokens = helpdesk.words(text)
    if not tokens:
        return 0.0
    pairs = helpdesk.bigrams(tokens)
    fluent = sum(pair in helpdesk.known_bigrams() for pair in pairs) / len(pairs)
    ended = 1.0 if tokens[-1] in _SENTENCE_ENDS else 0.1
    instructive = max(_explains(action, frozenset(pairs)) for action in helpdesk.ACTIONS)
    return _ramp(fluent, 0.6, 0.95) * ended * _distinct_trigrams(tokens) ** 8 * _ramp(instructive, 0.4, 0.8)


def _distinct_trigrams(tokens: list[str]) -> float:
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _polite(seen: Bigrams) -> float:
    if _has_manner("blunt", seen):
        return 0.0
    return 1.0 if _has_manner("polite", seen) else 0.25


def _item(completion: str, wanted: str) -> float:
    named = set(completion.lower().replace(".", " ").replace(",", " ").split()) & set(helpdesk.ITEMS)
    if not named:
        return 0.3
    return 1.0 if named == {wanted} else 0.0


def _definite(tokens: list[str]) -> float:
    hedging, hedged = 0, False
    for token in tokens:
        hedged = hedged or token in _HEDGES
        if token in _SENTENCE_ENDS:
            hedging, hedged = hedging + hedged, False
    return {0: 1.0, 1: 0.35}.get(hedging + hedged, 0.0)


def _count_words(tokens: list[str]) -> int:
    return sum(token not in _MARKS for token in tokens)


def _explains(action: str, seen: Bigrams) -> float:
    return max(_overlap(phrase, seen) for phrase in _instruction_bigrams(action))


@functools.cache
def _instruction_bigrams(action: str) -> tuple[Bigrams, ...]:
    variants = helpdesk.INSTRUCTIONS[action]
    return tuple(_inner_bigrams(form) for variant in variants for form in helpdesk.instruction_forms(variant))


def _has_manner(manner: str, seen: Bigrams) -> bool:
    openings, closings = helpdesk.MANNERS[manner]
    return any(_overlap(_inner_bigrams(phrase), seen) > 0.7 for phrase in openings + closings)


@functools.cache
def _inner_bigrams(phrase: str) -> Bigrams:
    tokens = helpdesk.words(phrase)
    return frozenset(itertools.pairwise(tokens))


def _overlap(phrase: Bigrams, seen: Bigrams) -> float:
    return len(phrase & seen) / len(phrase)


def _ramp(value: float, zero: float, one: float) -> float:
    """Returns 0 at `zero`, 1 at `one`, the line between them in between, and no more than that outside."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))
