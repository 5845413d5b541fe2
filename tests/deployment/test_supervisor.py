"""`online-trl run` as a process: killed at every step, stopped, and kept up when training fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from online_trl import loop
from online_trl.deployment import Supervisor
from online_trl.deployment.settings import read_deployment
from online_trl.loop import BEGIN, STATIONS, LoopState
from online_trl.registry import ModelRegistry
from online_trl.types import CanaryOutcome, ModelRole, VersionStatus

CLI = [sys.executable, "-m", "online_trl.cli"]
KILLED = [sys.executable, str(Path(__file__).parent / "killed_loop.py")]


def run(config, *arguments):
    return subprocess.run(
        [*CLI, "run", "--config", str(config), *arguments], capture_output=True, text=True, timeout=240, check=False
    )


@contextmanager
def started(config):
    with subprocess.Popen([*CLI, "run", "--config", str(config)], stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def registry_of(config):
    return ModelRegistry(config.parent / "registry")


def standing(registry):
    return {version.name: version.status for role in ModelRole for version in registry.versions(role)}


@pytest.mark.timeout(600)
def test_a_loop_that_is_killed_at_every_step_ends_like_one_that_is_not(write_loop):
    canary = {"share": 0.5, "effect": 0.2, "min_users": 5}
    killed, whole = (write_loop(name, canary=canary) for name in ("killed", "whole"))
    begun, ended = "start_canary", "end_canary"
    moments = [BEGIN, "1/collect", "1/train", "1/evaluate", begun, ended, "1/canary", "1/promote"]
    assert {BEGIN, *(f"1/{station}" for station in STATIONS)} <= set(moments)
    for config, deaths in ((killed, moments), (whole, [])):
        process = subprocess.run([*KILLED, str(config), *deaths], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
    registries = [registry_of(config) for config in (killed, whole)]
    assert standing(registries[0]) == standing(registries[1])
    assert standing(registries[0])["policy-0002"] is VersionStatus.LIVE
    ends = [[(each.outcome, each.reason) for each in registry.canaries()] for registry in registries]
    assert ends[0] == ends[1]
    assert [outcome for outcome, _ in ends[0]] == [CanaryOutcome.PROMOTED]
    policies = [load_file(registry.path("policy-0002") / "model.safetensors") for registry in registries]
    assert_close(*policies)
    consumed = [registry.consumed("reward-0001").trained_on for registry in registries]
    assert len(consumed[0].feedback_ids) == len(consumed[1].feedback_ids) > 0
    assert not (killed.parent / "output" / "training").exists()


@pytest.mark.timeout(600)
def test_serving_goes_on_where_training_fails_and_a_server_that_dies_comes_back(write_loop, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('error: no such dataset')\n")
    train = {"script": str(broken), "config": str(broken)}
    config = write_loop(train=train, serve={"port": 0, "settings": {"comparison_strategy": "off"}})
    output = config.parent / "output"
    with started(config) as process:
        at = wait_for(lambda: told(output, "paused"), process)
        assert at["step"] == "1/train"
        assert at["paused"].endswith("JobFailedError: train ended with status 1:\nerror: no such dataset")
        (url,) = wait_for(lambda: addresses(output), process)
        assert httpx.get(f"{url}/healthz").json()["policy_version"] == "policy-0001"
        os.kill(server_of(process).pid, signal.SIGKILL)
        _, url = wait_for(lambda: len(addresses(output)) == 2 and addresses(output), process)
        assert httpx.get(f"{url}/healthz").json()["policy_version"] == "policy-0001"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")


def test_a_full_disk_is_told_once_and_the_time_is_recorded_when_there_is_room_again(write_loop, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_KEEP_TIME_EVERY", 0.0)
    told = []
    supervisor = Supervisor(read_deployment(write_loop()), report=told.append)
    folder = tmp_path / "state"
    folder.mkdir()
    state = LoopState(folder / "loop.json")
    state.enter("1/train")
    # A folder that has gone refuses writes as a full disk does.
    shutil.rmtree(folder)
    assert not supervisor._is_stopped(state)
    assert not supervisor._is_stopped(state)
    assert len(told) == 1
    folder.mkdir()
    lost = state.seconds_of("train")
    assert not supervisor._is_stopped(state)
    assert LoopState(folder / "loop.json").seconds_of("train") > lost > 0


def test_one_folder_has_one_loop(write_loop):
    config = write_loop(budget={"rounds": 0}, triggers={"feedback": 1000})
    with started(config) as first:
        wait_for(lambda: told(config.parent / "output", "step") == {"step": "1/collect"}, first)
        second = run(config)
        assert second.returncode == 2
        assert "another `online-trl run` is at work in" in second.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def told(output, key):
    """What the loop is at, as far as it says something under a key."""
    file = output / "loop.json"
    at = json.loads(file.read_text())["at"] if file.is_file() else {}
    if key == "step":
        return {"step": at.get("step")}
    return at if key in at else None


def addresses(output):
    log = output / "server.log"
    return re.findall(r"^Serving \S+ at (http://\S+)$", log.read_text(), re.MULTILINE) if log.is_file() else []


def server_of(process):
    children = psutil.Process(process.pid).children()
    return next(child for child in children if "online_trl.serving" in child.cmdline())
