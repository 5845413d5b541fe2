"""Two servers that follow one registry: what is promoted, tried and taken back by hand is what both serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from online_trl.canary import assign
from online_trl.cli import main
from online_trl.registry import ModelRegistry, copy_model
from online_trl.serving.process import ServerProcess
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole

USERS = [f"user-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, policy_folders: list[Path]) -> ModelRegistry:
    registry = ModelRegistry(tmp_path_factory.mktemp("registry"))
    for folder in [*policy_folders, policy_folders[0]]:
        registry.publish(ModelRole.POLICY, copy_model(folder))
    registry.promote("policy-0001", "the first one")
    return registry


@pytest.fixture(scope="module")
def servers(registry: ModelRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, str]]]:
    """Address and log of each of two servers."""
    folder = tmp_path_factory.mktemp("servers")
    stores = [f"sqlite:///{folder}/feedback-{number}.db" for number in range(2)]
    processes = [
        ServerProcess(store_url=store, registry_root=registry.location, log=folder / f"server-{number}.log")
        for number, store in enumerate(stores)
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(ServerProcess.start, processes))
        yield [(process.url, store) for process, store in zip(processes, stores, strict=True)]
        list(threads.map(ServerProcess.stop, processes))


def answering(server: tuple[str, str], user: str | None, session: str | None = None) -> str:
    """Asks, and returns the version that answered, as the reply and the log have it."""
    url, store_url = server
    reply = httpx.post(
        f"{url}/v1/chat/completions",
        json={
            "model": "default",
            "messages": [{"role": "user", "content": "Which?"}],
            "max_tokens": 2,
            **({} if user is None else {"user": user}),
        },
        headers={} if session is None else {"X-Session-Id": session},
        timeout=60,
    ).raise_for_status()
    with FeedbackStore(store_url) as store:
        row = store.get_interactions([reply.headers["X-Interaction-Id"]])[reply.headers["X-Interaction-Id"]]
    assert row.policy_version == reply.json()["model"]
    return row.policy_version


def seconds_until(condition: Callable[[], bool]) -> float:
    begin = time.monotonic()
    while not condition():
        time.sleep(0.1)
    return time.monotonic() - begin


def serve_by_default(servers: list[tuple[str, str]], version: str) -> bool:
    return all(httpx.get(f"{url}/healthz").json()["policy_version"] == version for url, _ in servers)


def test_both_servers_follow_promotions_and_canaries(registry: ModelRegistry, servers: list[tuple[str, str]]):
    by_hand = ["--registry", registry.location]
    assert main(["promote", "policy-0002", *by_hand]) == 0
    print(f"promoted on both servers after {seconds_until(lambda: serve_by_default(servers, 'policy-0002')):.1f} s")
    assert {answering(server, "ada") for server in servers} == {"policy-0002"}
    assert main(["rollback", "policy-0002", *by_hand]) == 0
    print(f"rolled back on both servers after {seconds_until(lambda: serve_by_default(servers, 'policy-0001')):.1f} s")

    assert main(["canary", "start", "policy-0003", "--share", "0.5", *by_hand]) == 0
    canary = registry.canary()
    assert canary is not None
    tried = next(user for user in map(str, range(100)) if assign(user, canary.canary_id, 0.5))
    seconds = seconds_until(lambda: all(answering(server, tried) == "policy-0003" for server in servers))
    print(f"tried on both servers after {seconds:.1f} s")
    expected = {
        user: "policy-0003" if assign(user, canary.canary_id, 0.5) else "policy-0001" for user in (*USERS, "ada")
    }
    assert set(expected.values()) == {"policy-0001", "policy-0003"}
    for server in servers:
        assert {user: answering(server, user) for user in expected} == expected
        # Where there is no user, the session is what sticks.
        assert {user: answering(server, None, session=user) for user in expected} == expected

    assert main(["rollback", "policy-0003", *by_hand]) == 0
    seconds = seconds_until(lambda: all(answering(server, tried) == "policy-0001" for server in servers))
    print(f"taken back on both servers after {seconds:.1f} s")
    assert {answering(server, user) for server in servers for user in USERS} == {"policy-0001"}
