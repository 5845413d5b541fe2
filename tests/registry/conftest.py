from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from online_trl.registry import ModelRegistry
from registry.fake_hub import FakeHub, serving

Opener = Callable[[], ModelRegistry]


@pytest.fixture(scope="session")
def hub_server() -> Iterator[tuple[FakeHub, str]]:
    hub = FakeHub()
    with serving(hub) as url:
        yield hub, url


@pytest.fixture
def hub(hub_server: tuple[FakeHub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """An empty Hub, with an empty cache on this machine, and another one for the processes that tests start."""
    hub, url = hub_server
    hub.repos.clear()
    hub.private.clear()
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, value in {
        "HF_ENDPOINT": url,
        "HF_HUB_CACHE": str(tmp_path / "hub-of-others"),
        "HF_TOKEN": "hf_x",
    }.items():
        monkeypatch.setitem(os.environ, name, value)
    return hub


@pytest.fixture
def open_on_hub(hub: FakeHub, hub_server: tuple[FakeHub, str]) -> Opener:
    """Opens the registry on the Hub anew, as another machine would."""
    return lambda: ModelRegistry("hf://ann/registry", hub=HfApi(endpoint=hub_server[1], token="hf_x"))


@pytest.fixture
def folder_registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")
