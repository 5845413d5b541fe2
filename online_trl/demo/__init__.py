"""The demo: the whole loop on this machine, with a policy made on the spot and simulated users.

The training side never sees what the users like; it sees the feedback log.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from rich.console import Console
from rich.text import Text

from ..callbacks import StepProgress
from ..config import ConfigError
from ..loop import STATE_FILE, LoopState, OnlineLoop
from ..registry import ModelRegistry, copy_model
from ..report import Gatherer, RunReport, console_table, write_html, write_json
from ..report.record import Delay
from ..serving.process import ServerProcess
from ..simulation.base_policy import train_base_policy
from ..simulation.taste import Taste
from ..simulation.users import SimulatedUsers
from ..store import FeedbackStore
from ..types import ModelRole, Sample
from .display import Display
from .stations import DemoSettings, DemoStations

# Settings found on the demo's sizes: a policy of 0.6 M parameters that answers in 20 to 40 tokens.
TRAINING: dict[str, dict[str, Any]] = {
    "grpo": {"max_steps": 40, "refresh_steps": 14, "num_generations": 8},
    "ppo": {"max_steps": 80, "refresh_steps": 28, "num_generations": 1, "num_iterations": 2},
}
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 64,
    "max_completion_length": 48,
    "beta": 0.15,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "refresh_min_statements": 8,
    "refresh_replay": 2.0,
    "reward_config": {"learning_rate": 1e-3, "num_train_epochs": 2, "per_device_train_batch_size": 16},
    "save_steps": 10,
    "save_total_limit": 2,
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}


def run_demo(*, trainer: str, seed: int, rounds: int, output_dir: Path, resume: bool) -> RunReport:
    """
    Runs the demo, or goes on with one that was stopped.

    Args:
        trainer (`str`):
            `grpo` or `ppo`.
        seed (`int`):
            Seed of everything that is drawn.
        rounds (`int`):
            How often the loop goes round.
        output_dir (`Path`):
            Where everything is kept: the log, the registry, `report.html`, `result.json`.
        resume (`bool`):
            Whether to go on with the run in `output_dir`.

    Returns:
        [`~online_trl.report.RunReport`]: What came of it, also written to `output_dir`.

    Raises:
        [`~online_trl.config.ConfigError`]: if `output_dir` holds an unfinished run and `resume` is not set, or the
            other way round, or the run there was started with other settings.
    """
    settings = DemoSettings(trainer=trainer, rounds=rounds, seed=seed, training={**COMMON, **TRAINING[trainer]})
    state = _open_run(output_dir, {"trainer": trainer, "seed": seed, "rounds": rounds}, resume=resume)
    prepare_process()
    console = Console()
    store_url = f"sqlite:///{output_dir / 'feedback.db'}"
    registry = ModelRegistry(output_dir / "registry")
    with Display(console, rounds, state) as display, FeedbackStore(store_url) as store:
        if registry.live(ModelRole.POLICY) is None:
            _make_base_policy(registry, output_dir / "base", seed, display)
        if state.round <= rounds:
            try:
                _go_round(store, registry, settings, output_dir, state, display)
            except KeyboardInterrupt:
                console.print("Stopped. The same command with `--resume` goes on from here.")
                raise
        gatherer = Gatherer(store, registry)
        report = gatherer.report(trainer=trainer, seed=seed, seconds=state.seconds)
        base, live = report.base.policy_version, report.live.policy_version
        report = replace(report, samples=gatherer.samples(base, live), lineage=gatherer.lineage(live))
    write_json(report, output_dir / "result.json")
    write_html(report, output_dir / "report.html")
    console.print(console_table(report))
    console.print(_told_delay(report.delay))
    for sample in report.samples:
        _print_sample(console, sample)
    console.print(f"The report: {output_dir / 'report.html'}")
    return report


def _told_delay(delay: Delay | None) -> str:
    if delay is None:
        return "No policy in service has learned from feedback yet."
    return (
        f"From feedback to a policy in service that learned from it: median {delay.median:.0f} s, nine in ten within "
        f"{delay.most:.0f} s ({delay.rows} rows of feedback); from {delay.unlearned:.0%} of all feedback, none has yet"
    )


def _print_sample(console: Console, sample: Sample) -> None:
    lines = (
        ("user", sample.prompt[-1]["content"], None),
        (sample.before_version, sample.before[-1]["content"], sample.before_score),
        (sample.after_version, sample.after[-1]["content"], sample.after_score),
    )
    for who, text, score in lines:
        judged = "" if score is None else f"  ({score:.2f})"
        console.print(Text.assemble((f"{who:>12}  ", "bold"), text, (judged, "dim")))
    console.print()


def _go_round(
    store: FeedbackStore,
    registry: ModelRegistry,
    settings: DemoSettings,
    output_dir: Path,
    state: LoopState,
    display: Display,
) -> None:
    state_dir = output_dir / "users"
    with (
        ServerProcess(store_url=store.url, registry_root=registry.location, log=output_dir / "server.log") as server,
        SimulatedUsers(server.url, Taste(settings.seed), seed=settings.seed, state_dir=state_dir) as users,
    ):
        stations = DemoStations(
            store=store,
            registry=registry,
            server_url=server.url,
            users=users,
            settings=settings,
            output_dir=output_dir,
            progress=display.fraction,
            on_refresh=display.announce_refresh,
        )
        OnlineLoop(stations, state, go_on=lambda state: state.round <= settings.rounds, on_step=display.enter).run()


def _open_run(output_dir: Path, settings: dict[str, Any], *, resume: bool) -> LoopState:
    file = output_dir / "settings.json"
    state = LoopState(output_dir / STATE_FILE)
    if not file.is_file():
        if resume:
            raise ConfigError(f"nothing to resume: {output_dir} holds no run")
        output_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), encoding="utf-8")
        return state
    earlier = json.loads(file.read_text(encoding="utf-8"))
    if earlier != settings:
        raise ConfigError(
            f"the run in {output_dir} was started with {earlier}, not with {settings}: choose another `--output-dir`"
        )
    # Asking again for a run that is finished shows what came of it.
    if not resume and state.round <= settings["rounds"]:
        raise ConfigError(
            f"the run in {output_dir} is not finished: go on with it (`--resume`), choose another `--output-dir`, or "
            "remove it"
        )
    return state


def _make_base_policy(registry: ModelRegistry, folder: Path, seed: int, display: Display) -> None:
    display.enter("0/policy")
    versions = registry.versions(ModelRole.POLICY)
    if not versions:
        train_base_policy(folder, seed=seed, callbacks=[StepProgress(display.fraction)])
        versions = [registry.publish(ModelRole.POLICY, copy_model(folder), config={"seed": seed})]
    registry.promote(versions[0].name, "the policy that the loop starts from")
    display.update(1.0)


def prepare_process() -> None:
    """The demo shows its own progress, and keeps to one thread in each of its processes."""
    # So small a model gains nothing from more, and two processes that each take all cores wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    # TRL's own defaults, which the newest transformers calls by other names.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
