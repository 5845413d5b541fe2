"""The registry itself: a folder that many processes read and that one at a time changes."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..types import ModelRole, ModelVersion, Promotion, VersionStatus, new_id, utcnow
from .consumed import Consumed
from .state import RegistryError, RegistryState, role_of, sync
from .versions import MANIFEST, changed_files, plain, read_manifest, seal_files, write_manifest

_FOLDERS = {ModelRole.POLICY: "policies", ModelRole.REWARD: "rewards"}
_NAME = re.compile(r"(policy|reward)-(\d{4,})")


class ModelRegistry:
    """
    Versioned policies and reward models in a local folder.

    Args:
        root (`str` or `Path`):
            The folder; made when the first version is published.

    Example:

    ```python
    registry = ModelRegistry("registry")
    version = registry.publish(ModelRole.POLICY, model.save_pretrained, metrics={"kl": 3.2})
    registry.promote(version.name, "preferred in 64 % of 120 comparisons")
    model = AutoModelForCausalLM.from_pretrained(registry.path(version.name))
    ```
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def publish(
        self,
        role: ModelRole,
        write: Callable[[Path], Any],
        *,
        parent: str | None = None,
        feedback_interval: tuple[int, int] | None = None,
        prompt_interval: tuple[int, int] | None = None,
        reward_versions: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """
        Adds a version. It is complete and durable when it appears; a publisher that dies leaves no version behind.

        Args:
            role ([`~online_trl.types.ModelRole`]):
                What the version is for.
            write (`Callable[[Path], Any]`):
                Called with an empty folder to put the files in, such as `model.save_pretrained`.
            parent (`str`, *optional*):
                Version that it was trained from.
            feedback_interval (`tuple[int, int]`, *optional*):
                Half-open interval `(after, upto]` of `seq` whose feedback it learned from.
            prompt_interval (`tuple[int, int]`, *optional*):
                Half-open interval `(after, upto]` of `seq` whose prompts it was trained on.
            reward_versions (`Sequence[str]`, *optional*):
                Reward versions that paid it, in order.
            metrics (`Mapping[str, float]`, *optional*):
                What was measured. A value that is not finite was not measured and is left out.
            config (`Mapping[str, Any]`, *optional*):
                Settings that made it, as plain values.

        Returns:
            [`~online_trl.types.ModelVersion`]: The version, a candidate.

        Raises:
            [`RegistryError`]: if `write` leaves no file, a symbolic link or a `version.json`, or if JSON cannot hold
                `config`.
        """
        draft = ModelVersion(
            name="",
            role=role,
            created_at=utcnow(),
            parent=parent,
            feedback_interval=feedback_interval,
            prompt_interval=prompt_interval,
            reward_versions=tuple(reward_versions),
            metrics={name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
            config=plain(config or {}),
        )
        with self._staging() as folder:
            write(folder)
            draft = replace(draft, checksums=seal_files(folder))
            with self._locked():
                version = replace(draft, name=self._take_name(role))
                write_manifest(folder, version)
                self._place(folder, self._folder(version.name))
        return version

    def versions(self, role: ModelRole) -> list[ModelVersion]:
        """Returns all versions of a role, oldest first."""
        state = self._state()
        return [self._read(name, state) for name in self._names(role)]

    def get(self, name: str) -> ModelVersion:
        """
        Returns a version by its name.

        Raises:
            [`RegistryError`]: if there is none of that name.
        """
        self._check_exists(name)
        return self._read(name, self._state())

    def path(self, name: str) -> Path:
        """
        Returns the folder of a version, to be passed to `from_pretrained`.

        Raises:
            [`RegistryError`]: if there is none of that name.
        """
        self._check_exists(name)
        return self._folder(name)

    def consumed(self, name: str) -> Consumed:
        """
        Returns what a version was trained and judged on, as far as its publisher recorded it.

        Raises:
            [`RegistryError`]: if there is none of that name, or the record is damaged.
        """
        return Consumed.read(self.path(name))

    def verify(self, name: str) -> None:
        """
        Compares the files of a version with the checksums taken when it was published.

        Raises:
            [`RegistryError`]: if a file was changed, removed or added; the message names each.
        """
        problems = changed_files(self.path(name), self.get(name).checksums)
        if problems:
            raise RegistryError(f"the files of {name} are not as they were published: {', '.join(problems)}")

    def live(self, role: ModelRole) -> ModelVersion | None:
        """Returns the version in service, or `None` before the first promotion."""
        state = self._state()
        return self._read(state.live[role][-1], state) if state.live[role] else None

    def history(self, role: ModelRole) -> list[Promotion]:
        """Returns every change of the version in service, oldest first."""
        return [promotion for promotion in self._state().promotions if role_of(promotion.version) is role]

    def promote(self, name: str, reason: str) -> ModelVersion:
        """
        Puts a version into service and retires the one that was live. A version that was live before may come back; a
        [`rollback`] after that goes to the one that preceded it. Nothing changes if it is live already.

        Args:
            name (`str`):
                A candidate or a retired version.
            reason (`str`):
                Why, in words.

        Raises:
            [`RegistryError`]: if there is no such version, or if it was refused.
        """
        with self._changing(name) as state:
            status, why = state.standing(name)
            if status is VersionStatus.REFUSED:
                raise RegistryError(f"{name} was refused and cannot go into service: {why}")
            if status is not VersionStatus.LIVE:
                state.put_into_service(name, reason)
        return self.get(name)

    def refuse(self, name: str, reason: str) -> ModelVersion:
        """
        Marks a candidate as one that will not go into service. Nothing changes if it was refused already.

        Args:
            name (`str`):
                A candidate.
            reason (`str`):
                Why, in words.

        Raises:
            [`RegistryError`]: if there is no such version, or if it is live or retired.
        """
        with self._changing(name) as state:
            status, _ = state.standing(name)
            if status in (VersionStatus.LIVE, VersionStatus.RETIRED):
                raise RegistryError(f"{name} is {status.value}; only a candidate can be refused")
            if status is VersionStatus.CANDIDATE:
                state.settled[name] = (VersionStatus.REFUSED, reason)
        return self.get(name)

    def abandon(self, name: str, reason: str) -> ModelVersion:
        """
        Sets a version aside without putting another one into service, such as one left behind by a run that was
        resumed from before it. A [`rollback`] does not return to it.

        Args:
            name (`str`):
                A version that is not live.
            reason (`str`):
                Why, in words.

        Raises:
            [`RegistryError`]: if there is no such version, or if it is live.
        """
        with self._changing(name) as state:
            if state.standing(name)[0] is VersionStatus.LIVE:
                raise RegistryError(f"{name} is live; promote another version or roll back before abandoning it")
            state.settled[name] = (VersionStatus.ABANDONED, reason)
            line = state.live[role_of(name)]
            line[:] = [other for other in line if other != name]
        return self.get(name)

    def rollback(self, role: ModelRole, reason: str) -> ModelVersion:
        """
        Puts the version that was live before the present one back into service.

        Args:
            role ([`~online_trl.types.ModelRole`]):
                Whose version.
            reason (`str`):
                Why, in words.

        Raises:
            [`RegistryError`]: if there is no earlier version to go back to.
        """
        with self._changing() as state:
            line = state.live[role]
            if len(line) < 2:
                present = f"no version was live before {line[-1]}" if line else f"no {role.value} version is live"
                raise RegistryError(f"nothing to roll back to: {present}")
            name = line[-2]
            state.put_into_service(name, reason)
        return self.get(name)

    def _folder(self, name: str) -> Path:
        return self.root / _FOLDERS[role_of(name)] / name

    def _names(self, role: ModelRole) -> list[str]:
        folder = self.root / _FOLDERS[role]
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted((name for name in names if _NAME.fullmatch(name)), key=_number)

    def _check_exists(self, name: str) -> None:
        if _NAME.fullmatch(name) and (self._folder(name) / MANIFEST).is_file():
            return
        names = [known for role in ModelRole for known in self._names(role)]
        near = difflib.get_close_matches(name, names) or names
        hint = f"there is {', '.join(near)}" if near else "it is empty"
        raise RegistryError(f"the registry {self.root} has no version `{name}`; {hint}")

    def _state(self) -> RegistryState:
        return RegistryState.read(self.root / "live.json")

    def _read(self, name: str, state: RegistryState) -> ModelVersion:
        status, reason = state.standing(name)
        return replace(read_manifest(self._folder(name)), status=status, reason=reason)

    def _take_name(self, role: ModelRole) -> str:
        """Counts on from the largest number ever taken, so that the name of a deleted version does not come back."""
        state = self._state()
        state.numbers[role] = 1 + max([state.numbers[role], *map(_number, self._names(role))])
        state.replace(self.root / "live.json")
        return f"{role.value}-{state.numbers[role]:04d}"

    def _place(self, folder: Path, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        sync(target.parent)
        sync(self.root)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _changing(self, name: str | None = None) -> Iterator[RegistryState]:
        if name is not None:
            self._check_exists(name)
        with self._locked():
            state = self._state()
            yield state
            state.replace(self.root / "live.json")

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """An empty folder on the registry's file system, locked for as long as its publisher lives."""
        folder = self.root / ".staging" / new_id()
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


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


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
