"""
A registry in a model repository of the Hugging Face Hub: many machines read it, and change it.

Every write is one commit, so it is there whole or not at all, and names the commit that it goes on from: if another
writer was first, the Hub refuses it and it is made anew from what is there now. Files are read at one commit, through
the cache of `huggingface_hub`.
"""

from __future__ import annotations

import contextlib
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

# Which HTTP client it stands on differs between its releases, and with it what a broken connection raises.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from ..types import ModelRole, ModelVersion, new_id
from .errors import RegistryError
from .layout import (
    CONSUMED,
    MANIFEST,
    STATE,
    evaluations_folder,
    is_name,
    number_of,
    role_folder,
    role_of,
    version_folder,
)
from .state import RegistryState
from .storage import T
from .versions import files_of, load_manifest, write_manifest

SCHEME = "hf://"
HEAD_SECONDS = 2.0
"""How long a look at the repository is good for. Servers look all the time, and the Hub counts requests."""

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ATTEMPTS = 20
_CONNECTIONS = 8
_MOVED_ON = 412

Operation = CommitOperationAdd | CommitOperationDelete


class HubStorage:
    """
    Stores a registry in a repository of the Hub.

    Args:
        repo_id (`str`):
            The repository, `owner/name`; made, private, when something is first written.
        api (`HfApi`, *optional*):
            Client of the Hub. Defaults to the one that `HF_ENDPOINT` and `HF_TOKEN` describe.
    """

    def __init__(self, repo_id: str, api: HfApi | None = None) -> None:
        if not _REPO_ID.fullmatch(repo_id):
            raise RegistryError(f"{SCHEME}{repo_id} is no repository of the Hub; write {SCHEME}owner/name")
        self._repo_id = repo_id
        self._api = api or HfApi()
        self._head: tuple[float, str | None] = (-HEAD_SECONDS, None)
        self._listing: tuple[str | None, list[str]] = (None, [])
        self._texts: dict[str, str] = {}

    @property
    def location(self) -> str:
        return f"{SCHEME}{self._repo_id}"

    def names(self, role: ModelRole) -> list[str]:
        return self._names(role, self._commit())

    def exists(self, name: str) -> bool:
        manifest = f"{version_folder(name)}/{MANIFEST}"
        # What another machine has just published may be newer than the last look.
        return manifest in self._files(self._commit()) or manifest in self._files(self._commit(anew=True))

    def manifest(self, name: str) -> ModelVersion:
        path = f"{version_folder(name)}/{MANIFEST}"
        commit = self._commit()
        if path not in self._texts:
            self._fetch([each for each in self._files(commit) if each.endswith(f"/{MANIFEST}")], commit)
        if path not in self._texts:
            raise RegistryError(f"{self.location}/{path} is not there")
        return load_manifest(self._texts[path], where=f"{self.location}/{path}")

    def state(self) -> RegistryState:
        return self._state(self._commit())

    def change(self, apply: Callable[[RegistryState], T]) -> T:
        def prepare(commit: str | None) -> tuple[list[Operation], T]:
            state = self._state(commit)
            before = state.dump()
            result = apply(state)
            return ([_add(STATE, state.dump())] if state.dump() != before else []), result

        return self._write("Change the state", prepare)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def place(self, folder: Path, draft: ModelVersion) -> ModelVersion:
        def prepare(commit: str | None) -> tuple[list[Operation], ModelVersion]:
            state = self._state(commit)
            version = replace(draft, name=state.take_name(draft.role, self._names(draft.role, commit)))
            write_manifest(folder, version)
            target = version_folder(version.name)
            additions = [_add(f"{target}/{path}", folder / path) for path in files_of(folder)]
            return [*additions, _add(STATE, state.dump())], version

        return self._write(f"Publish a {draft.role.value}", prepare)

    def folder(self, name: str) -> Path:
        folder = version_folder(name)
        with self._errors_named():
            snapshot = self._api.snapshot_download(
                self._repo_id, revision=self._commit(), allow_patterns=f"{folder}/*"
            )
        return Path(snapshot) / folder

    def text(self, name: str, file: str) -> str | None:
        path, commit = f"{version_folder(name)}/{file}", self._commit()
        self._fetch([path] if path in self._files(commit) else [], commit)
        return self._texts.get(path)

    def remove_weights(self, names: Sequence[str]) -> None:
        """Removes files from the newest commit; the Hub keeps them in the history until that is squashed."""
        folders = tuple(f"{version_folder(name)}/" for name in names)

        def prepare(commit: str | None) -> tuple[list[Operation], None]:
            files = [path for path in self._files(commit) if path.startswith(folders)]
            weights = [path for path in files if not path.endswith((f"/{MANIFEST}", f"/{CONSUMED}"))]
            return [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in weights], None

        self._write("Prune", prepare)

    def add_evaluation(self, name: str, text: str) -> None:
        path = f"{evaluations_folder(name)}/{new_id()}.json"
        self._write(f"Evaluate {name}", lambda commit: ([_add(path, text)], None))

    def evaluations(self, name: str) -> list[str]:
        commit, folder = self._commit(), f"{evaluations_folder(name)}/"
        paths = sorted(path for path in self._files(commit) if path.startswith(folder))
        self._fetch(paths, commit)
        return [self._texts[path] for path in paths]

    def _commit(self, *, anew: bool = False) -> str | None:
        """Returns the newest commit, as of a moment ago or of now; `None` if there is no repository."""
        seen, commit = self._head
        if not anew and time.monotonic() - seen < HEAD_SECONDS:
            return commit
        with self._errors_named():
            try:
                commit = self._api.repo_info(self._repo_id).sha
            except RepositoryNotFoundError:
                commit = None
        self._head = (time.monotonic(), commit)
        return commit

    def _write(self, message: str, prepare: Callable[[str | None], tuple[list[Operation], T]]) -> T:
        """Commits what `prepare` makes of the newest commit, as often as it takes to be the first after it."""
        for attempt in range(_ATTEMPTS):
            commit = self._commit(anew=True)
            operations, result = prepare(commit)
            if not operations:
                return result
            if commit is None:
                self._create()
            elif self._push(message, operations, parent=commit):
                return result
            time.sleep(random.uniform(0, 0.1 * (attempt + 1)))
        raise RegistryError(f"{self.location} changes faster than it can be written to; try again")

    def _push(self, message: str, operations: list[Operation], *, parent: str) -> bool:
        """Returns whether the commit went through; it does not if somebody else's was first."""
        with self._errors_named():
            try:
                made = self._api.create_commit(self._repo_id, operations, commit_message=message, parent_commit=parent)
            except HfHubHTTPError as error:
                if error.response is not None and error.response.status_code == _MOVED_ON:
                    return False
                raise
        self._head = (time.monotonic(), made.oid)
        return True

    def _create(self) -> None:
        with self._errors_named():
            self._api.create_repo(self._repo_id, private=True, exist_ok=True)

    def _files(self, commit: str | None) -> list[str]:
        if commit is None:
            return []
        known, files = self._listing
        if known != commit:
            with self._errors_named():
                tree = self._api.list_repo_tree(self._repo_id, recursive=True, revision=commit)
                files = [entry.path for entry in tree if isinstance(entry, RepoFile)]
            self._listing = (commit, files)
        return files

    def _names(self, role: ModelRole, commit: str | None) -> list[str]:
        begin, end = f"{role_folder(role)}/", f"/{MANIFEST}"
        found = [
            path[len(begin) : -len(end)]
            for path in self._files(commit)
            if path.startswith(begin) and path.endswith(end)
        ]
        return sorted((name for name in found if is_name(name) and role_of(name) is role), key=number_of)

    def _state(self, commit: str | None) -> RegistryState:
        if commit is None or STATE not in self._files(commit):
            return RegistryState()
        return RegistryState.load(self._read(STATE, commit), where=f"{self.location}/{STATE}")

    def _fetch(self, paths: Sequence[str], commit: str | None) -> None:
        """Reads small files that never change, each once."""
        missing = [path for path in paths if path not in self._texts]
        if missing:
            with ThreadPoolExecutor(_CONNECTIONS) as threads:
                texts = list(threads.map(lambda path: self._read(path, commit), missing))
            self._texts |= dict(zip(missing, texts, strict=True))

    def _read(self, path: str, commit: str | None) -> str:
        with self._errors_named():
            return Path(self._api.hf_hub_download(self._repo_id, path, revision=commit)).read_text(encoding="utf-8")

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPError) as error:
            raise RegistryError(f"{self.location} cannot be reached: {error}") from error


def _add(path: str, content: str | Path) -> CommitOperationAdd:
    return CommitOperationAdd(path, content.encode() if isinstance(content, str) else content)
