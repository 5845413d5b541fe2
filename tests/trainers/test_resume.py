"""A run that was killed and resumed is the run that was never killed: same feedback, same rewards, same weights."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from online_trl.registry import ModelRegistry
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole, VersionStatus
from trainer_runs import TRAINERS

ROOT = Path(__file__).parents[2]
ZERO2 = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "ds_configs" / "accelerate_zero2_cpu.yaml")]
STEPS, KEPT = 12, 6

pytestmark = pytest.mark.timeout(300)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module", params=[[], ZERO2], ids=["1 process", "ZeRO-2"])
def runs(request, tiny_policy, tmp_path_factory):
    """The folder of all runs, and the number of their processes."""
    folder = tmp_path_factory.mktemp("runs")
    port, *ports = free_ports(7)
    launcher = [*request.param, "--main_process_port", port] if request.param else []
    finished = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "tests" / "resumed_runs.py"), tiny_policy, str(folder), *ports],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-5000:]
    return folder, 2 if request.param else 1


def checkpoint(run, step):
    return run / "out" / f"checkpoint-{step}"


def weights(run):
    """Those of the policy and of the critic, if there is one."""
    files = checkpoint(run, STEPS).rglob("model.safetensors")
    return {f"{file.parent.name} {name}": value for file in files for name, value in load_file(file).items()}


def read(run, step, file):
    return json.loads((checkpoint(run, step) / file).read_text())


def losses(run):
    return [row["loss"] for row in read(run, STEPS, "trainer_state.json")["log_history"] if "loss" in row]


def versions(run, *, abandoned=False):
    registry = ModelRegistry(run / "registry")
    listed = registry.versions(ModelRole.REWARD)
    return [version for version in listed if (version.status is VersionStatus.ABANDONED) == abandoned]


def assert_close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_killed_and_resumed_run_ends_as_one_that_was_not_killed(kind, runs):
    folder, _ = runs
    straight, stopped = folder / kind / "straight", folder / kind / "stopped"
    assert_close(weights(stopped), weights(straight))
    assert losses(stopped) == pytest.approx(losses(straight), abs=1e-5)
    assert len(losses(straight)) == STEPS
    # The first of these may be in the middle of a rollout that was made before the kill.
    for step in range(KEPT + 1, STEPS + 1):
        tables = [
            pandas.read_parquet(run / "out" / "completions" / f"completions_{step:05d}.parquet").astype(str)
            for run in (straight, stopped)
        ]
        assert len(tables[0]) == len(tables[1]) > 0
        assert set(tables[0].columns) == set(tables[1].columns)
        for column in ("prompt", "completion", "advantage"):
            assert tables[0][column].tolist() == tables[1][column].tolist()


@pytest.mark.parametrize("kind", TRAINERS)
def test_it_uses_the_same_feedback_and_makes_the_same_reward_versions_of_it(kind, runs):
    folder, _ = runs
    straight, stopped = folder / kind / "straight", folder / kind / "stopped"
    # What the killed run had made after its checkpoint is set aside, and made again under the next number.
    assert [version.name for version in versions(stopped, abandoned=True)] == ["reward-0003"]
    assert [version.name for version in versions(stopped)] == [f"reward-000{number}" for number in (1, 2, 4, 5)]
    assert [version.name for version in versions(straight)] == [f"reward-000{number}" for number in (1, 2, 3, 4)]
    names = {}
    for one, other in zip(versions(straight), versions(stopped), strict=True):
        names[one.name] = other.name
        registries = [ModelRegistry(run / "registry") for run in (straight, stopped)]
        assert one.status is other.status
        assert one.feedback_interval == other.feedback_interval
        assert registries[0].consumed(one.name) == registries[1].consumed(other.name)
        assert_close(
            load_file(registries[0].path(one.name) / "model.safetensors"),
            load_file(registries[1].path(other.name) / "model.safetensors"),
        )
    # All else that the two runs know is the same, the feedback cursor and the drift test among it.
    expected, found = read(straight, STEPS, "online_state.json"), read(stopped, STEPS, "online_state.json")
    assert found.pop("reward_version") == names[expected.pop("reward_version")]
    assert found.pop("reward_versions_used") == [names[name] for name in expected.pop("reward_versions_used")]
    assert found == expected


@pytest.mark.parametrize("kind", TRAINERS)
def test_every_row_of_feedback_counts_once(kind, runs):
    folder, _ = runs
    stopped = folder / kind / "stopped"
    with FeedbackStore(f"sqlite:///{stopped / 'log.db'}") as store:
        rows = store.feedback()
    intervals = [version.feedback_interval for version in versions(stopped)]
    counts = Counter(sum(after < row.seq <= upto for after, upto in intervals) for row in rows)
    assert counts == {1: 40 + STEPS * 6}
    assert read(stopped, STEPS, "online_state.json")["refresh"]["schedule"]["cursor"] == rows[-1].seq


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_checkpoint_holds_policy_critic_optimiser_streams_rollout_cursor_and_reward_version(kind, runs):
    folder, ranks = runs
    stopped = folder / kind / "stopped"
    kept = checkpoint(stopped, KEPT)
    names = {file.relative_to(kept).as_posix() for file in kept.rglob("*") if file.is_file()}
    in_rollout = (kind, ranks) in (("grpo", 1), ("ppo", 2))
    expected = {"model.safetensors", "scheduler.pt", "online_state.json"}
    expected |= {"critic/model.safetensors"} if kind == "ppo" else set()
    expected |= {f"rollout_{rank}.pt" for rank in range(ranks)} if in_rollout else set()
    if ranks == 1:
        expected |= {"optimizer.pt", "rng_state.pth"}
    else:
        expected |= {f"rng_state_{rank}.pth" for rank in range(ranks)}
        expected |= {f"global_step{KEPT}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)}
    assert expected <= names
    assert any(name.startswith("rollout") for name in names) == in_rollout
    state = read(stopped, KEPT, "online_state.json")
    assert state["step"] == KEPT
    assert state["refresh"]["schedule"]["cursor"] == versions(stopped)[1].feedback_interval[1]
    assert state["reward_version"] == "reward-0002"
    # With one iteration the dataloader holds the next rollout ready, whose prompts were read before step 6 was done.
    assert len(state["prompts"]["ahead"]) == (not in_rollout)
