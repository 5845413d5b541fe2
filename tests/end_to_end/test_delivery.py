"""Training on the log of another machine: through its server, which goes away and comes back while users react."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from feedback import add_comparisons
from online_trl.checkpoint import last_complete_checkpoint
from online_trl.registry import ModelRegistry
from online_trl.serving.client_keys import client_key
from online_trl.store import FeedbackStore
from online_trl.types import Interaction, ModelRole, VersionStatus
from served_log import free_port, server_process

KILLED_RUN = Path(__file__).parents[1] / "killed_run.py"
STEPS = 12


class Users(threading.Thread):
    """People who react through the server, and whose clients send a statement again until it is acknowledged."""

    def __init__(self, store: FeedbackStore, url: str) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.url = url
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self.url) as client:
            while not self.stop.wait(0.05):
                self._send(client, self._statement(number))
                number += 1

    def _statement(self, number: int) -> dict[str, object]:
        answers = [
            Interaction(
                prompt=[{"role": "user", "content": f"fresh {number}"}],
                completion=[{"role": "assistant", "content": f"{text} {number}"}],
                policy_version="policy-0001",
                session_id=f"fresh-{number}",
                user_id=f"user-{number % 7}",
            )
            for text in ("yes", "no")
        ]
        ids = [row.interaction_id for row in self.store.add_interactions(answers)]
        key = f"fresh-{number}"
        self.sent.append(key)
        return {"kind": "comparison", "interaction_ids": ids, "value": "first", "idempotency_key": key}

    def _send(self, client: httpx.Client, body: dict[str, object]) -> None:
        while not self.stop.is_set():
            try:
                client.post("/v1/feedback", json=body).raise_for_status()
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                self.acknowledged.append(str(body["idempotency_key"]))
                return


def steps(folder: Path) -> list[int]:
    file = folder / "steps"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def wait_for_steps(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(steps(folder)) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Which database is behind the server, the trainer cannot see.
@pytest.mark.parametrize("store_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_killed_run_over_http_uses_every_row_once_though_the_server_is_killed_too(
    store: FeedbackStore, tiny_policy: str, tmp_path: Path
):
    add_comparisons(store, 40)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(KILLED_RUN), "grpo", tiny_policy, str(tmp_path), url]
    users = Users(store, url)
    with ExitStack() as stack:
        server = stack.enter_context(server_process(store.url, port))
        users.start()
        training = subprocess.Popen(command)
        wait_for_steps(training, tmp_path, 5)
        training.kill()
        training.wait()
        killed_at = steps(tmp_path)[-1]
        assert killed_at < STEPS

        seen = len(steps(tmp_path))
        training = subprocess.Popen([*command, "resume"])
        wait_for_steps(training, tmp_path, seen + 2)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        stack.enter_context(server_process(store.url, port))
        assert training.wait(200) == 0
        users.stop.set()
        users.join()
    assert steps(tmp_path)[-1] == STEPS

    stored = [key for row in store.feedback() if (key := client_key(row)).startswith("fresh-")]
    assert stored == list(dict.fromkeys(stored))
    assert set(users.acknowledged) <= set(stored) <= set(users.sent)
    registry = ModelRegistry(tmp_path / "registry")
    rewards = registry.versions(ModelRole.REWARD)
    intervals = [row.feedback_interval for row in rewards if row.status is not VersionStatus.ABANDONED]
    last = max(upto for _, upto in intervals)
    used = [sum(after < row.seq <= upto for after, upto in intervals) for row in store.feedback(upto=last)]
    assert set(used) == {1}
    assert len(used) > 40
    checkpoint = last_complete_checkpoint(tmp_path / "out")
    state = json.loads((Path(checkpoint) / "online_state.json").read_text())
    assert state["refresh"]["schedule"]["cursor"] == last
