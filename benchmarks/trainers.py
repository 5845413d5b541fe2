"""
Our trainers beside TRL's, on the same models and the same work. Each runs in a process of its own; the two of a pair
take turns after each rollout, and what is compared are rollouts that ran one after the other.

    python benchmarks/trainers.py --output outputs/trainers
    python benchmarks/trainers.py --output outputs/trainers --device cuda

- `grpo`: `OnlineGRPOTrainer` with the live reward and a log that users write to, beside TRL's `GRPOTrainer` with the
  same reward model; and the share of the time that refreshes take at the default interval.
- `ppo`: `OnlinePPOTrainer` beside the `PPOTrainer` of TRL 1.12, which lies in a folder of its own (`make test` puts it
  into `.venv/trl-oldest`).
- `curves`: the learning curves of those two on a verifiable task, in one plot; on a CPU only.
- `sizes`: on a GPU, ours with ZeRO-3, offloading and a shared base under LoRA, up to the largest model that fits.

Besides the clock's time stands the processor's, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from online_trl.demo import prepare_process
from online_trl.simulation.base_policy import train_base_policy
from trainers_arms import Arm
from trainers_launch import OutOfMemory, launch, launch_pair
from trainers_models import SHAPES, make_models
from trainers_plot import smoothed, write_curves

REFRESH_STEPS = 50  # the default of `refresh_steps`
LARGE = ("qwen2-0.5b", "qwen2-1.5b", "qwen2-3b", "qwen2-7b", "qwen2-14b")
SECTIONS = ("grpo", "ppo", "curves", "sizes")


class Bench:
    """What all sections need: the folder with the models, and how arms are run."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder
        self.on_gpu = arguments.device == "cuda"
        self.rows: list[dict[str, Any]] = []

    def arm(self, shape: str, **fields: Any) -> Arm:
        """Returns an arm of the sizes that the device is measured at."""
        gpu = {"batch": 32, "micro": 8, "tokens": 512, "words": 128, "bf16": True, "use_cpu": False}
        sizes = {**(gpu if self.on_gpu else {}), **self.arguments.sizes, "rollouts": self.arguments.rollouts}
        return Arm(models=str(self.models(shape)), **{**sizes, **fields})

    def models(self, shape: str) -> Path:
        folder = self.folder / shape
        if not folder.is_dir():
            make_models(folder, shape, bf16=self.on_gpu, device=self.arguments.device)
        return folder

    def run(self, arm: Arm, section: str, sharding: str = "none") -> dict[str, Any]:
        return self._record(section, sharding, launch(arm, self.arguments.oldest_trl, sharding))

    def _record(self, section: str, sharding: str, result: dict[str, Any]) -> dict[str, Any]:
        self.rows.append({"section": section, "sharding": sharding, **result})
        return self.rows[-1]

    def pairs(self, arm: Arm, section: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Runs ours beside TRL's, each of them first every other time."""
        runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for turn in range(self.arguments.pairs):
            arms = [replace(arm, ours=ours) for ours in ((True, False) if turn % 2 == 0 else (False, True))]
            for result in launch_pair(arms[0], arms[1], self.arguments.oldest_trl):
                runs[result["ours"]].append(self._record(section, "none", result))
        return runs[True], runs[False]


def compare(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns how ours relates to TRL's: the median over the rollouts, each with the one that ran next to it."""
    pairs = list(zip(ours, theirs, strict=True))

    def ratio(name: str) -> float:
        rollouts = [both for our, their in pairs for both in zip(our[name], their[name], strict=True)]
        return statistics.median(our / their for our, their in rollouts)

    memory = statistics.median(our["peak_memory"] / their["peak_memory"] for our, their in pairs)
    times = {"seconds": ratio("rollout_seconds"), "processor_seconds": ratio("rollout_processor_seconds")}
    return {**times, "peak_memory": memory}


def measure_grpo(bench: Bench, console: Console) -> None:
    table = Table("GRPO: ours / TRL's", "step time", "of the processor", "peak memory", "share of refreshes")
    for shape in bench.arguments.shapes:
        arm = bench.arm(shape, trainer="grpo", ours=True, generations=8)
        ratios = compare(*bench.pairs(arm, "grpo"))
        steps = bench.arguments.refresh_steps
        refreshed = bench.run(replace(arm, refresh_steps=steps, rollouts=2 * steps + 2), "refresh")
        table.add_row(
            shape,
            f"{ratios['seconds']:.3f}",
            f"{ratios['processor_seconds']:.3f}",
            f"{ratios['peak_memory']:.2f}",
            f"{refreshed['refresh_share']:.1%} ({refreshed['refreshes']} in {refreshed['rollouts']} steps)",
        )
    console.print(table)


def measure_ppo(bench: Bench, console: Console) -> None:
    table = Table("PPO: ours / TRL 1.12's", "tokens per second", "of the processor", "peak memory")
    for shape in bench.arguments.shapes:
        ratios = compare(*bench.pairs(bench.arm(shape, trainer="ppo", ours=True, epochs=4), "ppo"))
        speeds = (f"{1 / ratios[name]:.2f}" for name in ("seconds", "processor_seconds"))
        table.add_row(shape, *speeds, f"{ratios['peak_memory']:.2f}")
    console.print(table)


def measure_curves(bench: Bench, console: Console) -> None:
    base = bench.folder / "base" / "policy"
    train_base_policy(base, seed=0, max_steps=bench.arguments.base_steps)
    fields = {"trainer": "ppo", "task": "concise", "models": str(base.parent), "epochs": 2, "learning_rate": 3e-4}
    sizes = {"batch": 32, "micro": 32, **bench.arguments.sizes, "rollouts": bench.arguments.curve_rollouts}
    runs = [
        bench.run(Arm(ours=ours, seed=seed, **{**sizes, **fields}), "curves")
        for seed in range(1, bench.arguments.seeds + 1)
        for ours in (True, False)
    ]
    write_curves(runs, bench.arguments.output)
    table = Table("PPO on a verifiable task", "reward at first", "over all episodes", "at last")
    for name, ours in (("ours", True), ("TRL 1.12's", False)):
        curves = [[reward for _, reward in smoothed(run["curve"])] for run in runs if run["ours"] == ours]
        first, whole, last = (
            statistics.mean(of(curve) for curve in curves)
            for of in (lambda curve: curve[0], statistics.mean, lambda curve: curve[-1])
        )
        table.add_row(name, f"{first:.3f}", f"{whole:.3f}", f"{last:.3f}")
    console.print(table)


def measure_sizes(bench: Bench, console: Console) -> None:
    table = Table("ours", "model", "sharding", "LoRA", "peak memory", "tokens per second")
    saving = {"gradient_checkpointing": True}
    for trainer, extra in (("grpo", {"generations": 8}), ("ppo", {"epochs": 4})):
        for sharding, lora in (("zero3", False), ("offload", False), ("none", True)):
            for shape in bench.arguments.large:
                arm = bench.arm(shape, trainer=trainer, ours=True, lora=lora, settings=saving, **extra)
                given = (trainer.upper(), shape, sharding, "yes" if lora else "no")
                try:
                    row = bench.run(arm, "sizes", sharding)
                except OutOfMemory:
                    table.add_row(*given, "does not fit", "")
                    break
                table.add_row(*given, f"{row['peak_memory']:.1f} GiB", f"{row['tokens_per_second']:.0f}")
    console.print(table)


def where_time_goes(rows: Sequence[dict[str, Any]]) -> Table:
    """Returns how the time of the compared runs is divided, in per cent."""
    parts = ("generation", "scoring", "refresh", "the rest")
    table = Table("section", "trainer", "model", *parts)
    table.title, table.caption = "where the time goes", "the rest: forward, backward, optimiser"
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for row in rows:
        side = "ours" if row["ours"] else "TRL's"
        groups.setdefault((row["section"], side, Path(row["models"]).name), []).append(row["parts"])
    for key, shares in groups.items():
        of_all = [[share[part] / sum(share.values()) for share in shares] for part in parts]
        table.add_row(*key, *(f"{statistics.median(part):.0%}" for part in of_all))
    return table


MEASUREMENTS: dict[str, Callable[[Bench, Console], None]] = dict(
    zip(SECTIONS, (measure_grpo, measure_ppo, measure_curves, measure_sizes), strict=True)
)


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for trainers.json and the plot")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="what to measure; what the device is for")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="models that are compared")
    parser.add_argument("--large", nargs="+", choices=SHAPES, default=LARGE, help="models of `sizes`, ascending")
    parser.add_argument("--pairs", type=int, default=3, help="of runs that are compared (3)")
    parser.add_argument("--rollouts", type=int, default=24, help="of each run (24)")
    parser.add_argument("--seeds", type=int, default=3, help="of the learning curves (3)")
    parser.add_argument("--curve-rollouts", type=int, default=100, help="of each learning curve (100)")
    parser.add_argument("--base-steps", type=int, default=200, help="SFT steps of the policy that learns (200)")
    parser.add_argument("--refresh-steps", type=int, default=REFRESH_STEPS, help="steps between refreshes (50)")
    parser.add_argument("--sizes", type=json.loads, default={}, help='sizes of a run, as {"batch": 16, "tokens": 32}')
    parser.add_argument("--oldest-trl", type=Path, default=Path(sys.prefix) / "trl-oldest", help="folder of TRL 1.12")
    arguments = parser.parse_args(given)
    on_gpu = arguments.device == "cuda"
    arguments.sections = arguments.sections or (("grpo", "ppo", "sizes") if on_gpu else ("grpo", "ppo", "curves"))
    arguments.shapes = arguments.shapes or (("qwen2-0.5b", "qwen2-1.5b") if on_gpu else ("tiny", "demo"))
    return arguments


def main(given: list[str] | None = None) -> None:
    arguments = parse_arguments(given)
    arguments.output.mkdir(parents=True, exist_ok=True)
    prepare_process()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="trainers-") as folder:
        bench = Bench(arguments, Path(folder))
        for section in arguments.sections:
            MEASUREMENTS[section](bench, console)
            (arguments.output / "trainers.json").write_text(json.dumps(bench.rows, indent=2), encoding="utf-8")
    console.print(where_time_goes(bench.rows))


if __name__ == "__main__":
    main()
