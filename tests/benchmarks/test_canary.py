import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from canary import Group, standing_of
from online_trl.canary import CanarySettings, decide_canary
from online_trl.types import CanaryAction, CanaryFeedback, Judgements, VersionFeedback

CANARY = Path(__file__).parents[2] / "benchmarks" / "canary.py"


def test_the_benchmark_counts_errors_and_waits(tmp_path):
    output = tmp_path / "results.json"
    sizes = ["--runs", "20", "--max-judgements", "3000", "--shares", "0.5", "--effects", "0", "0.25", "-0.25"]
    subprocess.run([sys.executable, str(CANARY), *sizes, "--output", str(output)], check=True)
    even, better, worse = json.loads(output.read_text())
    assert even["median"] is None
    assert even["promoted"] <= 0.2
    assert (better["promoted"], worse["worse"]) == (1.0, 1.0)
    assert better["median"] < 3000


def test_the_benchmark_decides_as_the_canary_does():
    settings = CanarySettings()
    for effect, action in ((0.3, CanaryAction.PROMOTE), (-0.3, CanaryAction.ROLL_BACK), (0.0, CanaryAction.CONTINUE)):
        rng = np.random.default_rng(0)
        groups = [Group.draw(rng, 1, users, 0.6 + lift) for users, lift in ((60, effect), (300, 0.0))]
        for group in groups:
            group.answer(rng, 20 * group.ups.size, 1.0)
        standing = standing_of(*groups, settings)
        decision = decide_canary(CanaryFeedback(*map(arm, groups)), settings=settings)
        assert decision.action is action
        assert (bool(standing.is_better[0]), bool(standing.is_worse[0])) == (
            action is CanaryAction.PROMOTE,
            action is CanaryAction.ROLL_BACK,
        )


def arm(group):
    return VersionFeedback(listed(group.ups[0], group.responses[0]), listed(group.responses[0], group.answers[0]))


def listed(ones, counts):
    said = [
        (float(number < one), f"user-{user}")
        for user, (one, count) in enumerate(zip(ones, counts, strict=True))
        for number in range(int(count))
    ]
    return Judgements(*zip(*said, strict=True))
