"""
A small help-desk world: what can be asked about a few household items, and answers in many styles, good and bad.

Every text is generated from the tables below, so that which words may follow each other, what was asked and what was
answered are known exactly. The same seed always gives the same text.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..types import Message

ITEMS = (
    "kettle",
    "lamp",
    "camera",
    "tablet",
    "printer",
    "heater",
    "mixer",
    "toaster",
    "blender",
    "speaker",
    "monitor",
    "keyboard",
    "router",
    "charger",
    "drill",
    "scooter",
    "helmet",
    "tent",
    "backpack",
    "watch",
    "jacket",
    "sofa",
    "mattress",
    "piano",
)

INSTRUCTIONS: dict[str, tuple[str, str]] = {
    "order": ("Choose the {item} in our shop and press buy.", "Add the {item} to your basket and pay online."),
    "return": ("Pack the {item} in its box and post it back.", "Print a label and hand in the {item} at any shop."),
    "repair": (
        "Bring the {item} and its receipt to our workshop.",
        "Book a visit and we will fix the {item} at home.",
    ),
    "track": (
        "Enter the number of the {item} on our parcel page.",
        "Open the delivery map to see where the {item} is.",
    ),
    "cancel": (
        "Open your orders and press stop beside the {item}.",
        "Call us before noon to take the {item} off your bill.",
    ),
    "exchange": (
        "Send back the {item} and name the model you want.",
        "Swap the {item} for another model at any shop.",
    ),
    "clean": ("Wipe the {item} with a soft cloth and some water.", "Brush the dust off the {item} and let it dry."),
    "insure": ("Fill in the cover form and add the {item} to it.", "Tell our agent the price of the {item} and sign."),
}
ACTIONS = tuple(INSTRUCTIONS)

QUESTION_FORMS = (
    "How do I {action} the {item}?",
    "Can you help me {action} the {item}?",
    "What should I do to {action} the {item}?",
    "I want to {action} the {item}.",
)

MANNERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "polite": (("Happy to help!", "Thank you for asking."), ("Happy to help again!", "Thank you for writing.")),
    "plain": ((), ()),
    "blunt": (
        ("Read the manual first.", "Everybody knows that."),
        ("Read the manual next time.", "Do not ask again."),
    ),
}
HEDGED_STARTS = ("Maybe you could", "I think you could", "Perhaps you could")
HEDGED_CLOSINGS = ("But I could be wrong.", "It could also fail.")
RAMBLINGS = (
    "Our company was founded by two brothers.",
    "Our office has moved to a new street.",
    "Our town had mild weather all week long.",
    "Our letter comes out every month of the year.",
)

_WORD = re.compile(r"[a-z']+|[^a-z'\s]")
_SENTENCE_END = (".", "!", "?")


@dataclass(frozen=True, slots=True)
class Question:
    """
    What a user wants to know: one of [`ACTIONS`] on one of [`ITEMS`], asked in one of [`QUESTION_FORMS`].

    Args:
        action (`str`), item (`str`):
            What to do, and with what.
        form (`int`, *optional*, defaults to `0`):
            Index of the form it is asked in.
    """

    action: str
    item: str
    form: int = 0

    @property
    def text(self) -> str:
        """The question as the user types it."""
        return QUESTION_FORMS[self.form].format(action=self.action, item=self.item)


@dataclass(frozen=True, slots=True)
class Style:
    """
    How a question is answered. The defaults have no fault but that a courtesy may be said twice.

    Args:
        manner (`str`, *optional*, defaults to `"polite"`):
            Whether it is `"polite"`, `"plain"` or `"blunt"`.
        item (`str`, *optional*, defaults to `"right"`):
            Whether it names the `"right"` item, a `"wrong"` one, or `"none"`.
        action (`str`, *optional*, defaults to `"right"`):
            Whether it explains the `"right"` action or a `"wrong"` one.
        hedges (`int`, *optional*, defaults to `0`):
            How often it hedges, at most 2.
        ramblings (`int`, *optional*, defaults to `0`):
            How many sentences are beside the point, at most 2.
    """

    manner: Literal["polite", "plain", "blunt"] = "polite"
    item: Literal["right", "wrong", "none"] = "right"
    action: Literal["right", "wrong"] = "right"
    hedges: int = 0
    ramblings: int = 0


def sample_style(rng: random.Random) -> Style:
    """Returns a style as the base policy's teachers had it: mostly poor, with every good habit seen now and then."""
    return Style(
        manner=rng.choices(("polite", "plain", "blunt"), (18, 32, 50))[0],
        item=rng.choices(("right", "wrong", "none"), (85, 6, 9))[0],
        action=rng.choices(("right", "wrong"), (96, 4))[0],
        hedges=rng.choices((0, 1, 2), (35, 35, 30))[0],
        ramblings=rng.choices((0, 1, 2), (18, 32, 50))[0],
    )


