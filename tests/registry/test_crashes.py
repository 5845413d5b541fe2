import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("change", ["publish", "promote", "rollback", "canary", "record", "prune"])
def test_a_process_killed_at_any_moment_leaves_what_was_before_or_after(change, tmp_path):
    script = Path(__file__).with_name("killing.py")
    path = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), change],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    moments, before = map(int, re.search(r"killed at (\d+) moments, (\d+) of them", done.stdout).groups())
    assert 0 < before < moments
