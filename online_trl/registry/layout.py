"""Where things are in a registry, whatever it is stored on, and how they are brought to a disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..types import ModelRole

STATE = "live.json"
MANIFEST = "version.json"
CONSUMED = "consumed.json"

_FOLDERS = {ModelRole.POLICY: "policies", ModelRole.REWARD: "rewards"}
_NAME = re.compile(r"(policy|reward)-(\d{4,})")


def is_name(text: str) -> bool:
    """Returns whether this could be the name of a version."""
    return _NAME.fullmatch(text) is not None


def role_of(name: str) -> ModelRole:
    """Returns the role that a version's name begins with."""
    return ModelRole(name.partition("-")[0])


def number_of(name: str) -> int:
    """Returns the number that a version's name ends with."""
    return int(name.rpartition("-")[2])


def role_folder(role: ModelRole) -> str:
    """Returns where the versions of a role are, relative to the registry."""
    return _FOLDERS[role]


def version_folder(name: str) -> str:
    """Returns where the files of a version are, relative to the registry."""
    return f"{_FOLDERS[role_of(name)]}/{name}"


def evaluations_folder(name: str) -> str:
    """Returns where the evaluations of a version are, relative to the registry."""
    return f"evaluations/{name}"


def write_durably(path: Path, text: str) -> None:
    """Writes a text file that survives a power cut."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def replace_durably(path: Path, text: str) -> None:
    """Writes a text file that readers see whole, before or after. Only one process at a time may do so in a folder."""
    draft = path.with_name(".draft")
    write_durably(draft, text)
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Forces the contents of a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
