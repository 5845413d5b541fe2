import pytest

from online_trl.simulation.base_policy import train_base_policy
from refresh_cost import ARMS, CORES, Bench, report


@pytest.mark.slow
def test_each_arm_refreshes_as_it_says(tmp_path, monkeypatch):
    # The process beside the trainer is given the second core, which a machine for tests need not have.
    monkeypatch.setattr("refresh_cost.CORES", CORES * 2)
    base = train_base_policy(tmp_path / "base", seed=0, max_steps=30, conversations=300)
    bench = Bench(tmp_path, base, steps=6, interval=3)
    runs = {arm: bench.run(arm, seed=1) for arm in ARMS}
    assert (runs["none"]["published"], runs["none"]["share"]) == (1, 0)
    assert runs["inline"]["published"] > 1
    assert runs["inline"]["share"] > 0
    assert runs["separate"]["published"] > 1
    columns = [list(column.cells) for column in report([runs, runs]).columns]
    assert columns[0] == list(ARMS)
    assert columns[2][0] == "1.000"
    assert columns[4] == [f"{run['versions']}, {run['versions']}" for run in runs.values()]
