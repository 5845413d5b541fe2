import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

import trainers
from trainers_arms import Arm, run_arm
from trainers_models import make_models
from trainers_plot import smoothed, write_curves

TINY = {"rollouts": 4, "batch": 8, "micro": 8, "tokens": 4, "words": 4}


@pytest.fixture
def models(tmp_path):
    make_models(tmp_path / "models", "tiny", bf16=False, device="cpu")
    return str(tmp_path / "models")


def test_both_sides_do_the_same_work_and_only_ours_refreshes(models, tmp_path):
    results = {}
    for ours in (True, False):
        folder = tmp_path / str(ours)
        folder.mkdir()
        arm = Arm(trainer="grpo", ours=ours, models=models, generations=4, refresh_steps=2 * ours, **TINY)
        results[ours] = run_arm(arm, folder)
    ratios = trainers.compare([results[True]], [results[False]])
    assert all(ratio > 0 for ratio in ratios.values())
    assert [results[ours]["refreshes"] for ours in (True, False)] == [1, 0]
    assert results[True]["refresh_share"] > results[False]["refresh_share"] == 0
    table = trainers.where_time_goes([{"section": "grpo", **row} for row in results.values()])
    assert [column.header for column in table.columns][3:6] == ["generation", "scoring", "refresh"]


def test_the_curve_of_ppo_is_recorded_rollout_by_rollout(tiny_policy, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "policy").symlink_to(tiny_policy)
    arm = Arm(trainer="ppo", ours=True, task="concise", models=str(tmp_path / "models"), epochs=2, **TINY)
    run = run_arm(arm, tmp_path)
    assert len(run["curve"]) == 4
    write_curves([run, {**run, "ours": False}], tmp_path)
    assert "OnlinePPOTrainer" in (tmp_path / "trainers.svg").read_text()


def test_a_curve_is_smoothed_over_stretches_of_its_rollouts():
    assert smoothed([0.0, 1.0, 2.0, 3.0], points=2) == [(1.0, 0.5), (3.0, 2.5)]


def test_a_size_that_does_not_fit_ends_its_row_of_sizes(tmp_path, monkeypatch):
    tried = []

    def launch(arm, oldest_trl, sharding):
        tried.append((arm.trainer, sharding, arm.lora, Path(arm.models).name))
        if arm.models.endswith("demo"):
            raise trainers.OutOfMemory
        return {**asdict(arm), "peak_memory": 1.0, "tokens_per_second": 10.0}

    monkeypatch.setattr(trainers, "launch", launch)
    arguments = trainers.parse_arguments(
        ["--output", str(tmp_path), "--sections", "sizes", "--large", "tiny", "demo", "qwen2-7b"]
    )
    for shape in ("tiny", "demo"):
        (tmp_path / shape).mkdir()
    bench = trainers.Bench(arguments, tmp_path)
    console = Console(record=True, width=200)
    trainers.measure_sizes(bench, console)
    assert len(tried) == 2 * 3 * 2
    assert console.export_text().count("does not fit") == 6
    json.dumps(bench.rows, default=str)
