"""
Does the reward model keep up with people? Policies trained in a simulated world whose taste nothing on the training
side reads: on feedback that is dense, sparse, late, shifting or partly hostile, and on labels that are asked for well.

    python benchmarks/adaptation.py --output outputs/adaptation

Each arm is one training run in a process of its own: the oracle (the true taste as the reward), a reward model that is
frozen after the first labels, TRL's `RewardTrainer` on all pairs at each refresh, and ours. All arms get as many
statements and take as many policy steps. The gain of an arm is its share of the way from the base policy to the
oracle, in mean true satisfaction on questions that were never asked in training.

What is finished is not run again: stopped with Ctrl-C, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from adaptation_plot import write_plots
from adaptation_run import run_job
from adaptation_scenarios import ARMS, SCENARIOS
from adaptation_summary import console_table, summarise

_DEFAULT_SEEDS = 5


@dataclass(frozen=True, slots=True)
class Job:
    """
    A process to run.

    Args:
        what (`dict[str, Any]`):
            What [`adaptation_run.run_job`] is told: a run, or the seeds of a base policy.
        base (`Path`):
            Folder of the base policy.
        result (`Path`):
            File that it leaves.
    """

    what: dict[str, Any]
    base: Path
    result: Path

    @property
    def is_done(self) -> bool:
        """Whether its result is there."""
        return self.result.is_file()


def base_jobs(arguments: argparse.Namespace, seeds: Sequence[tuple[int, int]]) -> list[Job]:
    """Returns one job for the base policy of each seed."""
    output = arguments.output
    return [
        Job(
            {"seed": seed, "taste_seed": taste, "size": arguments.size},
            output / "base" / str(seed),
            output / "runs" / f"base-{seed}.json",
        )
        for seed, taste in seeds
    ]


def run_jobs(arguments: argparse.Namespace, seeds: Sequence[tuple[int, int]]) -> list[Job]:
    """Returns the training runs, the oracles first and none twice: scenarios whose taste stays share theirs."""
    jobs: dict[Path, Job] = {}
    arms = [(name, arm) for name in arguments.scenarios for arm in ("oracle", *SCENARIOS[name].arms)]
    for seed, taste in seeds:
        for name, arm in sorted(arms, key=lambda row: row[1] != "oracle"):
            for trainer in _trainers(name, arguments.trainer):
                if arm != "oracle" and arm not in arguments.arms:
                    continue
                what = {
                    "scenario": SCENARIOS[name].oracle if arm == "oracle" else name,
                    "arm": arm,
                    "trainer": trainer,
                    "seed": seed,
                    "taste_seed": taste,
                    "size": arguments.size,
                    "settings": arguments.settings if arm not in ("oracle", "frozen", "plain") else {},
                }
                result = arguments.output / "runs" / f"{what['scenario']}-{arm}-{trainer}-{seed}.json"
                jobs[result] = Job(what, arguments.output / "base" / str(seed), result)
    return list(jobs.values())


def _trainers(scenario: str, asked: str) -> list[str]:
    return [name for name in SCENARIOS[scenario].trainers if asked in (name, "both")]


def run_all(jobs: Iterable[Job], processes: int) -> None:
    """Runs what is not done yet, so many at a time; what fails leaves no result and is named."""
    waiting = deque(job for job in jobs if not job.is_done)
    total, done, started = len(waiting), 0, time.monotonic()
    running: dict[BaseProcess, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.popleft()
                running[_start(job)] = job
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                job = running.pop(process)
                done += 1
                left = (time.monotonic() - started) / done * (total - done)
                outcome = "" if job.is_done else f"  failed, see {job.result.with_suffix('.log')}"
                print(
                    f"{done:>4} of {total}  {job.result.stem:<32}  about {left / 60:.1f} min to go{outcome}",
                    flush=True,
                )
    finally:
        for process in running:
            process.terminate()
            process.join()


def _start(job: Job) -> BaseProcess:
    job.result.parent.mkdir(parents=True, exist_ok=True)
    # Importing takes seconds, and is done once for all of them.
    context = get_context("forkserver")
    context.set_forkserver_preload(["adaptation_run"])
    process = context.Process(target=run_job, args=(job.what, job.base, job.result))
    process.start()
    return process


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs, the results and the plots")
    parser.add_argument("--seeds", type=int, default=_DEFAULT_SEEDS, help="how many seeds (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them (%(default)s)")
    parser.add_argument(
        "--taste-seed",
        type=int,
        nargs="+",
        help="seeds of the tastes, in turn over the seeds; by default each seed has a taste of its own",
    )
    parser.add_argument("--scenarios", nargs="+", choices=tuple(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="beside the oracle")
    parser.add_argument("--trainer", choices=("grpo", "ppo", "both"), default="both")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each (%(default)s)")
    parser.add_argument("--size", type=float, default=1.0, help="share of the steps and conversations, for a try")
    parser.add_argument(
        "--settings",
        type=json.loads,
        default={},
        help="fields of the trainer's config to change for ours, as JSON; in a folder of its own",
    )
    return parser.parse_args()


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are started
    arguments = _parse()
    numbers = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    tastes = arguments.taste_seed or list(numbers)
    seeds = [(seed, tastes[index % len(tastes)]) for index, seed in enumerate(numbers)]
    bases, jobs = base_jobs(arguments, seeds), run_jobs(arguments, seeds)
    try:
        run_all(bases, arguments.jobs)
        run_all(jobs, arguments.jobs)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")
    results = [json.loads(job.result.read_text(encoding="utf-8")) for job in jobs if job.is_done]
    summary = summarise(results, [json.loads(job.result.read_text(encoding="utf-8")) for job in bases])
    (arguments.output / "results.json").write_text(json.dumps({**summary, "runs": results}, indent=1))
    write_plots(summary, arguments.output)
    print(console_table(summary))
    if failed := [job.result.stem for job in jobs if not job.is_done]:
        sys.exit(f"Not in the table, for they failed: {', '.join(failed)}. The same command tries them again.")


if __name__ == "__main__":
    main()
