"""The registry itself: what can be done with versions, wherever they are stored."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..types import Canary, EvaluationRecord, ModelRole, ModelVersion, Promotion, utcnow
from .consumed import Consumed
from .errors import REMEDY, RegistryError
from .folder import FolderStorage
from .layout import CONSUMED, is_name, role_of
from .state import RegistryState
from .storage import Storage
from .versions import changed_files, plain, seal_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")


class ModelRegistry:
    """
    Versioned policies and reward models, in a local folder or in a repository of the Hugging Face Hub.

    Args:
        location (`str` or `Path`):
            A folder, or `hf://owner/name`; made when the first version is published, the repository as a private one.
        hub (`HfApi`, *optional*):
            Client of the Hub. Defaults to the one that the variables `HF_ENDPOINT` and `HF_TOKEN` describe.

    Example:

    ```python
    registry = ModelRegistry("registry")
    version = registry.publish(ModelRole.POLICY, model.save_pretrained, metrics={"kl": 3.2})
    registry.promote(version.name, "preferred in 64 % of 120 comparisons")
    model = AutoModelForCausalLM.from_pretrained(registry.path(version.name))
    ```
    """

    def __init__(self, location: str | Path, *, hub: HfApi | None = None) -> None:
        self._storage = _open_storage(location, hub)

    @property
    def location(self) -> str:
        """Where the registry is, as it was named."""
        return self._storage.location

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
            config=plain("config", config or {}),
        )
        with self._storage.staging() as folder:
            write(folder)
            return self._storage.place(folder, replace(draft, checksums=seal_files(folder)))

    def versions(self, role: ModelRole) -> list[ModelVersion]:
        """Returns all versions of a role, oldest first."""
        state = self._storage.state()
        return [self._read(name, state) for name in self._storage.names(role)]

    def get(self, name: str) -> ModelVersion:
        """
        Returns a version by its name.

        Raises:
            [`RegistryError`]: if there is none of that name.
        """
        self._check_exists(name)
        return self._read(name, self._storage.state())

    def path(self, name: str) -> Path:
        """
        Returns the folder of a version, to be passed to `from_pretrained`, once its files are known to be whole.

        Raises:
            [`RegistryError`]: if there is none of that name, if a file was changed, removed or added since it was
                published (the message names each), or if its weights were pruned.
        """
        version = self.get(name)
        self._storage.state().check_has_weights(name)
        folder = self._storage.folder(name)
        problems = changed_files(folder, version.checksums)
        if problems:
            raise RegistryError(
                f"the files of {name} in {folder} are not as they were published: {', '.join(problems)}; {REMEDY}"
            )
        return folder

    def verify(self, name: str) -> None:
        """
        Compares the files of a version with the checksums taken when it was published.

        Raises:
            [`RegistryError`]: as [`path`] does.
        """
        self.path(name)

    def consumed(self, name: str) -> Consumed:
        """
        Returns what a version was trained and judged on, as far as its publisher recorded it.

        Raises:
            [`RegistryError`]: if there is none of that name, or the record is damaged.
        """
        self._check_exists(name)
        text = self._storage.text(name, CONSUMED)
        return Consumed() if text is None else Consumed.load(text, where=f"the {CONSUMED} of {name}")

    def record_evaluation(self, name: str, record: EvaluationRecord) -> None:
        """
        Adds what was measured of a version to what is known of it. Nothing that is there is changed.

        Args:
            name (`str`):
                A version.
            record ([`~online_trl.types.EvaluationRecord`]):
                What was measured.

        Raises:
            [`RegistryError`]: if there is no such version, or if JSON cannot hold the figures.
        """
        self._check_exists(name)
        content = asdict(record) | {"figures": plain("figures", record.figures), "at": record.at.isoformat()}
        self._storage.add_evaluation(name, json.dumps(content, indent=2, ensure_ascii=False))

    def evaluations(self, name: str) -> list[EvaluationRecord]:
        """
        Returns what was measured of a version since it was published, oldest first.

        Raises:
            [`RegistryError`]: if there is no such version, or if a record is damaged.
        """
        self._check_exists(name)
        return [_load_evaluation(name, text) for text in self._storage.evaluations(name)]

    def live(self, role: ModelRole) -> ModelVersion | None:
        """Returns the version in service, or `None` before the first promotion."""
        state = self._storage.state()
        return self._read(state.live[role][-1], state) if state.live[role] else None

    def line(self, role: ModelRole) -> list[str]:
        """
        Returns the way to the version in service: the last one is live, and each one is where a rollback of the next
        goes. A version that was taken back is not on it.
        """
        return self._storage.state().live[role]

    def history(self, role: ModelRole) -> list[Promotion]:
        """Returns every change of the version in service, oldest first."""
        return [promotion for promotion in self._storage.state().promotions if role_of(promotion.version) is role]

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
        return self._change(name, lambda state: state.promote(name, reason))

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
        return self._change(name, lambda state: state.refuse(name, reason))

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
        return self._change(name, lambda state: state.abandon(name, reason))

    def rollback(self, role: ModelRole, reason: str, *, version: str | None = None) -> ModelVersion:
        """
        Puts the version that was live before the present one back into service.

        Args:
            role ([`~online_trl.types.ModelRole`]):
                Whose version.
            reason (`str`):
                Why, in words.
            version (`str`, *optional*):
                The version to take out of service. Without it, whichever is live.

        Raises:
            [`RegistryError`]: if there is no earlier version to go back to, or if `version` is not live.
        """
        return self.get(self._storage.change(lambda state: state.rollback(role, reason, version=version)))

    def canary(self) -> Canary | None:
        """Returns the canary that runs, if there is one."""
        return self._storage.state().canary

    def canaries(self) -> list[Canary]:
        """Returns every canary, oldest first."""
        return self._storage.state().canaries

    def start_canary(self, name: str, share: float) -> Canary:
        """
        Begins to answer a share of the users with a candidate, on every server that follows the registry. It ends with
        [`end_canary`], and whenever the candidate is promoted or refused or another policy goes into service.

        Args:
            name (`str`):
                A policy that is a candidate.
            share (`float`):
                Share of the users, between 0 and 1.

        Raises:
            [`RegistryError`]: if there is no such candidate, if no policy is live, or if another canary is running.
        """
        self._check_exists(name)
        return self._storage.change(lambda state: state.start_canary(name, share))

    def end_canary(self, name: str, reason: str, *, promote: bool) -> Canary:
        """
        Ends a canary: its candidate goes into service, or is refused.

        Args:
            name (`str`):
                The candidate, so that the decision on one canary cannot end another.
            reason (`str`):
                Why, in words.
            promote (`bool`):
                Whether it goes into service.

        Raises:
            [`RegistryError`]: if no canary of this version is running.
        """
        return self._storage.change(lambda state: state.end_canary(name, reason, promote=promote))

    def prune(self, role: ModelRole, *, keep: int, older_than: timedelta | None = None) -> list[str]:
        """
        Removes the weights of old versions. What is known of them stays, so that the lineage of later ones can be
        told. Never removed are the version in service, the one that a rollback goes to, the candidate of a canary, and
        the first policy, which all others are compared with.

        Args:
            role ([`~online_trl.types.ModelRole`]):
                Whose versions.
            keep (`int`):
                How many of the newest to keep.
            older_than (`timedelta`, *optional*):
                Keeps those that were published since.

        Returns:
            `list[str]`: The versions whose weights were removed now.
        """
        versions = self.versions(role)
        since = utcnow() - (older_than or timedelta())
        old = [version for version in versions[: max(0, len(versions) - keep)] if version.created_at <= since]
        base = {version.name for version in versions[:1] if role is ModelRole.POLICY}

        def mark(state: RegistryState) -> list[str]:
            kept = state.needed(role) | base | state.pruned.keys()
            names = [version.name for version in old if version.name not in kept]
            state.prune(names)
            return names

        names = self._storage.change(mark)
        # A process that died after marking left weights behind that nobody can load.
        self._storage.remove_weights([name for name in self._storage.state().pruned if role_of(name) is role])
        return names

    def _check_exists(self, name: str) -> None:
        if is_name(name) and self._storage.exists(name):
            return
        names = [known for role in ModelRole for known in self._storage.names(role)]
        near = difflib.get_close_matches(name, names) or names
        hint = f"there is {', '.join(near)}" if near else "it is empty"
        raise RegistryError(f"the registry {self.location} has no version `{name}`; {hint}")

    def _read(self, name: str, state: RegistryState) -> ModelVersion:
        status, reason = state.standing(name)
        return replace(self._storage.manifest(name), status=status, reason=reason, pruned_at=state.pruned.get(name))

    def _change(self, name: str, apply: Callable[[RegistryState], None]) -> ModelVersion:
        self._check_exists(name)
        self._storage.change(apply)
        return self.get(name)


def _open_storage(location: str | Path, hub: HfApi | None) -> Storage:
    scheme, separator, rest = str(location).partition("://")
    if not separator:
        return FolderStorage(Path(location))
    if scheme != "hf":
        raise RegistryError(f"a registry is a folder or hf://owner/name, and {location} is neither")
    # Most registries are folders, which need no client of the Hub.
    from .hub import HubStorage

    return HubStorage(rest, hub)


def _load_evaluation(name: str, text: str) -> EvaluationRecord:
    try:
        content = json.loads(text)
        return EvaluationRecord(**content | {"at": datetime.fromisoformat(content["at"])})
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"an evaluation of {name} is damaged: {error!r}") from error
