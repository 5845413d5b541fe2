"""
A registry in a local folder: many processes read it, and one at a time changes it.

A version appears by one rename of a finished folder, and files that change are replaced by a rename, so a reader in
any process sees what was before a change or after it. Writers take turns on a file lock; readers need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..types import ModelRole, ModelVersion, new_id
from .errors import REMEDY, RegistryError
from .layout import (
    CONSUMED,
    MANIFEST,
    STATE,
    evaluations_folder,
    is_name,
    number_of,
    replace_durably,
    role_folder,
    sync,
    version_folder,
)
from .state import RegistryState
from .storage import T
from .versions import files_of, load_manifest, write_manifest


class FolderStorage:
    """
    Stores a registry in a folder.

    Args:
        root (`Path`):
            The folder; made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        return str(self._root)

    def names(self, role: ModelRole) -> list[str]:
        folder = self._root / role_folder(role)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(filter(is_name, names), key=number_of)

    def exists(self, name: str) -> bool:
        return (self.folder(name) / MANIFEST).is_file()

    def manifest(self, name: str) -> ModelVersion:
        path = self.folder(name) / MANIFEST
        try:
            return load_manifest(path.read_text(encoding="utf-8"), where=str(path))
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error}; {REMEDY}") from error

    def state(self) -> RegistryState:
        path = self._root / STATE
        try:
            return RegistryState.load(path.read_text(encoding="utf-8"), where=str(path))
        except FileNotFoundError:
            return RegistryState()

    def change(self, apply: Callable[[RegistryState], T]) -> T:
        with self._locked():
            state = self.state()
            result = apply(state)
            replace_durably(self._root / STATE, state.dump())
        return result

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder on the registry's file system, locked for as long as its publisher lives."""
        folder = self._root / ".staging" / new_id()
        with self._locked():
            folder.parent.mkdir(exist_ok=True)
            _remove_abandoned(folder.parent)
            folder.mkdir()
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            with self._locked():
                if folder.exists():
                    shutil.rmtree(folder)
            os.close(descriptor)

    def place(self, folder: Path, draft: ModelVersion) -> ModelVersion:
        with self._locked():
            state = self.state()
            version = replace(draft, name=state.take_name(draft.role, self.names(draft.role)))
            replace_durably(self._root / STATE, state.dump())
            write_manifest(folder, version)
            target = self.folder(version.name)
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)
            sync(target.parent)
            sync(self._root)
        return version

    def folder(self, name: str) -> Path:
        return self._root / version_folder(name)

    def text(self, name: str, file: str) -> str | None:
        path = self.folder(name) / file
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def remove_weights(self, names: Sequence[str]) -> None:
        with self._locked():
            for folder in map(self.folder, names):
                for path in files_of(folder):
                    if path not in (MANIFEST, CONSUMED):
                        (folder / path).unlink()

    def add_evaluation(self, name: str, text: str) -> None:
        folder = self._root / evaluations_folder(name)
        with self._locked():
            folder.mkdir(parents=True, exist_ok=True)
            replace_durably(folder / f"{new_id()}.json", text)
            sync(folder.parent)
            sync(self._root)

    def evaluations(self, name: str) -> list[str]:
        return [path.read_text("utf-8") for path in sorted((self._root / evaluations_folder(name)).glob("[!.]*.json"))]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with open(self._root / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _remove_abandoned(staging: Path) -> None:
    """Removes the folders of publishers that died: a lock ends with its process."""
    for folder in staging.iterdir():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)
