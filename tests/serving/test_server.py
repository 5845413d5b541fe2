from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from online_trl.config import ConfigError
from online_trl.registry import ModelRegistry, RegistryError, copy_model
from online_trl.serving.server import serve
from online_trl.store import FeedbackStore, StoreError
from online_trl.types import ModelRole
from serving.deployment import Deployment

QUESTION = [{"role": "user", "content": "How do I reset my password?"}]
GREEDY: dict[str, Any] = {"messages": QUESTION, "temperature": 0, "max_tokens": 60}
CLIENTS = 16


def stream_answer(client: openai.OpenAI) -> tuple[str, set[str], str]:
    """Returns the text, the versions that its chunks name, and the interaction."""
    with client.chat.completions.create(model="default", stream=True, **GREEDY) as stream:
        chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return text, {chunk.model for chunk in chunks}, chunks[0].id


def test_swap_under_streaming_clients_fails_and_mixes_no_reply(deployment: Deployment):
    answers = {}
    for version in ("policy-0001", "policy-0002"):
        reply = deployment.http.post("/v1/chat/completions", json=GREEDY | {"model": version})
        answers[version] = reply.json()["choices"][0]["message"]["content"]
    assert answers["policy-0001"] != answers["policy-0002"]
    all_streaming = threading.Barrier(CLIENTS + 1)

    def chat(_: int) -> list[tuple[str, set[str], str]]:
        replies = [stream_answer(deployment.openai)]
        all_streaming.wait()
        while replies[-1][1] != {"policy-0002"}:
            replies.append(stream_answer(deployment.openai))
        return replies

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(chat, number) for number in range(CLIENTS)]
        all_streaming.wait()
        deployment.registry.promote("policy-0002", "better")
        replies = [reply for client in clients for reply in client.result()]
    rows = deployment.store.get_interactions(interaction_id for _, _, interaction_id in replies)
    wrong = Counter({"mixed": 0, "not its version's": 0, "not as in the log": 0})
    for text, versions, interaction_id in replies:
        row = rows[interaction_id]
        wrong["mixed"] += versions != {row.policy_version}
        wrong["not its version's"] += text != answers[row.policy_version]
        wrong["not as in the log"] += row.completion != [{"role": "assistant", "content": text}]
    # A reply that failed has raised in its client.
    counts = Counter(row.policy_version for row in rows.values())
    assert wrong.total() == 0, f"{dict(wrong)} of {dict(counts)} replies to {CLIENTS} clients"
    assert set(counts) == {"policy-0001", "policy-0002"}
    assert deployment.http.get("/healthz").json()["policy_version"] == "policy-0002"
    assert deployment.openai.models.list().data[2].id == "policy-0002"


def test_a_second_server_on_an_sqlite_file_is_refused_before_it_loads_a_policy(tmp_path):
    url = f"sqlite:///{tmp_path / 'feedback.db'}"
    with FeedbackStore(url) as store, store.claimed(), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        serve(store_url=url, policy="nobody/no-policy", port=0)


def test_promotion_while_switching_back_and_forth_ends_on_the_last(deployment: Deployment):
    for version in ("policy-0001", "policy-0002", "policy-0001"):
        deployment.registry.promote(version, "back and forth")
    while deployment.http.get("/healthz").json()["policy_version"] != "policy-0001":
        time.sleep(0.05)
    assert stream_answer(deployment.openai)[1] == {"policy-0001"}


BAD_SETTINGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "open host": ({"host": "0.0.0.0"}, ConfigError, "0.0.0.0 is not a loopback address and no key is"),
    "named host": ({"host": "example.org"}, ConfigError, "example.org is not a loopback address"),
    "port out of range": ({"port": 65536}, ConfigError, "between 0 and 65535"),
    "no policy": ({"policy": None}, ConfigError, "one of a policy, a registry and an upstream server"),
    "policy and registry": (
        {"registry_root": "registry"},
        ConfigError,
        "one of a policy, a registry and an upstream server",
    ),
    "policy and upstream": ({"upstream": "http://127.0.0.1:1/v1"}, ConfigError, "one of a policy, a registry"),
    "model of no upstream": ({"upstream_model": "m"}, ConfigError, "are for an upstream server"),
    "upstream that is no URL": ({"policy": None, "upstream": "localhost:1"}, ConfigError, "not the URL of a server"),
    "missing policy": ({"policy": "./missing"}, ConfigError, "./missing does not exist"),
    "policy without config": ({"policy": "."}, ConfigError, r"has no config\.json"),
    "empty registry": ({"policy": None, "registry_root": "registry"}, ConfigError, "has no live policy"),
    "unknown store": ({"store_url": "mysql://host/log"}, StoreError, "kind 'mysql' is unknown"),
    "no store": ({"store_url": "feedback.db"}, StoreError, "not the URL of a store"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_bad_setting_is_refused(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    policy_folders: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.chdir(tmp_path)
    settings = {"store_url": "sqlite:///feedback.db", "policy": str(policy_folders[0])} | change
    with pytest.raises(error, match=message):
        serve(**settings)


def test_damaged_registry_is_refused(tmp_path: Path, policy_folders: list[Path]):
    registry = ModelRegistry(tmp_path)
    registry.publish(ModelRole.POLICY, copy_model(policy_folders[0]))
    registry.promote("policy-0001", "the first one")
    (tmp_path / "live.json").write_text("{")
    with pytest.raises(RegistryError):
        serve(store_url=f"sqlite:///{tmp_path}/feedback.db", registry_root=tmp_path)


def test_policy_that_cannot_be_loaded_is_refused(tmp_path: Path, policy_folders: list[Path]):
    copy_model(policy_folders[0])(tmp_path / "policy")
    (tmp_path / "policy" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="cannot load the policy `policy`"):
        serve(store_url=f"sqlite:///{tmp_path}/feedback.db", policy=str(tmp_path / "policy"), port=0)


def test_port_in_use_is_refused(tmp_path: Path, policy_folders: list[Path]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            serve(store_url=f"sqlite:///{tmp_path}/feedback.db", policy=str(policy_folders[0]), port=port)


def test_settings_are_checked_before_torch_is_imported(tmp_path: Path, policy_folders: list[Path]):
    program = """
import importlib, pkgutil, sys
import online_trl.serving
from online_trl.config import ConfigError
with_torch = {"sampler", "decoding", "token_text", "transformers_engine", "__main__"}
for module in pkgutil.iter_modules(online_trl.serving.__path__):
    if module.name not in with_torch:
        importlib.import_module(f"online_trl.serving.{module.name}")
try:
    online_trl.serving.server.serve(store_url="sqlite:///feedback.db", registry_root="registry")
except ConfigError as error:
    print(error)
print(sorted({"torch", "transformers", "trl"} & set(sys.modules)))
"""
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert output == ["the registry registry has no live policy; publish one and promote it first", "[]"]


def test_stop_finishes_the_answers_in_flight_and_keeps_them(deployment: Deployment):
    # The last test of the module: the server is gone afterwards.
    process = deployment.server.process
    request = GREEDY | {"max_tokens": 900, "stream": True}
    with deployment.http.stream("POST", "/v1/chat/completions", json=request) as reply:
        lines = filter(None, reply.iter_lines())
        first = json.loads(next(lines).removeprefix("data: "))
        process.terminate()
        *chunks, done = lines
    assert done == "data: [DONE]"
    assert json.loads(chunks[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert process.wait() == 0
    row = deployment.store.get_interactions([first["id"]])[first["id"]]
    assert len(row.completion_ids or []) == 900
    with pytest.raises(httpx.ConnectError):
        deployment.http.get("/healthz")
