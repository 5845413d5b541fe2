"""Runs an arm of the benchmark of the trainers in a process of its own, with the TRL and the sharding it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    with (
        tempfile.TemporaryDirectory(prefix="arm-") as folder,
        _started(arm, Path(folder), oldest_trl, sharding) as process,
    ):
        return _finish(arm, process, Path(folder))


def launch_pair(first: Arm, second: Arm, oldest_trl: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Runs two arms at the same time, which take turns after each rollout, so that what slows the machine for a while
    slows both. Takes and raises what [`launch`] does.
    """
    with tempfile.TemporaryDirectory(prefix="arms-") as name, ExitStack() as stack:
        arms, folders, processes = (first, second), (Path(name) / "first", Path(name) / "second"), []
        with _pipes() as pipes:
            for place, (arm, folder) in enumerate(zip(arms, folders, strict=True)):
                folder.mkdir()
                turns = (pipes[place][0], pipes[1 - place][1], ("first", "second")[place])
                processes.append(stack.enter_context(_started(arm, folder, oldest_trl, turns=turns)))
        results = [_finish(*given) for given in zip(arms, processes, folders, strict=True)]
        return results[0], results[1]


@contextmanager
def _pipes() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    pipes = os.pipe(), os.pipe()
    try:
        yield pipes
    finally:
        for end in (*pipes[0], *pipes[1]):
            os.close(end)  # who waits for one that is gone then learns of it


@contextmanager
def _started(
    arm: Arm, folder: Path, oldest_trl: Path, sharding: str = "none", turns: tuple[int, int, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "arm.json").write_text(json.dumps(asdict(arm)), encoding="utf-8")
    command = [*_launcher(sharding, folder), str(ROOT / "benchmarks" / "trainers_arms.py")]
    command += [str(folder / "arm.json"), str(folder / "result.json")]
    environment = _environment(arm, oldest_trl) | ({"TURNS": ",".join(map(str, turns))} if turns else {})
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, pass_fds=turns[:2] if turns else ()
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _finish(arm: Arm, process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    code, said = process.wait(), (folder / "log").read_text(encoding="utf-8", errors="replace")
    # The second is the device's driver, the last what the kernel does to whoever takes too much of the machine's.
    if "OutOfMemoryError" in said or "out of memory" in said or code == -9:
        raise OutOfMemory
    if code != 0:
        raise RuntimeError(f"{arm} failed:\n{said[-3000:]}")
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
