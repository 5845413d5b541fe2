import json
import subprocess
import sys
from pathlib import Path

DRIFT = Path(__file__).parents[2] / "benchmarks" / "drift.py"


def test_the_benchmark_counts_false_alarms_and_delays(tmp_path):
    output = tmp_path / "results.json"
    subprocess.run([sys.executable, str(DRIFT), "--runs", "1", "--output", str(output)], check=True)
    results = json.loads(output.read_text())
    assert [line["intervals of 100"] for line in results["false_alarms"]] == [30] * 6
    assert [line["flip"] for line in results["delays"]] == ["0.75 to 0.45", "0.75 to 0.60"]
