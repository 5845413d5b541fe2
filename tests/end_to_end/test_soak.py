"""
Half an hour of `online-trl run` with users in front of it, while its server, its trainer and itself are killed.

Run it with `pytest -m slow -s tests/end_to_end/test_soak.py`; `SOAK_MINUTES` makes it shorter or longer.
"""

import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from online_trl.lineage import learning_delays
from online_trl.loop import LoopState
from online_trl.registry import ModelRegistry
from online_trl.simulation import helpdesk
from online_trl.simulation.base_policy import train_base_policy
from online_trl.simulation.taste import Taste
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole, VersionStatus

ROOT = Path(__file__).parents[2]
MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
TRAINING = {
    "max_steps": 10,
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": 48,
    "learning_rate": 3e-4,
    "beta": 0.15,
    "refresh_steps": 5,
    "refresh_min_statements": 8,
    "reward_config": {"learning_rate": 1e-3, "per_device_train_batch_size": 16},
    "save_steps": 5,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


class User(threading.Thread):
    """Somebody who asks, compares two answers, and tries to say so until it is acknowledged."""

    def __init__(self, name, url):
        super().__init__(daemon=True)
        self.name, self.url = name, url
        self.acknowledged, self.refused = [], Counter()
        self.ended = threading.Event()

    def run(self):
        rng, taste = random.Random(self.name), Taste(0)
        with httpx.Client(base_url=self.url, timeout=30.0) as client:
            for number in itertools.count():
                if self.ended.wait(rng.uniform(0.2, 1.0)):
                    return
                question = rng.choice(helpdesk.train_questions()).text
                body = {"messages": [{"role": "user", "content": question}], "n": 2, "max_tokens": 48}
                reply = self.send(client, "/v1/chat/completions", {**body, "user": self.name})
                if reply is None:
                    continue
                choices = reply.json()["choices"]
                liked = [taste.satisfaction(question, choice["message"]["content"]) for choice in choices]
                key = f"{self.name}-{number}"
                comparison = {
                    "kind": "comparison",
                    "interaction_ids": [choice["interaction_id"] for choice in choices],
                    "value": "tie" if liked[0] == liked[1] else "first" if liked[0] > liked[1] else "second",
                    "user_id": self.name,
                    "idempotency_key": key,
                }
                while not self.ended.is_set():
                    if (receipt := self.send(client, "/v1/feedback", comparison)) is not None:
                        self.acknowledged.append(receipt.json()["feedback_id"])
                        break

    def send(self, client, path, body):
        """What came back, or nothing if there was nobody to answer."""
        try:
            reply = client.post(path, json=body)
        except httpx.TransportError:
            self.ended.wait(0.2)
            return None
        if reply.status_code in (200, 201):
            return reply
        self.refused[reply.status_code] += 1
        self.ended.wait(0.2)
        return None


class Loop:
    """`online-trl run` and those who kill it."""

    def __init__(self, config, output, seed):
        self.config, self.output = config, output
        self.rng = random.Random(seed)
        self.killed = Counter()
        self.memory = []
        self.process = None

    def start(self):
        with (self.output / "run.log").open("ab") as log:
            command = [sys.executable, "-m", "online_trl.cli", "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.since = time.monotonic()

    def kill_somebody(self):
        parts = {"supervisor": self.process.pid}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            name = " ".join(child.cmdline())
            if "online_trl.serving" in name:
                parts["server"] = child.pid
            elif "online_grpo.py" in name and "accelerate" not in name:
                parts["trainer"] = child.pid
        who = self.rng.choice(["trainer", "trainer", "server", "server", "supervisor"])
        if who in parts:
            os.kill(parts[who], signal.SIGKILL)
            self.killed[who] += 1
        if who == "supervisor":
            self.process.wait()
            self.start()

    def note_memory(self):
        self.memory.append((time.monotonic() - self.since, psutil.Process(self.process.pid).memory_info().rss / 2**20))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(400)


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 1800)
def test_nothing_acknowledged_is_lost_and_versions_are_consistent(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    url, config = write_loop(tmp_path)
    loop = Loop(config, tmp_path, seed=0)
    users = [User(f"user-{number}", url) for number in range(12)]
    loop.start()
    for user in users:
        user.start()
    end = time.monotonic() + MINUTES * 60
    next_kill = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(5)
        loop.note_memory()
        if time.monotonic() > next_kill:
            loop.kill_somebody()
            next_kill = time.monotonic() + loop.rng.uniform(20, 90)
    for user in users:
        user.ended.set()
    for user in users:
        user.join()
    assert loop.stop() == 130
    check(tmp_path, users, loop)


def write_loop(folder):
    base = train_base_policy(folder / "base", seed=0)
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    (folder / "evaluate.yaml").write_text(
        yaml.safe_dump({"num_prompts": 32, "max_completion_length": 48, "device": "cpu"})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    content = {
        "policy": str(base),
        "store": f"sqlite:///{folder / 'feedback.db'}",
        "registry": str(folder / "registry"),
        "output_dir": str(folder / "output"),
        "serve": {"port": port, "settings": {"burst_rows": 0, "near_duplicates": 0}},
        "train": {"script": str(ROOT / "recipes" / "online_grpo.py"), "config": str(folder / "train.yaml")},
        "evaluate": str(folder / "evaluate.yaml"),
        "triggers": {"feedback": 60},
        "retry": {"attempts": 10, "seconds": 1.0},
    }
    (folder / "loop.yaml").write_text(yaml.safe_dump(content))
    return f"http://127.0.0.1:{port}", folder / "loop.yaml"


def check(folder, users, loop):
    registry = ModelRegistry(folder / "registry")
    acknowledged = [name for user in users for name in user.acknowledged]
    with FeedbackStore(f"sqlite:///{folder / 'feedback.db'}") as store:
        rows, answers = store.feedback(), store.interactions()
    delays = learning_delays(registry, rows)
    stored = Counter(row.feedback_id for row in rows)
    policies, rewards = (registry.versions(role) for role in (ModelRole.POLICY, ModelRole.REWARD))
    for version in [*policies, *rewards]:
        registry.verify(version.name)
    intervals = [version.feedback_interval for version in rewards if version.status is not VersionStatus.ABANDONED]
    last = max((upto for _, upto in intervals), default=0)
    uses = Counter(sum(after < row.seq <= upto for after, upto in intervals) for row in rows if row.seq <= last)
    state = LoopState(folder / "output" / "loop.json")
    early, late = (statistics.mean(part) for part in halves(loop.memory))
    figures = {
        "minutes": MINUTES,
        "killed": dict(loop.killed),
        "answers": len(answers),
        "acknowledged": len(acknowledged),
        "refused": dict(sum((user.refused for user in users), Counter())),
        "rounds": len(state.decisions),
        "policies": Counter(version.status.value for version in policies),
        "rewards": Counter(version.status.value for version in rewards),
        "seconds_to_a_policy_that_learned": [round(delays[len(delays) * part // 10]) for part in (5, 9)]
        if delays
        else None,
        "unlearned": round(1 - len(delays) / len(rows), 2),
        "supervisor_megabytes": [round(early), round(late)],
    }
    print(json.dumps(figures, indent=1))
    assert set(acknowledged) <= set(stored)
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(stored.values()) == {1}
    assert {answer.policy_version for answer in answers} <= {version.name for version in policies}
    assert sum(version.status is VersionStatus.LIVE for version in policies) == 1
    names = [version.config.get("run_name") for version in policies]
    assert len(set(names)) == len(names)
    assert set(uses) <= {1}
    assert len(state.decisions) >= 1
    assert late < 1.2 * early


def halves(memory):
    """Memory of the longest life of the supervisor, in its first and its second half, without its first minute."""
    lives, life = [], []
    for age, megabytes in memory:
        if life and age < life[-1][0]:
            lives.append(life)
            life = []
        life.append((age, megabytes))
    longest = [megabytes for age, megabytes in max([*lives, life], key=len) if age > 60] or [1.0, 1.0]
    return longest[: max(1, len(longest) // 2)], longest[len(longest) // 2 :]
