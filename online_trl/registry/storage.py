"""What a registry asks of whatever it is stored on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from ..types import ModelRole, ModelVersion
from .state import RegistryState

T = TypeVar("T")


class Storage(Protocol):
    """
    Keeps the files of versions, which are written once, and the state, which is replaced whole. It knows none of the
    rules. Each write is there whole or not at all, whenever its process dies.
    """

    @property
    def location(self) -> str:
        """Where the registry is, as a user names it."""
        ...

    def names(self, role: ModelRole) -> list[str]:
        """Returns the versions of a role, oldest first."""
        ...

    def exists(self, name: str) -> bool:
        """Returns whether there is a version of this name, whoever published it."""
        ...

    def manifest(self, name: str) -> ModelVersion:
        """Returns a version as it was published."""
        ...

    def state(self) -> RegistryState:
        """Returns the state."""
        ...

    def change(self, apply: Callable[[RegistryState], T]) -> T:
        """Replaces the state by what `apply` makes of it; `apply` may be called again if another writer was first."""
        ...

    def staging(self) -> AbstractContextManager[Path]:
        """An empty folder for the files of a version that is about to be published."""
        ...

    def place(self, folder: Path, draft: ModelVersion) -> ModelVersion:
        """Publishes the files in a staging folder under the next name, and returns the version with its name."""
        ...

    def folder(self, name: str) -> Path:
        """Returns a local folder with the files of a version."""
        ...

    def text(self, name: str, file: str) -> str | None:
        """Returns the text of a file of a version, if it has it."""
        ...

    def remove_weights(self, names: Sequence[str]) -> None:
        """Removes the files of versions, all but what tells what they are and what they consumed."""
        ...

    def add_evaluation(self, name: str, text: str) -> None:
        """Puts a text beside a version, after those that are there."""
        ...

    def evaluations(self, name: str) -> list[str]:
        """Returns the texts beside a version, oldest first."""
        ...