def write_answer(question: Question, style: Style, rng: random.Random) -> str:
    """Returns an answer to `question` in `style`; `rng` picks among the phrasings."""
    sentences = [_instruction(question, style, rng)]
    if style.hedges > 1:
        sentences.append(rng.choice(HEDGED_CLOSINGS))
    for rambling in rng.sample(RAMBLINGS, style.ramblings):
        sentences.insert(rng.randint(0, len(sentences)), rambling)
    openings, closings = MANNERS[style.manner]
    ends = rng.choices(((1, 0), (0, 1), (1, 1)), (45, 20, 35))[0]
    opening = [rng.choice(openings)] if openings and ends[0] else []
    closing = [rng.choice(closings)] if closings and ends[1] else []
    return " ".join([*opening, *sentences, *closing])


def _instruction(question: Question, style: Style, rng: random.Random) -> str:
    action = question.action if style.action == "right" else rng.choice([a for a in ACTIONS if a != question.action])
    item = question.item if style.item == "right" else rng.choice([i for i in ITEMS if i != question.item])
    instruction = rng.choice(INSTRUCTIONS[action])
    if style.item == "none":
        instruction = instruction.replace("the {item}", "it")
    if style.hedges:
        instruction = _hedged(instruction, rng.choice(HEDGED_STARTS))
    return instruction.format(item=item)


def _hedged(instruction: str, start: str) -> str:
    return f"{start} {instruction[0].lower()}{instruction[1:]}"


@functools.cache
def train_questions() -> tuple[Question, ...]:
    """Returns the questions that users ask while the policy learns."""
    return tuple(question for question, held_out in _questions() if not held_out)


@functools.cache
def held_out_questions() -> tuple[Question, ...]:
    """Returns the questions kept for evaluation: pairs of action and item that are never asked during training."""
    return tuple(question for question, held_out in _questions() if held_out)


def _questions() -> Iterator[tuple[Question, bool]]:
    for a, action in enumerate(ACTIONS):
        for i, item in enumerate(ITEMS):
            for form in range(len(QUESTION_FORMS)):
                yield Question(action, item, form), (i + 3 * a) % 6 == 0


def read_question(text: str) -> Question:
    """
    Finds out what `text` asks.

    Raises:
        `ValueError`: if it is not a question of this world.
    """
    question = _questions_by_text().get(text.strip())
    if question is None:
        raise ValueError(
            f"{text!r} is not a question of the simulated help desk, such as {Question('return', 'lamp').text!r}"
        )
    return question


@functools.cache
def _questions_by_text() -> dict[str, Question]:
    return {question.text: question for question, _ in _questions()}


def generate_conversations(n: int, seed: int) -> list[dict[str, list[Message]]]:
    """
    Returns `n` conversations of one question and one answer, as rows in TRL's conversational format.

    Questions come from the training pool, answers are in a mixture of styles (see [`sample_style`]).

    Args:
        n (`int`):
            How many.
        seed (`int`):
            The same seed gives the same conversations.
    """
    rng = random.Random(f"conversations/{seed}")
    return [{"messages": _conversation(rng.choice(train_questions()), rng)} for _ in range(n)]


def _conversation(question: Question, rng: random.Random) -> list[Message]:
    answer = write_answer(question, sample_style(rng), rng)
    return [{"role": "user", "content": question.text}, {"role": "assistant", "content": answer}]


def words(text: str) -> list[str]:
    """Returns the words and punctuation marks of `text` in lower case, every item's name replaced by `<item>`."""
    return ["<item>" if word in _ITEM_SET else word for word in _WORD.findall(text.lower())]


_ITEM_SET = frozenset(ITEMS)


@functools.cache
def known_bigrams() -> frozenset[tuple[str, str]]:
    """Returns every pair of neighbouring words of this world's texts; `^` and `$` are a text's start and end."""
    sentences = [words(sentence) for sentence in _sentences()]
    inside = {pair for sentence in sentences for pair in itertools.pairwise(sentence)}
    starts, ends = {sentence[0] for sentence in sentences}, {sentence[-1] for sentence in sentences}
    between = {(end, start) for end in ends for start in starts}
    return frozenset(inside | between | {("^", start) for start in starts} | {(end, "$") for end in ends})


def bigrams(tokens: list[str]) -> list[tuple[str, str]]:
    """Returns the neighbouring pairs of `tokens`, with `^` before the first and `$` after the last."""
    padded = ["^", *tokens, "$"]
    return list(itertools.pairwise(padded))


def _sentences() -> Iterator[str]:
    yield from HEDGED_CLOSINGS + RAMBLINGS
    for openings, closings in MANNERS.values():
        yield from openings + closings
    for variants in INSTRUCTIONS.values():
        for variant in variants:
            for instruction in instruction_forms(variant):
                yield instruction
                yield from (_hedged(instruction, start) for start in HEDGED_STARTS)


def instruction_forms(instruction: str) -> tuple[str, str]:
    """Returns `instruction` with an item named in it, and with no item named."""
    return instruction.format(item=ITEMS[0]), instruction.replace("the {item}", "it")
