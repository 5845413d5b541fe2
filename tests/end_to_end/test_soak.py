"""
Half an hour of `online-trl run` with users before it and a canary in each round, while its server, its trainer and
itself are killed.

Run it with `pytest -m slow -s tests/end_to_end/test_soak.py`; `SOAK_MINUTES` makes it shorter or longer. In the second
half only trainers are killed, so that the supervisor and the server live long enough for their memory to be measured.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import yaml

from end_to_end.soak_users import Users
from online_trl.canary import assign
from online_trl.lineage import learning_delays
from online_trl.loop import LoopState
from online_trl.registry import ModelRegistry
from online_trl.simulation.base_policy import train_base_policy
from online_trl.store import FeedbackStore
from online_trl.types import CanaryOutcome, ModelRole, VersionStatus
from served_log import free_port

ROOT = Path(__file__).parents[2]
MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
# Seconds after which a process has loaded what it works with, and by how much it may grow from then on: the supervisor
# reads what users said in a canary, which takes a few megabytes of its 85.
WARM_UP, GROWTH = 60.0, 1.1
TRAINING = {
    "max_steps": 8,
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": 48,
    "learning_rate": 3e-4,
    "beta": 0.15,
    "refresh_steps": 4,
    "refresh_min_statements": 8,
    "reward_config": {"learning_rate": 1e-3, "per_device_train_batch_size": 16},
    "save_steps": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
CANARY = {"share": 0.5, "effect": 0.2, "min_users": 5, "max_hours": 4 / 60}


class Loop:
    """`online-trl run` and those who kill it."""

    def __init__(self, config, output, seed):
        self.config, self.output = config, output
        self.rng = random.Random(seed)
        self.killed = Counter()
        self.round = 0
        self.megabytes = defaultdict(lambda: defaultdict(list))
        self.process = None

    def start(self):
        with (self.output / "run.log").open("ab") as log:
            command = [sys.executable, "-m", "online_trl.cli", "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def parts(self):
        """The processes that run, by what they are."""
        supervisor = psutil.Process(self.process.pid)
        parts = {"supervisor": supervisor}
        for child in supervisor.children(recursive=True):
            try:
                name = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if "online_trl.serving" in name:
                parts["server"] = child
            elif "online_grpo.py" in name and "accelerate" not in name:
                parts["trainer"] = child
        return parts

    def kill_one_of(self, *names):
        """Kills whom the dice name, if they run; the training of a round at most once, however slow the machine is."""
        who, number = self.rng.choice(names), LoopState(self.output / "output" / "loop.json").round
        process = self.parts().get(who)
        if process is None or (who == "trainer" and number == self.round):
            return
        process.kill()
        self.killed[who] += 1
        if who == "trainer":
            self.round = number
        if who == "supervisor":
            self.process.wait()
            self.start()

    def note_memory(self):
        for name, process in self.parts().items():
            try:
                age, size = time.time() - process.create_time(), process.memory_info().rss / 2**20
            except psutil.Error:
                continue
            self.megabytes[name][process.pid].append((age, size))

    def longest_life(self, name):
        """Memory of the process of a kind that lived longest: at its start, after the warm-up, and at its end."""
        life = max(self.megabytes[name].values(), key=len)
        warm = [size for age, size in life if age > WARM_UP] or [life[-1][1]]
        part = max(1, len(warm) // 4)
        return life[-1][0], life[0][1], statistics.mean(warm[:part]), statistics.mean(warm[-part:])

    def peaks(self, name):
        """The most that each process of a kind took, in the order they were started."""
        return [max(size for _, size in life) for life in self.megabytes[name].values()]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(400)


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 1800)
def test_nothing_acknowledged_is_lost_and_versions_are_consistent(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    url, config = write_loop(tmp_path)
    loop = Loop(config, tmp_path, seed=0)
    users = [Users(f"users-{number}", url) for number in range(8)]
    loop.start()
    for each in users:
        each.start()
    begin, next_kill = time.monotonic(), time.monotonic() + 60
    while (now := time.monotonic()) < begin + MINUTES * 60:
        time.sleep(5)
        loop.note_memory()
        if now > next_kill:
            is_first_half = now < begin + MINUTES * 30
            loop.kill_one_of("trainer", *(["server", "server", "trainer", "supervisor"] if is_first_half else []))
            next_kill = now + loop.rng.uniform(20, 90)
    for each in users:
        each.ended.set()
    for each in users:
        each.join()
    assert loop.stop() == 130
    check(tmp_path, users, loop)


def write_loop(folder):
    base = train_base_policy(folder / "base", seed=0)
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    (folder / "evaluate.yaml").write_text(
        yaml.safe_dump({"num_prompts": 32, "max_completion_length": 48, "device": "cpu"})
    )
    port = free_port()
    content = {
        "policy": str(base),
        "store": f"sqlite:///{folder / 'feedback.db'}",
        "registry": str(folder / "registry"),
        "output_dir": str(folder / "output"),
        "serve": {"port": port, "settings": {"burst_rows": 0, "near_duplicates": 0, "pin_sessions": True}},
        "train": {"script": str(ROOT / "recipes" / "online_grpo.py"), "config": str(folder / "train.yaml")},
        "evaluate": str(folder / "evaluate.yaml"),
        # The gate lets through what is not clearly worse: it is the canaries that this is about.
        "gate": {"min_win_rate": 0.3, "slack": 0.2},
        "canary": CANARY,
        "triggers": {"feedback": 60},
        "retry": {"attempts": 10, "seconds": 1.0},
    }
    (folder / "loop.yaml").write_text(yaml.safe_dump(content))
    return f"http://127.0.0.1:{port}", folder / "loop.yaml"


def check(folder, users, loop):
    registry = ModelRegistry(folder / "registry")
    acknowledged = [name for each in users for name in each.acknowledged]
    with FeedbackStore(f"sqlite:///{folder / 'feedback.db'}") as store:
        rows, answers = store.feedback(), store.interactions(tokens=False)
    stored = Counter(row.feedback_id for row in rows)
    state = LoopState(folder / "output" / "loop.json")
    canaries = [canary for canary in registry.canaries() if canary.outcome is not None]
    tell(loop, users, acknowledged, stored, answers, state, canaries, learning_delays(registry, rows))

    assert set(acknowledged) <= set(stored)
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(stored.values()) == {1}
    check_versions(registry, rows)
    check_answers(registry, answers)
    assert len(state.decisions) >= 1
    assert {canary.outcome for canary in canaries} & {CanaryOutcome.PROMOTED, CanaryOutcome.ROLLED_BACK}
    for name in ("supervisor", "server"):
        _, _, warm, end = loop.longest_life(name)
        assert end < GROWTH * warm, name


def check_versions(registry, rows):
    """Every version is whole, one policy is live, each round published once, and each row taught one reward model."""
    policies, rewards = (registry.versions(role) for role in (ModelRole.POLICY, ModelRole.REWARD))
    for version in [*policies, *rewards]:
        registry.verify(version.name)
    assert sum(version.status is VersionStatus.LIVE for version in policies) == 1
    names = [version.config.get("run_name") for version in policies]
    assert len(set(names)) == len(names)
    intervals = [version.feedback_interval for version in rewards if version.status is not VersionStatus.ABANDONED]
    last = max((upto for _, upto in intervals), default=0)
    uses = Counter(sum(after < row.seq <= upto for after, upto in intervals) for row in rows if row.seq <= last)
    assert set(uses) <= {1}


def check_answers(registry, answers):
    """
    A candidate answers nobody before its canary, and only whom it was drawn for until it is promoted; a conversation
    stays with its version unless that is rolled back.
    """
    canaries = {canary.version: canary for canary in registry.canaries()}
    first = registry.versions(ModelRole.POLICY)[0].name
    conversations = defaultdict(list)
    tried = 0
    for answer in answers:
        conversations[answer.session_id].append(answer)
        if answer.policy_version == first:
            continue
        canary = canaries[answer.policy_version]
        assert answer.created_at > canary.started_at
        if canary.outcome is not CanaryOutcome.PROMOTED or answer.created_at < canary.ended_at:
            assert assign(answer.user_id, canary.canary_id, canary.share)
            tried += 1
    assert tried > 0
    for turns in conversations.values():
        for before, after in pairwise(turns):
            if before.policy_version != after.policy_version:
                assert canaries[before.policy_version].outcome is CanaryOutcome.ROLLED_BACK
                assert canaries[before.policy_version].ended_at < after.created_at


def tell(loop, users, acknowledged, stored, answers, state, canaries, delays):
    figures = {
        "minutes": f"{MINUTES:g}",
        "rounds": len(state.decisions),
        "canaries decided": told(Counter(canary.outcome.value for canary in canaries)),
        "killed": told(loop.killed),
        "answers": len(answers),
        "by a version": told(Counter(answer.policy_version for answer in answers)),
        "unreachable": sum(each.unreachable for each in users),
        "refused": told(sum((each.refused for each in users), Counter())),
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "lost": len(set(acknowledged) - set(stored)),
        "learned from": f"{len(delays) / max(1, len(stored)):.0%}, median after {statistics.median(delays):.0f} s"
        if delays
        else "none, as no candidate was promoted",
    }
    print("", *(f"{name:<20}{value}" for name, value in figures.items()), sep="\n")
    print(f"{'MB':<20}{'lived':>8}{'start':>8}{'warm':>8}{'end':>8}")
    for name in ("supervisor", "server"):
        age, *sizes = loop.longest_life(name)
        print(f"{name:<20}{age:>6.0f} s" + "".join(f"{size:>8.0f}" for size in sizes))
    print(f"{'trainers, peaks':<20}{' '.join(f'{size:.0f}' for size in loop.peaks('trainer'))}")


def told(counts):
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=str)) or "none"
