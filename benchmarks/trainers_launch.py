"""Runs an arm of the benchmark of the trainers in a process of its own, with the TRL and the sharding it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainers_arms import Arm

ROOT = Path(__file__).parents[1]


class OutOfMemory(RuntimeError):
    """The model does not fit."""


def launch(arm: Arm, oldest_trl: Path, sharding: str = "none") -> dict[str, Any]:
    """
    Runs an arm.

    Args:
        arm ([`Arm`]):
            What to run.
        oldest_trl (`Path`):
            Folder of TRL 1.12, for its `PPOTrainer`.
        sharding (`str`, *optional*, defaults to `"none"`):
            `none`, `zero3`, or `offload`: ZeRO-3 with weights and optimiser in the machine's memory.

    Returns:
        `dict[str, Any]`: What [`trainers_arms.run_arm`] measured.

    Raises:
        [`OutOfMemory`]: if the device's memory is too small.
        `RuntimeError`: if the run fails otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="arm-") as name:
        folder = Path(name)
        (folder / "arm.json").write_text(json.dumps(asdict(arm)), encoding="utf-8")
        command = [*_launcher(sharding, folder), str(ROOT / "benchmarks" / "trainers_arms.py")]
        command += [str(folder / "arm.json"), str(folder / "result.json")]
        finished = subprocess.run(command, env=_environment(arm, oldest_trl), capture_output=True, text=True)
        # The second is the device's driver, the last what the kernel does to whoever takes too much of the machine's.
        if "OutOfMemoryError" in finished.stderr or "out of memory" in finished.stderr or finished.returncode == -9:
            raise OutOfMemory
        if finished.returncode != 0:
            raise RuntimeError(f"{arm} failed:\n{finished.stderr[-3000:]}")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result


def _environment(arm: Arm, oldest_trl: Path) -> dict[str, str]:
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    if arm.trainer == "ppo" and not arm.ours:
        if not (oldest_trl / "trl").is_dir():
            raise RuntimeError(
                f"there is no TRL 1.12 in {oldest_trl}: `pip install --no-deps --target {oldest_trl} trl==1.12.0`"
            )
        path.insert(0, str(oldest_trl))
    # Memory that is given back to the system and asked for again slows some runs by a tenth and others not at all.
    keep = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2 * 10**9))
    return {**os.environ, **keep, "PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"}


def _launcher(sharding: str, folder: Path) -> list[str]:
    if sharding == "none":
        return [sys.executable]
    config = json.loads((ROOT / "ds_configs" / "zero3.json").read_text(encoding="utf-8"))
    if sharding == "offload":
        config["zero_optimization"] |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    (folder / "deepspeed.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--use_deepspeed"]
    command += ["--deepspeed_config_file", str(folder / "deepspeed.json"), "--zero3_init_flag", "true"]
    return command
