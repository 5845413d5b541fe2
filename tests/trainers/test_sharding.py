"""Both trainers on one and on two processes, sharded in every way, on models small enough to be trained in each."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from reward_models import save_reward_model
from served_log import free_port
from sharded_runs import SETTINGS, VARIANTS
from trainer_runs import TRAINERS

ROOT = Path(__file__).parents[2]
ALONE = "alone"
CONFIGS = [
    ALONE,
    "ddp",
    "zero2",
    "zero3",
    pytest.param("zero1", marks=pytest.mark.slow),
    pytest.param("zero3_offload", marks=pytest.mark.slow),  # DeepSpeed compiles its CPU optimiser first: two minutes
]
RUNS = [(kind, variant) for kind in TRAINERS for variant in VARIANTS]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def launched(tiny_policy, tmp_path_factory):
    """Returns the folder of the runs under an accelerate config, which are made when they are first asked for."""
    reward = str(tmp_path_factory.mktemp("reward"))
    torch.manual_seed(0)
    save_reward_model(tiny_policy, reward)

    @functools.cache
    def launch(config):
        folder = tmp_path_factory.mktemp(config)
        file = ROOT / "ds_configs" / f"accelerate_{config}_cpu.yaml"
        port = str(free_port())
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(file), "--main_process_port", port]
        launcher = [] if config == ALONE else launcher
        finished = subprocess.run(
            [sys.executable, *launcher, str(ROOT / "tests" / "sharded_runs.py"), tiny_policy, reward, str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr[-5000:]
        return folder

    return launch


def ranks(run):
    return [json.loads(file.read_text()) for file in sorted(run.glob("rank*.json"))]


@pytest.mark.parametrize(("kind", "variant"), RUNS)
@pytest.mark.parametrize("config", CONFIGS)
def test_all_ranks_train_one_policy_under_one_reward_version(config, kind, variant, launched):
    run = launched(config) / kind / variant
    first, *others = ranks(run)
    assert len(others) == (config != ALONE)
    assert all(other["steps"] == first["steps"] for other in others)
    assert len(first["losses"]) == SETTINGS["max_steps"]
    assert all(math.isfinite(loss) for loss in first["losses"])
    assert len({step["parameters"] for step in first["steps"]}) == SETTINGS["max_steps"]
    paid_by = [step["paid_by"] for step in first["steps"]]
    live = [step["live"] for step in first["steps"]]
    if variant == "plain":
        assert paid_by == ["reward-0001"] * 3 + ["reward-0002"]
        tables = [pandas.read_parquet(path) for path in sorted((run / "out" / "completions").glob("*.parquet"))]
        assert [set(table["reward_version"]) for table in tables] == [{version} for version in paid_by]
    else:
        # A rollout serves two steps. One rank of several cannot read the third version, so none takes it over.
        assert paid_by == ["reward-0001"] * 2 + ["reward-0002"] * 2
        assert live == ["reward-0001", "reward-0002", *["reward-0003" if config == ALONE else "reward-0002"] * 2]


@pytest.mark.parametrize(("kind", "variant"), RUNS)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_saved_is_what_was_trained(config, kind, variant, launched):
    run = launched(config) / kind / variant
    gathered = {name.replace(".default.", "."): value for name, value in torch.load(run / "gathered.pt").items()}
    saved = load_file(run / "saved" / ("adapter_model.safetensors" if variant == "lora" else "model.safetensors"))
    # The output layer is the embedding, which ZeRO-2 saves under both names.
    tied = saved.pop("lm_head.weight", None)
    assert tied is None or tied.equal(gathered["model.embed_tokens.weight"])
    policy = {name: value for name, value in gathered.items() if not name.startswith("critic.")}
    trained = {name: value for name, value in policy.items() if variant != "lora" or "lora_" in name}
    torch.testing.assert_close(saved, trained, rtol=0, atol=0)


# The reward model of the plain runs is learned from feedback under ids that differ from run to run.
@pytest.mark.parametrize(("kind", "variant"), [(kind, variant) for kind, variant in RUNS if variant != "plain"])
@pytest.mark.parametrize("config", CONFIGS[2:])
def test_sharding_changes_nothing_in_what_is_learned(config, kind, variant, launched):
    whole, sharded = launched("ddp") / kind / variant, launched(config) / kind / variant
    assert ranks(sharded)[0]["losses"] == pytest.approx(ranks(whole)[0]["losses"], abs=1e-4)
    expected, found = (torch.load(run / "gathered.pt") for run in (whole, sharded))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
