import json
import subprocess
import sys
from pathlib import Path

INGEST = Path(__file__).parents[2] / "benchmarks" / "ingest.py"


def test_the_benchmark_compares_the_service_with_an_empty_handler_and_the_bare_database(tmp_path):
    sizes = ["--clients", "2", "--seconds", "0.5", "--turns", "1", "--short", "30", "--rows", "1600"]
    output = tmp_path / "results.json"
    command = [sys.executable, str(INGEST), *sizes, "--databases", "sqlite", "--reads", "2", "--output", str(output)]
    subprocess.run(command, check=True)
    results = json.loads(output.read_text())
    rates = {line["batch"]: line for line in results["rates"]}
    assert set(rates) == {1, 100}
    assert all(line["rows/s"] > 0 and line["of empty handler"] > 0 for line in rates.values())
    assert rates[100]["rows/transaction"] >= 100
    assert [line["batch"] for line in results["growth"]] == [1, 100]
    assert [(line["rows in log"], line["pairs"]) for line in results["reading"]] == [(1599, 512)]
