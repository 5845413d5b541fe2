"""One run of the adaptation benchmark: a policy trained in one scenario, with one arm, from one seed."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from datasets import Dataset
from transformers import PrinterCallback

from adaptation_arms import PlainRefresher, TrueTaste, accuracy
from adaptation_asking import Asking
from adaptation_deployment import Deployment
from adaptation_policy import MAX_TOKENS, examine, load_policy, satisfaction
from adaptation_scenarios import SCENARIOS, Run, scaled
from adaptation_users import Audience
from online_trl.callbacks import RefreshCallback
from online_trl.data import PreferenceFeed
from online_trl.demo.stations import TRAINERS
from online_trl.registry import ModelRegistry
from online_trl.rewards.outcome import RefreshOutcome
from online_trl.rewards.schedule import RefreshSchedule
from online_trl.rewards.scorer import LiveReward
from online_trl.simulation import helpdesk
from online_trl.simulation.base_policy import train_base_policy
from online_trl.store import FeedbackStore

_FINAL_QUESTIONS, _FINAL_ANSWERS = 128, 4
_SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 8},
    "ppo": {"num_generations": 1, "num_iterations": 2},
}
_COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "max_completion_length": MAX_TOKENS,
    "learning_rate": 6e-4,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "refresh_min_statements": 4,
    # On all that is remembered: refresh upon refresh, so small a model learns its few hundred statements by heart, and
    # orders new answers less well than one that is made anew.
    "refresh_start": "initial",
    "reward_config": {"learning_rate": 1e-3, "num_train_epochs": 3, "per_device_train_batch_size": 16},
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}


def train(run: Run, base: Path, folder: Path) -> dict[str, Any]:
    """
    Trains, and returns what is to be reported.

    Args:
        run ([`Run`]):
            What to run.
        base (`Path`):
            Folder of the base policy.
        folder (`Path`):
            Where the log, the registry and the trainer's files go.
    """
    started = time.monotonic()
    with FeedbackStore(f"sqlite:///{folder / 'feedback.db'}") as store:
        deployment, trainer = assemble(run, base, folder, store)
        trainer.train()
        answered = examine(
            trainer.model,
            trainer.processing_class,
            questions=run.scaled(_FINAL_QUESTIONS),
            answers=_FINAL_ANSWERS,
            seed=run.seed,
        )
        final = {
            "step": trainer.state.global_step,
            "statements": deployment.audience.said.total() if deployment.audience else 0,
            "satisfaction": satisfaction(deployment.taste, answered),
            "accuracy": accuracy(deployment.reward, deployment.taste, answered),
        }
    return {
        **asdict(run),
        "curve": [*deployment.curve, final],
        "satisfaction": final["satisfaction"],
        "accuracy": final["accuracy"],
        "said": dict(deployment.audience.said) if deployment.audience else {},
        "answers": deployment.audience.answers if deployment.audience else 0,
        "refreshes": [_refreshed(outcome) for outcome in trainer.refreshes],
        "samples": [{"question": question, "answer": answer} for question, answer in answered[:20:4]],
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time(),
    }


def assemble(run: Run, base: Path, folder: Path, store: FeedbackStore) -> tuple[Deployment, Any]:
    """
    Makes the trainer of a run, and what plays deployment beside it.

    Args:
        run ([`Run`]), base (`Path`), folder (`Path`):
            As in [`train`].
        store ([`~online_trl.store.FeedbackStore`]):
            The log.
    """
    taste = run.setting.taste(run.taste_seed)
    config_type, trainer_type = TRAINERS[run.trainer]
    reward: Any = TrueTaste(taste)
    if run.arm in ("frozen", "plain"):
        reward = PlainRefresher(base, folder / "reward", seed=run.seed)
    elif run.arm != "oracle":
        reward = LiveReward(ModelRegistry(folder / "registry"))
    audience = None
    if run.arm != "oracle":
        audience = Audience(store, taste, run.setting, seed=run.seed, size=run.size)
    asking = Asking(reward, run.arm, seed=run.seed) if run.setting.asks and run.arm != "oracle" else None
    deployment = Deployment(run, taste, reward, audience, asking)
    settings = {
        "output_dir": str(folder / "training"),
        "seed": run.seed,
        "max_steps": run.version_steps * run.setting.versions,
        "refresh_steps": run.version_steps,
        "beta": run.setting.beta,
        **_COMMON,
        **_SETTINGS[run.trainer],
    }
    if isinstance(reward, LiveReward):
        settings |= run.settings
    args = config_type(**settings)
    prompts = [{"prompt": [{"role": "user", "content": question.text}]} for question in helpdesk.train_questions()]
    trainer = trainer_type(
        model=str(base),
        reward_funcs=[reward],
        args=args,
        train_dataset=Dataset.from_list(prompts).shuffle(seed=run.seed),
        store=store if audience is not None else None,
        callbacks=[deployment],
    )
    trainer.remove_callback(PrinterCallback)
    if isinstance(reward, PlainRefresher):
        steps = run.version_steps if run.arm == "plain" else 0
        # After the deployment, so that a refresh learns from what was said about the newest version.
        feed = PreferenceFeed(store)
        schedule = RefreshSchedule(feed, reward, on_drift=False, min_statements=2)
        trainer.add_callback(RefreshCallback(schedule, steps=steps))
    return deployment, trainer


def _refreshed(outcome: RefreshOutcome) -> dict[str, Any]:
    return {
        "version": outcome.version,
        "accepted": outcome.decision.accepted,
        "reason": outcome.decision.reason,
        "trained_on": outcome.trained_on,
        "accuracy": None if math.isnan(outcome.accuracy) else outcome.accuracy,
        "heldout": outcome.heldout,
        "drift": outcome.drift,
        "restarted": outcome.restarted,
        "seconds": outcome.seconds,
    }


def make_base(folder: Path, *, seed: int, taste_seed: int, size: float = 1.0) -> dict[str, Any]:
    """Trains the base policy of a seed, and returns how satisfying it is in each scenario's end."""
    train_base_policy(folder, seed=seed, max_steps=max(60, round(200 * size)), conversations=scaled(4000, size))
    model, tokenizer = load_policy(folder)
    questions = scaled(_FINAL_QUESTIONS, size)
    answered = examine(model, tokenizer, questions=questions, answers=2 * _FINAL_ANSWERS, seed=seed)
    return {
        "seed": seed,
        "taste_seed": taste_seed,
        "satisfaction": {
            name: satisfaction(scenario.final_taste(taste_seed), answered) for name, scenario in SCENARIOS.items()
        },
    }


def run_job(what: dict[str, Any], base: Path, result: Path) -> None:
    """
    Runs in a process of its own, and leaves the result and a log.

    Args:
        what (`dict[str, Any]`):
            Fields of a [`Run`], or the seeds of a base policy.
        base (`Path`):
            Folder of the base policy.
        result (`Path`):
            File for the result.
    """
    os.setsid()  # Ctrl-C is for the process that started this one, and ends it
    keep_quiet()
    with result.with_suffix(".log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if "scenario" in what:
            with tempfile.TemporaryDirectory(prefix="adaptation-") as folder:
                content = train(Run(**what), base, Path(folder))
        else:
            content = make_base(base, **what)
    staged = result.with_suffix(".tmp")
    staged.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(staged, result)  # as a whole or not at all


def keep_quiet() -> None:
    """Leaves one thread to the process, and no progress bars."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
