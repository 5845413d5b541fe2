"""A server that runs as a process of its own, for the tests that talk to one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from online_trl.registry import ModelRegistry, copy_model
from online_trl.serving.process import ServerProcess
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole


@dataclass(frozen=True)
class Deployment:
    """A running server, what it stands on, and clients that talk to it."""

    registry: ModelRegistry
    store: FeedbackStore
    server: ServerProcess
    http: httpx.Client
    openai: openai.OpenAI


@contextmanager
def deployed(folder: Path, policy_folders: list[Path], **settings: Any) -> Iterator[Deployment]:
    """Publishes the policies, the first one live, and serves them from a process of its own."""
    registry = ModelRegistry(folder / "registry")
    for policy_folder in policy_folders:
        registry.publish(ModelRole.POLICY, copy_model(policy_folder))
    registry.promote("policy-0001", "the first one")
    store_url = f"sqlite:///{folder}/feedback.db"
    # What a visitor of the page gets is not left to chance.
    settings = {"comparison_strategy": "off"} | settings
    with ExitStack() as stack:
        server = stack.enter_context(
            ServerProcess(
                store_url=store_url, registry_root=registry.location, log=folder / "server.log", settings=settings
            )
        )
        yield Deployment(
            registry=registry,
            store=stack.enter_context(FeedbackStore(store_url)),
            server=server,
            http=stack.enter_context(httpx.Client(base_url=server.url, timeout=60)),
            openai=stack.enter_context(
                openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60)
            ),
        )
