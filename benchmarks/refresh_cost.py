"""
What refreshing the reward model costs a running trainer, at the sizes of the demo.

    python benchmarks/refresh_cost.py

The same GRPO run three times: with a reward model that nobody refreshes, with one that the trainer refreshes inline
every so many steps, and with one that a process of its own refreshes beside it. Given is the time of the run as a
ratio to the first, and the share of it that the refreshes took. Run it on a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback

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

ROOT = Path(__file__).parents[1]
ARMS = ("none", "inline", "separate")


class Bench:
    """A log with feedback in it, and the runs on it."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.base = train_base_policy(folder / "base", seed=0)
        self.url = f"sqlite:///{folder / 'feedback.db'}"
        self.registry = ModelRegistry(folder / "registry")

    def run(self, arm: str) -> dict[str, Any]:
        """Trains once and returns how long it took, and how long the refreshes in it."""
        with FeedbackStore(self.url) as store:
            self._talk(store)
            trainer = self._trainer(arm, store)
            refresher = self._refresher() if arm == "separate" else None
            started = time.monotonic()
            trainer.train()
            seconds = time.monotonic() - started
            if refresher is not None:
                refresher.send_signal(signal.SIGINT)
                refresher.wait()
        return {
            "arm": arm,
            "seconds": seconds,
            "refreshes": len(trainer.refreshes),
            "refreshing": sum(outcome.seconds for outcome in trainer.refreshes),
            "versions used": len(trainer.live_reward.versions_used),
        }

    def _talk(self, store: FeedbackStore) -> None:
        scenario = SCENARIOS["dense"]
        audience = Audience(store, scenario.taste(0), scenario, seed=store.latest_seq())
        model, tokenizer = load_policy(self.base)
        for round in range(2):
            audience.hold(round, "policy-0001", partial(sample, model, tokenizer, seed=round))

    def _trainer(self, arm: str, store: FeedbackStore) -> OnlineGRPOTrainer:
        live = LiveReward(self.registry)
        settings = {**COMMON, **TRAINING["grpo"], "max_steps": self.steps, "save_strategy": "no"}
        if arm != "inline":
            settings["refresh_mode"] = "follow"
        questions = [[{"role": "user", "content": question.text}] for question in helpdesk.train_questions()]
        trainer = OnlineGRPOTrainer(
            str(self.base),
            [live],
            OnlineGRPOConfig(output_dir=str(self.folder / arm), **settings),
            train_dataset=Dataset.from_dict({"prompt": questions}),
            store=store,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _refresher(self) -> subprocess.Popen[bytes]:
        content = {
            **COMMON["reward_config"],
            "model_name_or_path": str(self.base),
            "store": self.url,
            "registry": str(self.registry.location),
            "output_dir": str(self.folder / "refresh"),
            "refresh_rows": 1,
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
        config = self.folder / "refresh.yaml"
        config.write_text(yaml.safe_dump(content))
        command = [sys.executable, str(ROOT / "recipes" / "reward_refresh.py"), "--config", str(config)]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=56, help="policy steps of a run (56)")
    arguments = parser.parse_args()
    prepare_process()
    with tempfile.TemporaryDirectory(prefix="refresh-cost-") as folder:
        bench = Bench(Path(folder), arguments.steps)
        bench.run("inline")  # a first version for the others to follow, and what is loaded once is loaded
        rows = [bench.run(arm) for arm in ARMS]
    table = Table("refreshed", "seconds", "ratio", "refreshes in the trainer", "their share")
    for row in rows:
        share = f"{row['refreshing'] / row['seconds']:.1%}"
        ratio = f"{row['seconds'] / rows[0]['seconds']:.3f}"
        table.add_row(row["arm"], f"{row['seconds']:.1f}", ratio, str(row["refreshes"]), share)
    Console().print(table)


if __name__ == "__main__":
    main()
