"""Where the policies that are served come from: the registry, or one model that a user points at."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from ..config import ConfigError
from ..registry import ModelRegistry
from ..types import ModelRole, utcnow
from .engine import ServedVersion

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class PolicySource(Protocol):
    """Names the policy versions that can be served and finds their weights. Loads nothing."""

    def versions(self) -> list[ServedVersion]:
        """Returns every version, oldest first."""
        ...

    def live(self) -> str | None:
        """Returns the version in service, if there is one."""
        ...

    def locate(self, version: str) -> str | Path:
        """Returns what `from_pretrained` loads the version from, once its files are known to be whole."""
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
        return [
            ServedVersion(version.name, version.created_at) for version in self.registry.versions(ModelRole.POLICY)
        ]

    def live(self) -> str | None:
        version = self.registry.live(ModelRole.POLICY)
        return None if version is None else version.name

    def locate(self, version: str) -> Path:
        self.registry.verify(version)
        return self.registry.path(version)


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

    def locate(self, version: str) -> str:
        return self._model


def _check_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"the policy {folder} is not a model folder: it has no config.json")


def _check_hub_id(model: str) -> None:
    # A path whose first folder exists was meant as a path, even where it looks like owner/name.
    is_path = not _HUB_ID.fullmatch(model) or ("/" in model and Path(model).parent.exists())
    if is_path:
        raise ConfigError(f"the policy {model} does not exist; pass a model folder or a hub id such as `owner/name`")
