"""The demo: the whole loop on this machine, with a policy made on the spot and simulated users.

The training side never sees what the users like; it sees the feedback log.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from .callbacks import StepProgress
from .config import ConfigError
from .evaluate_script import Evaluation
from .evaluation_settings import EvaluationSettings
from .loop import LoopSettings, LoopState, OnlineLoop, gather_report
from .measurement import Measurement
from .registry import ModelRegistry, copy_model
from .report import RunReport, console_table, write_html, write_json
from .rewards.refresh import RefreshOutcome
from .serving.process import ServerProcess
from .simulation.base_policy import train_base_policy
from .simulation.taste import Taste
from .simulation.users import SimulatedUsers
from .store import FeedbackStore
from .types import ModelRole, Sample

# What each step takes, roughly, in seconds on two cores: only the time to go is estimated from it.
_EXPECTED_SECONDS = {"policy": 30.0, "collect": 15.0, "train": 60.0, "evaluate": 15.0, "promote": 1.0}
_STATIONS = {
    "policy": "making a base policy",
    "collect": "users chat and react",
    "train": "the policy trains on fresh feedback",
    "evaluate": "users judge the answers",
    "promote": "a better version goes into service",
}
_SESSIONS = 600
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


EVALUATION = EvaluationSettings(num_prompts=100, max_completion_length=COMMON["max_completion_length"], device="cpu")


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
    settings = LoopSettings(
        trainer=trainer, rounds=rounds, sessions=_SESSIONS, seed=seed, training={**COMMON, **TRAINING[trainer]}
    )
    state = _open_run(output_dir, {"trainer": trainer, "seed": seed, "rounds": rounds}, resume=resume)
    prepare_process()
    console = Console()
    store_url = f"sqlite:///{output_dir / 'feedback.db'}"
    registry = ModelRegistry(output_dir / "registry")
    with _Display(console, rounds, state) as display, FeedbackStore(store_url) as store:
        if registry.live(ModelRole.POLICY) is None:
            _make_base_policy(registry, output_dir / "base", seed, display)
            state.complete("base/policy")
        if not state.is_completed(f"{rounds}/promote"):
            try:
                _go_round(store, registry, settings, output_dir, state, display)
            except KeyboardInterrupt:
                console.print("Stopped. The same command with `--resume` goes on from here.")
                raise
        report = gather_report(state, settings, Measurement(store, registry))
    write_json(report, output_dir / "result.json")
    write_html(report, output_dir / "report.html")
    console.print(console_table(report))
    for sample in report.samples:
        _print_sample(console, sample)
    console.print(f"The report: {output_dir / 'report.html'}")
    return report


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
    settings: LoopSettings,
    output_dir: Path,
    state: LoopState,
    display: _Display,
) -> None:
    state_dir = output_dir / "users"
    with (
        ServerProcess(store_url=store.url, registry_root=registry.location, log=output_dir / "server.log") as server,
        SimulatedUsers(server.url, Taste(settings.seed), seed=settings.seed, state_dir=state_dir) as users,
    ):
        OnlineLoop(
            store=store,
            registry=registry,
            server_url=server.url,
            users=users,
            settings=settings,
            output_dir=output_dir,
            state=state,
            progress=display.update,
            on_refresh=display.announce_refresh,
            evaluate=lambda name: Evaluation(EVALUATION, registry, store).evaluate(name),
        ).run()


class _Display:
    """Shows which step is under way, how far it is, and about how long there is to go."""

    def __init__(self, console: Console, rounds: int, state: LoopState) -> None:
        self.state = state
        self.steps = ["base/policy", "base/evaluate"]
        for number in range(1, rounds + 1):
            self.steps += [f"{number}/{station}" for station in ("collect", "train", "evaluate", "promote")]
        self.rounds = rounds
        self.share: dict[str, float] = {}
        self.started = time.monotonic()
        self.expected_at_start = self._expected_left()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
        )
        self.progress = Progress(*columns, console=console)
        self.task = self.progress.add_task("starting", total=1.0, left="")

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def update(self, step: str, share: float) -> None:
        """Takes note of how far a step is."""
        self.share[step] = share
        round_, _, station = step.partition("/")
        where = "start" if round_ == "base" else f"round {round_} of {self.rounds}"
        description = f"{where}: {_STATIONS[station]}"
        self.progress.update(self.task, description=description, completed=share, left=self._left())
        if share == 0.0 and not self.progress.console.is_terminal:
            self.progress.console.print(f"{description} ({self._left()})")

    def announce_refresh(self, outcome: RefreshOutcome) -> None:
        """Prints what a refresh of the reward model led to."""
        verdict = "in service" if outcome.decision.accepted else "refused"
        self.progress.console.print(
            f"  {outcome.version} {verdict}: {outcome.statements} statements, right about {outcome.accuracy:.0%} "
            f"of {outcome.heldout} held-out ones ({outcome.seconds:.1f} s)"
        )

    def _left(self) -> str:
        left = self._expected_left()
        done = self.expected_at_start - left
        # The machine's own pace, once there is enough of it to go by.
        pace = (time.monotonic() - self.started) / done if done > 20 else 1.0
        return f"about {left * pace / 60:.1f} min to go"

    def _expected_left(self) -> float:
        steps = [step for step in self.steps if not self.state.is_completed(step)]
        return sum(_EXPECTED_SECONDS[step.partition("/")[2]] * (1 - self.share.get(step, 0.0)) for step in steps)


def _open_run(output_dir: Path, settings: dict[str, Any], *, resume: bool) -> LoopState:
    file = output_dir / "settings.json"
    state = LoopState(output_dir / "loop.json")
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
    if not resume and not state.is_completed(f"{settings['rounds']}/promote"):
        raise ConfigError(
            f"the run in {output_dir} is not finished: go on with it (`--resume`), choose another `--output-dir`, or "
            "remove it"
        )
    return state


def _make_base_policy(registry: ModelRegistry, folder: Path, seed: int, display: _Display) -> None:
    display.update("base/policy", 0.0)
    progress = StepProgress(lambda done, total: display.update("base/policy", done / total))
    versions = registry.versions(ModelRole.POLICY)
    if not versions:
        train_base_policy(folder, seed=seed, callbacks=[progress])
        versions = [registry.publish(ModelRole.POLICY, copy_model(folder), config={"seed": seed})]
    registry.promote(versions[0].name, "the policy that the loop starts from")
    display.update("base/policy", 1.0)


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
