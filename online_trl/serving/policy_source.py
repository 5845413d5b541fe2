"""Where the policies that are served come from: the registry, or one model that a user points at."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from ..config import ConfigError
from ..registry import ModelRegistry
from ..registry.versions import file_sha256
from ..types import Canary, ModelRole, ModelVersion, VersionStatus, utcnow
from .engine import ServedVersion

# As `save_pretrained` names them, now and in earlier days.
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "adapter_model.*")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class PolicySource(Protocol):
    """Names the policy versions that can be served and finds their weights. Loads nothing."""

    def versions(self) -> list[ServedVersion]:
        """Returns every version, oldest first."""
        ...

    def live(self) -> str | None:
        """Returns the version in service, if there is one."""
        ...

    def canary(self) -> Canary | None:
        """Returns the canary that runs, if there is one."""
        ...

    def candidate(self) -> str | None:
        """Returns the newest version that no gate has decided on yet, if there is one."""
        ...

    def locate(self, version: str) -> str | Path:
        """Returns what `from_pretrained` loads the version from, once its files are known to be whole."""
        ...

    def weights_hash(self, version: str) -> str:
        """Returns a SHA-256 that identifies the weights of a version that has been loaded."""
        ...


class RegistryPolicies:
    """
    The policies of a registry; the live one is in service.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            The registry.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self.registry = registry

    def versions(self) -> list[ServedVersion]:
        line = self.registry.line(ModelRole.POLICY)
        return [
            ServedVersion(version.name, version.created_at, _was_withdrawn(version, line))
            for version in self.registry.versions(ModelRole.POLICY)
            if version.pruned_at is None
        ]

    def live(self) -> str | None:
        version = self.registry.live(ModelRole.POLICY)
        return None if version is None else version.name

    def canary(self) -> Canary | None:
        return self.registry.canary()

    def candidate(self) -> str | None:
        undecided = [
            version.name
            for version in self.registry.versions(ModelRole.POLICY)
            if version.status is VersionStatus.CANDIDATE and version.pruned_at is None
        ]
        return undecided[-1] if undecided else None

    def locate(self, version: str) -> Path:
        return self.registry.path(version)

    def weights_hash(self, version: str) -> str:
        return _weights_hash(self.registry.get(version).checksums)


class SinglePolicy:
    """
    One model, named after its folder or its hub id.

    Args:
        model (`str`):
            A folder with a model and its tokenizer, or a hub id.

    Raises:
        [`~online_trl.config.ConfigError`]: if it is neither.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        folder = Path(model).expanduser()
        if folder.exists():
            _check_model_folder(folder)
            self._name = folder.resolve().name
            self._created_at = datetime.fromtimestamp((folder / "config.json").stat().st_mtime, timezone.utc)
            self._model = str(folder)
        else:
            _check_hub_id(model)
            self._name, self._created_at = model, utcnow()

    def versions(self) -> list[ServedVersion]:
        return [ServedVersion(self._name, self._created_at)]

    def live(self) -> str:
        return self._name

    def canary(self) -> None:
        return None

    def candidate(self) -> None:
        return None

    def locate(self, version: str) -> str:
        return self._model

    def weights_hash(self, version: str) -> str:
        folder = Path(self._model)
        if not folder.is_dir():
            folder = _cached_folder(self._model)
        return _weights_hash({path.name: file_sha256(path) for path in folder.iterdir() if _holds_weights(path.name)})


def _was_withdrawn(version: ModelVersion, line: Collection[str]) -> bool:
    """Returns whether a version was decided against, or rolled back after it had been live."""
    return version.status is not VersionStatus.CANDIDATE and version.name not in line


def _weights_hash(checksums: Mapping[str, str]) -> str:
    weights = {name: checksum for name, checksum in checksums.items() if _holds_weights(name)}
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()


def _holds_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _WEIGHTS)


def _cached_folder(hub_id: str) -> Path:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json")
    assert isinstance(config, str), "a model that was loaded is in the cache"
    return Path(config).parent


def _check_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"the policy {folder} is not a model folder: it has no config.json")


def _check_hub_id(model: str) -> None:
    # A path whose first folder exists was meant as a path, even where it looks like owner/name.
    is_path = not _HUB_ID.fullmatch(model) or ("/" in model and Path(model).parent.exists())
    if is_path:
        raise ConfigError(f"the policy {model} does not exist; pass a model folder or a hub id such as `owner/name`")
