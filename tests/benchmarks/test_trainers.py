import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

import trainers
from trainers_arms import Arm, run_arm
from trainers_clock import Turns
from trainers_launch import launch_pair
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


@pytest.mark.slow
def test_the_two_of_a_pair_take_turns_after_each_rollout(models, tmp_path):
    arms = [
        Arm(trainer="ppo", ours=True, models=models, epochs=2, **TINY),
        Arm(trainer="grpo", ours=False, models=models, generations=4, **TINY),
    ]
    results = launch_pair(*arms, tmp_path)
    assert [result["trainer"] for result in results] == ["ppo", "grpo"]
    assert [len(result["rollout_seconds"]) for result in results] == [3, 3]


def test_nobody_has_a_turn_before_the_other_gives_it_up():
    order, pipes = [], (os.pipe(), os.pipe())
    turns = {
        place: Turns(f"{pipes[at][0]},{pipes[1 - at][1]},{place}", steps=2)
        for at, place in enumerate(("first", "second"))
    }

    def run(place):
        for _step in range(6):
            order.append(place)
            turns[place].pass_on()
        os.close(pipes[place == "first"][1])

    second = threading.Thread(target=run, args=("second",))
    second.start()
    run("first")
    second.join()
    warm = sorted(order[:4])
    assert warm == ["first"] * 2 + ["second"] * 2
    assert order[4:] == ["second"] * 2 + ["first"] * 2 + ["second"] * 2 + ["first"] * 2
    assert turns["first"].waited > 0


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
