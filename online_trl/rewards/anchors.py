"""
The answers that the scale of the reward is fixed on.

An anchor set is drawn from the log and kept for many versions, so that a new version changes the order of answers and
not the scale of what the policy is paid. When it is drawn anew, the live version's scores of the new answers say what
mean and spread they must have: a new set does not move the scale either.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..registry import RegistryError, Sources
from ..types import Message, Statement
from .ensemble import pessimistic

ANCHORS_FILE = "anchors.json"
# Below this spread the anchors carry no order worth scaling up.
_MIN_STD = 1e-3

Conversation = list[Message]


@dataclass(frozen=True, slots=True)
class Anchor:
    """An answer with its prompt, and the rows of the log that it came from."""

    conversation: Conversation
    feedback_ids: tuple[str, ...] = ()
    interaction_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """
    Answers that scores are standardised on.

    Args:
        anchors (`tuple[Anchor, ...]`):
            The answers.
        version (`int`, *optional*, defaults to `1`):
            Number of the set; it counts up whenever an answer is replaced.
        refreshes (`int`, *optional*, defaults to `0`):
            How many reward versions were published on it since it was drawn.
        mean (`float`, *optional*, defaults to `0.0`), std (`float`, *optional*, defaults to `1.0`):
            Mean and spread that the paid scores of the answers have under every version.
    """

    anchors: tuple[Anchor, ...]
    version: int = 1
    refreshes: int = 0
    mean: float = 0.0
    std: float = 1.0

    @property
    def conversations(self) -> list[Conversation]:
        """The answers, each with its prompt."""
        return [anchor.conversation for anchor in self.anchors]

    @property
    def sources(self) -> Sources:
        """Where they came from."""
        return Sources(
            frozenset(name for anchor in self.anchors for name in anchor.feedback_ids),
            frozenset(name for anchor in self.anchors for name in anchor.interaction_ids),
        )


@dataclass(frozen=True, slots=True)
class Standard:
    """
    A reward version's scale: its anchor set, and what each of its heads says of the answers.

    Args:
        anchor_set ([`AnchorSet`]):
            The answers.
        scores (`list[list[float]]`):
            The raw score of each head for each answer, `(len(anchors), num_heads)`.
    """

    anchor_set: AnchorSet
    scores: list[list[float]] = field(repr=False)

    def head_scores(self, raw: torch.Tensor) -> torch.Tensor:
        """Brings raw scores of shape `(N, K)` to mean 0 and spread 1 over the anchors, each head on its own."""
        anchors = torch.tensor(self.scores)
        return (raw - anchors.mean(dim=0)) / _spread(anchors)

    def paid_scores(self, raw: torch.Tensor, *, pessimism: float) -> torch.Tensor:
        """
        Turns raw scores into what the policy is paid: the mean of the heads less `pessimism` times their spread, on
        the scale of the anchor set.

        Args:
            raw (`torch.Tensor` of shape `(N, K)`):
                Raw scores of each head.
            pessimism (`float`):
                Standard deviations, over the heads, that are taken off the mean; 0 pays the mean.

        Returns:
            `torch.Tensor` of shape `(N,)`.
        """
        anchors = pessimistic(self.head_scores(torch.tensor(self.scores)), pessimism)
        scores = pessimistic(self.head_scores(raw), pessimism)
        standardised: torch.Tensor = (scores - anchors.mean()) / _spread(anchors)
        return standardised * self.anchor_set.std + self.anchor_set.mean

    def write(self, folder: Path) -> None:
        """Writes the scale beside the weights of its version."""
        (folder / ANCHORS_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Standard | None:
        """
        Reads the scale of a version; `None` if the folder, such as that of a model from elsewhere, has none.

        Raises:
            [`~online_trl.registry.RegistryError`]: if the file is not what [`Standard.write`] writes.
        """
        file = Path(folder) / ANCHORS_FILE
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            named = content["anchor_set"]
            anchors = tuple(
                Anchor(each["conversation"], tuple(each["feedback_ids"]), tuple(each["interaction_ids"]))
                for each in named["anchors"]
            )
            return cls(AnchorSet(**{**named, "anchors": anchors}), content["scores"])
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{file} does not hold the anchors of a reward version: {error}") from error


def renew_anchors(
    known: AnchorSet | None,
    statements: Sequence[Statement],
    withdrawn: Collection[str],
    *,
    size: int,
    max_refreshes: int,
    seed: int,
    score: Callable[[Sequence[Conversation]], torch.Tensor] | None,
) -> AnchorSet:
    """
    Returns the anchor set that the next version is standardised on: the known one, as long as it is neither too old
    nor names what was withdrawn.

    Args:
        known ([`AnchorSet`], *optional*):
            That of the live version.
        statements (`Sequence[Statement]`):
            What is remembered of the log; its answers take the places that are free.
        withdrawn (`Collection[str]`):
            Ids of feedback and interactions that were taken back or erased; anchors that came from them go.
        size (`int`):
            Answers of a new set.
        max_refreshes (`int`):
            A set that has served so many versions is drawn anew; 0 keeps it for good.
        seed (`int`):
            Seed of the draw.
        score (`Callable[[Sequence[Conversation]], torch.Tensor]`, *optional*):
            The live version's paid scores of conversations, which carry the scale over to a changed set.
    """
    gone = frozenset(withdrawn)
    is_due = known is None or 0 < max_refreshes <= known.refreshes
    kept = [] if known is None or is_due else [anchor for anchor in known.anchors if not _names(anchor, gone)]
    if known is not None and len(kept) == len(known.anchors):
        return replace(known, refreshes=known.refreshes + 1)
    version = 1 if known is None else known.version + 1
    known_words = {_words(anchor) for anchor in kept}
    fresh = [anchor for anchor in _possible_anchors(statements) if _words(anchor) not in known_words]
    drawn = random.Random(f"{seed}-{version}").sample(fresh, min(size - len(kept), len(fresh)))
    renewed = AnchorSet((*kept, *drawn), version=version, refreshes=1)
    if score is None:
        return renewed
    scores = score(renewed.conversations)
    return replace(renewed, mean=float(scores.mean()), std=float(_spread(scores)))


def _words(anchor: Anchor) -> str:
    return json.dumps(anchor.conversation, sort_keys=True)


def _names(anchor: Anchor, names: frozenset[str]) -> bool:
    return not names.isdisjoint([*anchor.feedback_ids, *anchor.interaction_ids])


def _possible_anchors(statements: Sequence[Statement]) -> list[Anchor]:
    """Every answer that something was said of, once."""
    anchors: dict[str, Anchor] = {}
    for statement in statements:
        for completion in statement.completions:
            conversation = statement.prompt + completion
            anchor = Anchor(conversation, statement.feedback_ids, statement.interaction_ids)
            anchors.setdefault(_words(anchor), anchor)
    return list(anchors.values())


def _spread(scores: torch.Tensor) -> torch.Tensor:
    # One anchor alone has no spread.
    correction = 1 if len(scores) > 1 else 0
    return scores.std(dim=0, correction=correction).clamp(min=_MIN_STD)
