"""What changes in a registry: `live.json`. It is replaced whole, and never edited."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from ..types import ModelRole, Promotion, VersionStatus, utcnow


class RegistryError(RuntimeError):
    """A version cannot be found, published, verified or put into service; the message names it and the reason."""


@dataclass
class RegistryState:
    """
    Which versions are in service, and what became of the others.

    Args:
        live (`dict[ModelRole, list[str]]`):
            The way to the version in service: the last one is live, the one before it is where a rollback goes.
        numbers (`dict[ModelRole, int]`):
            Largest number that was ever given to a version.
        settled (`dict[str, tuple[VersionStatus, str]]`):
            Status and reason of each version that is no mere candidate.
        promotions (`list[Promotion]`):
            Every change of the versions in service, oldest first.
    """

    live: dict[ModelRole, list[str]] = field(default_factory=lambda: {role: [] for role in ModelRole})
    numbers: dict[ModelRole, int] = field(default_factory=lambda: dict.fromkeys(ModelRole, 0))
    settled: dict[str, tuple[VersionStatus, str]] = field(default_factory=dict)
    promotions: list[Promotion] = field(default_factory=list)

    def standing(self, name: str) -> tuple[VersionStatus, str]:
        """Returns the status of a version and the reason for it."""
        return self.settled.get(name, (VersionStatus.CANDIDATE, ""))

    def put_into_service(self, name: str, reason: str) -> None:
        """Makes a version live and retires the one before. One that was live earlier goes back to its place."""
        line = self.live[role_of(name)]
        former = line[-1] if line else None
        if former is not None:
            self.settled[former] = (VersionStatus.RETIRED, f"replaced by {name}")
        if name in line:
            del line[line.index(name) :]
        line.append(name)
        self.settled[name] = (VersionStatus.LIVE, reason)
        self.promotions.append(Promotion(version=name, replaced=former, reason=reason, at=utcnow()))

    def replace(self, path: Path) -> None:
        """Writes the state to a file that readers may have open. Only one process at a time may do so."""
        draft = path.with_name(f".{path.name}")
        write_durably(draft, self._dump())
        draft.replace(path)
        sync(path.parent)

    def _dump(self) -> str:
        content = {
            "live": {role.value: line for role, line in self.live.items()},
            "numbers": {role.value: number for role, number in self.numbers.items()},
            "settled": {name: {"status": status.value, "reason": why} for name, (status, why) in self.settled.items()},
            "promotions": [{**asdict(promotion), "at": promotion.at.isoformat()} for promotion in self.promotions],
        }
        return json.dumps(content, indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, path: Path) -> RegistryState:
        """Returns the state in a file, or that of an empty registry if there is no file yet."""
        try:
            return cls._load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{path} is damaged ({error!r}); put back a copy of it") from error

    @classmethod
    def _load(cls, text: str) -> RegistryState:
        content = json.loads(text)
        return cls(
            live={role: content["live"][role.value] for role in ModelRole},
            numbers={role: content["numbers"][role.value] for role in ModelRole},
            settled={name: (VersionStatus(row["status"]), row["reason"]) for name, row in content["settled"].items()},
            promotions=[
                Promotion(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in content["promotions"]
            ],
        )


def role_of(name: str) -> ModelRole:
    """Returns the role that a version's name begins with."""
    return ModelRole(name.partition("-")[0])


def write_durably(path: Path, text: str) -> None:
    """Writes a text file that survives a power cut."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def sync(path: Path) -> None:
    """Forces the contents of a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
