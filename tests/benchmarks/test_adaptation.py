import json
import math
import random
from dataclasses import replace

import pytest
import torch

from adaptation import Job, run_all
from adaptation_ceiling import ANSWERS, PartsModel, compare, correlation_within
from adaptation_plot import write_plots
from adaptation_run import make_base, train
from adaptation_scenarios import SCENARIOS, Run
from adaptation_summary import label_ratio, labels_needed, summarise
from online_trl.simulation import helpdesk
from online_trl.simulation.taste import Taste
from rewards.statements import pair


def run(scenario, arm, satisfaction, *, seed=1, curve=((0, 0.3), (60, 0.8))):
    points = [{"step": labels, "statements": labels, "satisfaction": value} for labels, value in curve]
    return {
        "scenario": scenario,
        "arm": arm,
        "trainer": "grpo",
        "seed": seed,
        "satisfaction": satisfaction,
        "accuracy": 0.75,
        "seconds": 1.0,
        "curve": points,
    }


BASE = {"seed": 1, "taste_seed": 7, "satisfaction": {**dict.fromkeys(SCENARIOS, 0.3), "shifting": 0.4}}


def test_the_gain_is_the_share_of_the_way_from_the_base_to_the_oracle_of_the_scenario():
    runs = [
        run("dense", "oracle", 0.8),
        run("shifting", "oracle", 0.9),
        run("sparse", "ours", 0.7),
        run("shifting", "ours", 0.65),
        run("shifting", "frozen", 0.35),
    ]
    rows = {(row["scenario"], row["arm"]): row for row in summarise(runs, [BASE])["rows"]}
    assert rows["sparse", "ours"]["mean"] == pytest.approx(0.8)  # its oracle is that of the dense scenario
    assert rows["sparse", "oracle"]["mean"] == pytest.approx(1.0)
    assert rows["shifting", "ours"]["mean"] == pytest.approx(0.5)  # over the base under the new taste
    assert rows["shifting", "frozen"]["mean"] == pytest.approx(-0.1)
    assert [rows[key].get("met") for key in rows if key[1] == "ours"] == [True, False]
    assert rows["shifting", "frozen"]["met"]


def test_labels_are_counted_up_to_the_first_time_that_the_gain_is_reached():
    def gain(satisfaction):
        return satisfaction

    points = [(0, 0.0), (10, 0.2), (20, 0.8), (30, 0.6), (40, 0.9)]
    curve = [{"statements": labels, "satisfaction": value} for labels, value in points]
    assert labels_needed(curve, gain) == pytest.approx(10 + 10 * 0.5 / 0.6)
    assert labels_needed(curve[:2], gain) is None


def test_labels_are_compared_seed_by_seed_where_both_runs_are_there():
    runs = [run("dense", "oracle", 1.0, seed=seed) for seed in (1, 2, 3)]
    runs += [run("label_cost", "random", 0.9, seed=seed, curve=((0, 0.0), (100, 1.0))) for seed in (1, 3)]
    runs += [run("label_cost", "ours", 0.9, seed=seed, curve=((0, 0.0), (50, 1.0), (100, 1.0))) for seed in (1, 2, 3)]
    bases = [{"seed": seed, "taste_seed": 7, "satisfaction": dict.fromkeys(SCENARIOS, 0.0)} for seed in (1, 2, 3)]
    ours = next(row for row in summarise(runs, bases)["rows"] if row["arm"] == "ours")
    assert ours["ratios"] == [0.5, 0.5]
    assert ours["met"]


def test_who_never_gets_there_needed_every_label():
    assert label_ratio(30.0, 60.0, 100.0) == 0.5
    assert label_ratio(30.0, None, 100.0) == 0.3
    assert label_ratio(None, None, 100.0) == math.inf


@pytest.mark.slow
def test_a_small_run_leaves_curves_and_the_oracle_improves(tmp_path):
    base = make_base(tmp_path / "base", seed=1, taste_seed=7, size=0.2)
    runs = []
    for arm in ("oracle", "plain"):
        (folder := tmp_path / arm).mkdir()
        run = Run(scenario="dense", arm=arm, trainer="grpo", seed=1, taste_seed=7, size=0.2)
        runs.append(train(run, tmp_path / "base", folder))
    summary = summarise(json.loads(json.dumps(runs)), [base])
    rows = {row["arm"]: row for row in summary["rows"]}
    assert set(rows) == {"oracle", "plain"}
    assert rows["oracle"]["satisfaction"] > base["satisfaction"]["dense"] + 0.03
    assert [point["step"] for point in rows["plain"]["curve"]] == [0, 2, 4, 6, 8, 10, 12]
    assert rows["plain"]["statements"] == 6 * 24  # each conversation ends with a statement
    (folder := tmp_path / "ours").mkdir()
    ours = Run(scenario="dense", arm="ours", trainer="grpo", seed=1, taste_seed=7, size=0.2)
    compared = compare(ours, tmp_path / "base", folder)
    assert [step for step, _, _ in compared] == [0, 2, 4, 6, 8, 10]
    assert all(parts > 0.5 for _, _, parts in compared)
    write_plots(summary, tmp_path)
    assert (tmp_path / "adaptation.svg").read_text().startswith("<svg")


def test_what_is_finished_is_not_run_again(tmp_path):
    (finished := tmp_path / "finished.json").write_text("{}")
    run_all([Job({}, tmp_path, finished)], processes=1)


def test_a_model_of_the_parts_learns_the_taste_from_few_pairs():
    taste, rng = Taste(3), random.Random(0)
    answered = [
        (question.text, helpdesk.write_answer(question, helpdesk.sample_style(rng), rng))
        for question in rng.sample(helpdesk.train_questions(), 100)
        for _ in range(ANSWERS)
    ]
    truth = torch.tensor([taste.satisfaction(*each) for each in answered])
    statements = []
    for number in range(0, 60 * ANSWERS, ANSWERS):
        better, worse = sorted(range(number, number + 2), key=lambda index: -truth[index])
        texts = [[{"role": "assistant", "content": answered[index][1]}] for index in (better, worse)]
        question = [{"role": "user", "content": answered[number][0]}]
        statements.append(replace(pair(number), prompt=question, chosen=texts[0], rejected=texts[1]))
    held_out = slice(60 * ANSWERS, None)
    scores = PartsModel(taste, statements).scores(answered[held_out])
    assert correlation_within(scores, truth[held_out], ANSWERS) > 0.85


def test_what_differs_between_questions_does_not_count():
    scores = torch.tensor([1.0, 2.0, 11.0, 12.0])
    assert correlation_within(scores, torch.tensor([0.2, 0.1, 0.8, 0.9]), 2) == pytest.approx(0.0, abs=1e-6)
    assert correlation_within(scores, torch.tensor([0.1, 0.2, 0.6, 0.9]), 2) == pytest.approx(2 / 5**0.5, abs=1e-6)
