"""What a reward version learned from and was judged by, in a file beside its weights and under their checksums."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from ..types import Statement
from .errors import RegistryError
from .layout import CONSUMED, write_durably


@dataclass(frozen=True, slots=True)
class Sources:
    """
    Where statements came from.

    Args:
        feedback_ids (`frozenset[str]`):
            The feedback that they were made of.
        interaction_ids (`frozenset[str]`):
            The answers that they are about.
    """

    feedback_ids: frozenset[str] = frozenset()
    interaction_ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, statements: Iterable[Statement]) -> Sources:
        """Returns where statements came from."""
        statements = list(statements)
        return cls(
            feedback_ids=frozenset(name for statement in statements for name in statement.feedback_ids),
            interaction_ids=frozenset(name for statement in statements for name in statement.interaction_ids),
        )

    def __or__(self, other: Sources) -> Sources:
        return Sources(self.feedback_ids | other.feedback_ids, self.interaction_ids | other.interaction_ids)

    def include(self, feedback_ids: Collection[str], interaction_ids: Collection[str]) -> bool:
        """Returns whether any of these ids is among them."""
        return not (self.feedback_ids.isdisjoint(feedback_ids) and self.interaction_ids.isdisjoint(interaction_ids))


@dataclass(frozen=True, slots=True)
class Consumed:
    """
    What went into a reward version.

    Args:
        trained_on ([`Sources`]):
            What its weights were fitted to, on top of those of its parent.
        judged_on ([`Sources`]):
            What decided whether it went into service.
        anchored_on ([`Sources`]):
            What its scale is fixed on. Those conversations are in its folder, word for word.
    """

    trained_on: Sources = Sources()
    judged_on: Sources = Sources()
    anchored_on: Sources = Sources()

    def write(self, folder: Path) -> None:
        """Writes it into the folder of a version that is about to be published."""
        content = {
            name: {"feedback_ids": sorted(part.feedback_ids), "interaction_ids": sorted(part.interaction_ids)}
            for name, part in ((field.name, getattr(self, field.name)) for field in fields(self))
        }
        write_durably(folder / CONSUMED, json.dumps(content, indent=1))

    @classmethod
    def load(cls, text: str, *, where: str) -> Consumed:
        """
        Returns what was written into the folder of a version.

        Raises:
            [`RegistryError`]: if it is damaged.
        """
        try:
            content = json.loads(text)
            return cls(**{field.name: _sources(content[field.name]) for field in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{where} is damaged: {error!r}") from error


def _sources(part: dict[str, list[str]]) -> Sources:
    return Sources(frozenset(part["feedback_ids"]), frozenset(part["interaction_ids"]))
