"""
What refreshing the reward model costs a running trainer, at the sizes of the demo.

    python benchmarks/refresh_cost.py

The same GRPO run with a reward model that nobody refreshes, with one that the trainer refreshes inline every so many
steps, and with one that a process of its own refreshes beside it. While they run, users go on talking; what that takes
is not counted. The trainer has one core to itself and the other process another one, as two machines would.

Given are medians over the repeats: the time of the run as a ratio to the first, and the share of it that the trainer
spent on refreshes, or on taking over what was published. Run it on a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, TrainerCallback

from adaptation_policy import load_policy, sample
from adaptation_scenarios import SCENARIOS
from adaptation_users import Audience
from online_trl.demo import COMMON, TRAINING, prepare_process
from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.registry import ModelRegistry
from online_trl.rewards.scorer import LiveReward
from online_trl.simulation import helpdesk
from online_trl.simulation.base_policy import train_base_policy
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole

ROOT = Path(__file__).parents[1]
ARMS = ("none", "inline", "separate")
CORES = sorted(os.sched_getaffinity(0))
_TALKS = 4  # times in each interval that users talk
_PATIENCE = 120  # seconds that a run waits, in the end, for the process beside it to publish


class FollowedReward(LiveReward):
    """A live reward that knows how long it took to look for new versions, and to load them."""

    seconds = 0.0

    def follow(self) -> None:
        started = time.monotonic()
        super().follow()
        self.seconds += time.monotonic() - started


class Talk(TrainerCallback):
    """Users who talk and react while a policy is trained, and how long that holds the trainer up."""

    def __init__(self, store: FeedbackStore, base: Path, every: int, *, seed: int) -> None:
        scenario = SCENARIOS["dense"]
        self._audience = Audience(store, scenario.taste(0), scenario, seed=seed, size=1 / _TALKS)
        self._model, self._tokenizer = load_policy(base)
        self._every = every
        self.seconds = 0.0

    def hold(self, round: int) -> None:
        """Lets users hold so many conversations."""
        answer = partial(sample, self._model, self._tokenizer, seed=round)
        self._audience.hold(round, "policy-0001", answer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every == 0:
            started = time.monotonic()
            self.hold(state.global_step)
            self.seconds += time.monotonic() - started


class Bench:
    """A first log and a first reward model, and the runs that go on from them."""

    def __init__(self, folder: Path, base: Path, steps: int, interval: int) -> None:
        self.folder = folder
        self.base = base
        self.steps = steps
        self.interval = interval
        self._start = folder / "start"
        self._start.mkdir()
        with FeedbackStore(_log(self._start)) as store:
            talk = Talk(store, self.base, interval, seed=0)
            for number in range(2 * _TALKS):
                talk.hold(number)
            # So many rows come in between two inline refreshes; a little less, for them to be there in time.
            self._rows = round(0.9 * store.latest_seq() / 2)
            # Makes a first version for all to go on from, and loads what is loaded once.
            live = LiveReward(ModelRegistry(self._start / "registry"))
            self._trainer("inline", self._start, live, store, max_steps=1).train()

    def run(self, arm: str, *, seed: int) -> dict[str, Any]:
        """Trains once and returns how long it took, and how much of that went into refreshes."""
        folder = self.folder / f"{arm}-{seed}"
        shutil.copytree(self._start, folder)
        with FeedbackStore(_log(folder)) as store:
            live = FollowedReward(ModelRegistry(folder / "registry"))
            trainer = self._trainer(arm, folder, live, store, max_steps=self.steps)
            talk = Talk(store, self.base, max(1, self.interval // _TALKS), seed=seed)
            trainer.add_callback(talk)
            refresher = self._refresher(folder) if arm == "separate" else None
            started = time.monotonic()
            trainer.train()
            seconds = time.monotonic() - started - talk.seconds
            if refresher is not None:
                _end(refresher, live.registry)
        published = len(live.registry.versions(ModelRole.REWARD))
        spent = live.seconds if arm == "separate" else sum(outcome.seconds for outcome in trainer.refreshes)
        return {
            "seconds": seconds,
            "share": spent / seconds,
            "versions": len(live.versions_used),
            "published": published,
        }

    def _trainer(
        self, arm: str, folder: Path, live: LiveReward, store: FeedbackStore, *, max_steps: int
    ) -> OnlineGRPOTrainer:
        settings = {
            **COMMON,
            **TRAINING["grpo"],
            "max_steps": max_steps,
            "refresh_steps": self.interval if arm == "inline" else 0,
            "refresh_mode": "inline" if arm == "inline" else "follow",
            "save_strategy": "no",
        }
        questions = [[{"role": "user", "content": question.text}] for question in helpdesk.train_questions()]
        trainer = OnlineGRPOTrainer(
            str(self.base),
            [live],
            OnlineGRPOConfig(output_dir=str(folder / "training"), **settings),
            train_dataset=Dataset.from_dict({"prompt": questions}),
            store=store,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _refresher(self, folder: Path) -> subprocess.Popen[bytes]:
        content = {
            **COMMON["reward_config"],
            "model_name_or_path": str(self.base),
            "store": _log(folder),
            "registry": str(folder / "registry"),
            "output_dir": str(folder / "refresh"),
            "refresh_rows": self._rows,
            "refresh_min_statements": COMMON["refresh_min_statements"],
            "refresh_replay": COMMON["refresh_replay"],
            "pause": 1.0,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "save_strategy": "no",
        }
        config = folder / "refresh.yaml"
        config.write_text(yaml.safe_dump(content))
        command = [sys.executable, str(ROOT / "recipes" / "reward_refresh.py"), "--config", str(config)]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        os.sched_setaffinity(process.pid, {CORES[1]})
        return process


def _end(refresher: subprocess.Popen[bytes], registry: ModelRegistry) -> None:
    # A run may be over before the process has begun to listen.
    deadline = time.monotonic() + _PATIENCE
    while refresher.poll() is None and len(registry.versions(ModelRole.REWARD)) < 2:
        if time.monotonic() > deadline:
            refresher.kill()
            sys.exit(
                f"no version came of the process that refreshes, {_PATIENCE} s after the run: give it more --steps"
            )
        time.sleep(0.5)
    refresher.send_signal(signal.SIGINT)
    if status := refresher.wait():
        sys.exit(f"the process that refreshes ended with status {status}: its words stand above")


def _log(folder: Path) -> str:
    return f"sqlite:///{folder / 'feedback.db'}"


def report(rounds: Sequence[dict[str, dict[str, Any]]]) -> Table:
    """Returns the medians over rounds in which each arm ran once."""
    table = Table("refreshed", "seconds", "ratio", "share of the trainer's time", "versions that paid")
    for arm in ARMS:
        runs = [each[arm] for each in rounds]
        ratio = statistics.median(each[arm]["seconds"] / each["none"]["seconds"] for each in rounds)
        seconds, share = (statistics.median(run[name] for run in runs) for name in ("seconds", "share"))
        versions = ", ".join(str(run["versions"]) for run in runs)
        table.add_row(arm, f"{seconds:.1f}", f"{ratio:.3f}", f"{share:.2%}", versions)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="policy steps of a run (%(default)s)")
    parser.add_argument("--interval", type=int, default=50, help="policy steps between two refreshes (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind (%(default)s)")
    arguments = parser.parse_args()
    if len(CORES) < 2:
        parser.error("there is one core here, and the trainer and the other process need one each")
    prepare_process()
    os.sched_setaffinity(0, {CORES[0]})
    with tempfile.TemporaryDirectory(prefix="refresh-cost-") as temporary:
        folder = Path(temporary)
        base = train_base_policy(folder / "base", seed=0)
        bench = Bench(folder, base, arguments.steps, arguments.interval)
        rounds = [{arm: bench.run(arm, seed=seed) for arm in ARMS} for seed in range(1, arguments.repeats + 1)]
    Console().print(report(rounds))


if __name__ == "__main__":
    main()
