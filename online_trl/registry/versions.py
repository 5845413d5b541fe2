"""What never changes in a registry: the folder of a version, its files, their checksums and `version.json`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ..types import ModelRole, ModelVersion
from .errors import RegistryError
from .layout import MANIFEST, sync, write_durably


def copy_model(source: str | Path) -> Callable[[Path], None]:
    """
    Returns a `write` for [`ModelRegistry.publish`] that copies a saved model, without what a trainer keeps beside it.

    Args:
        source (`str` or `Path`):
            Folder that a model was saved to.
    """
    kept_by_trainer = shutil.ignore_patterns("checkpoint-*", "runs", "completions", "training_args.bin")

    def write(target: Path) -> None:
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=kept_by_trainer)

    return write


def plain(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as a dictionary, or raises a [`RegistryError`] that names the one that JSON cannot hold."""
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RegistryError(f"`{what}` holds {key}={value!r}, which cannot be kept as JSON: {error}") from error
    return dict(values)


def seal_files(folder: Path) -> dict[str, str]:
    """Brings the files of a new version to the disk and returns their checksums, by relative path."""
    files = files_of(folder)
    if not files:
        raise RegistryError("`write` put no file into the folder of the new version; nothing was published")
    if (folder / MANIFEST).exists():
        raise RegistryError(f"`write` made a `{MANIFEST}`, which is the registry's own file; give it another name")
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise RegistryError(f"`write` made a symbolic link, `{path.name}`; copy the file, a version keeps its own")
        sync(path)
    return {path: file_sha256(folder / path) for path in files}


def changed_files(folder: Path, checksums: Mapping[str, str]) -> list[str]:
    """Returns one phrase for each file that is not as it was published."""
    found = {path: file_sha256(folder / path) for path in files_of(folder) if path != MANIFEST}
    return [
        *(f"`{path}` is missing" for path in sorted(checksums.keys() - found.keys())),
        *(f"`{path}` was added" for path in sorted(found.keys() - checksums.keys())),
        *(
            f"`{path}` was changed"
            for path in sorted(checksums)
            if found.get(path, checksums[path]) != checksums[path]
        ),
    ]


def write_manifest(folder: Path, version: ModelVersion) -> None:
    """Writes what is fixed at publication, and nothing of what becomes of a version."""
    content = asdict(version) | {"role": version.role.value, "created_at": version.created_at.isoformat()}
    del content["status"], content["reason"], content["pruned_at"]
    write_durably(folder / MANIFEST, json.dumps(content, indent=2, ensure_ascii=False))
    sync(folder)


def load_manifest(text: str, *, where: str) -> ModelVersion:
    """Returns a version as it was published."""
    try:
        return _load(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{where} cannot be read: {error!r}") from error


def _load(content: dict[str, Any]) -> ModelVersion:
    intervals = {name: content.get(name) for name in ("feedback_interval", "prompt_interval")}
    restored = {
        "role": ModelRole(content["role"]),
        "created_at": datetime.fromisoformat(content["created_at"]),
        **{name: None if interval is None else tuple(interval) for name, interval in intervals.items()},
        "reward_versions": tuple(content["reward_versions"]),
    }
    return ModelVersion(**content | restored)


def files_of(folder: Path) -> list[str]:
    """Returns the relative path of each file in a folder and below it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's contents."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
