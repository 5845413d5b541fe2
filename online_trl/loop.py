"""The closed loop: deploy, collect, train while the reward model is refreshed, evaluate, promote, and round again.

The stations do not know the loop; it wires and drives them. What has been completed is on disk, so a loop that is
stopped at any moment goes on where it was: a completed station is never run twice, and a training run resumes from its
last complete checkpoint.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx
from transformers import PrinterCallback

from .callbacks import StepProgress, StopCallback
from .checkpoint import last_complete_checkpoint
from .config import check_choice
from .critic import CRITIC_FOLDER
from .evaluation_records import as_record
from .gates import PromotionThresholds
from .grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from .measurement import Measurement
from .ppo import OnlinePPOConfig, OnlinePPOTrainer
from .preferences import prompt_dataset
from .registry import ModelRegistry, RegistryError, copy_model
from .report import RunReport
from .rewards.refresh import RefreshOutcome
from .rewards.scorer import LiveReward
from .store import FeedbackStore
from .types import GateCheck, GateDecision, ModelRole, ModelVersion, PolicyDecision, PolicyEvaluation, Purpose

TRAINERS: dict[str, tuple[type, type]] = {
    "grpo": (OnlineGRPOConfig, OnlineGRPOTrainer),
    "ppo": (OnlinePPOConfig, OnlinePPOTrainer),
}

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, in [0, 1]."""


class Users(Protocol):
    """Those who talk to the deployed policy, as far as the loop has to wait for them."""

    def chat(self, n_sessions: int, round: int, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Holds so many conversations and reacts to them."""
        ...

    def deliver_late(self, round: int) -> None:
        """Sends the feedback of earlier rounds that was held back until now."""
        ...

    def chat_forever(self, stop: threading.Event, round: int) -> None:
        """Talks to the policy until told to stop."""
        ...

    def evaluate(
        self,
        versions: Sequence[str],
        n_prompts: int,
        round: int,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Judges the answers of several versions to the same prompts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """
    How the loop goes round.

    Args:
        trainer (`str`, *optional*, defaults to `"grpo"`):
            `grpo` or `ppo`.
        rounds (`int`, *optional*, defaults to `3`):
            How often it goes round.
        sessions (`int`, *optional*, defaults to `200`):
            Conversations before the training run of a round.
        evaluation_prompts (`int`, *optional*, defaults to `100`):
            Held-out prompts that each version is judged on.
        training (`dict[str, Any]`, *optional*):
            Fields of the trainer's config.
        gate ([`~online_trl.gates.PromotionThresholds`], *optional*):
            What a candidate has to show.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the training runs.
    """

    trainer: str = "grpo"
    rounds: int = 3
    sessions: int = 200
    evaluation_prompts: int = 100
    training: dict[str, Any] = field(default_factory=dict)
    gate: PromotionThresholds = field(default_factory=PromotionThresholds)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("trainer", self.trainer, tuple(TRAINERS))


class LoopState:
    """
    What a loop has completed, on disk, replaced atomically.

    Args:
        path (`Path`):
            The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"completed": {}, "seconds": 0.0}
        if path.is_file():
            self.content = json.loads(path.read_text(encoding="utf-8"))
        self._resumed = time.monotonic()
        self._before = float(self.content["seconds"])

    @property
    def seconds(self) -> float:
        """Time the loop has run, over all its starts."""
        return self._before + time.monotonic() - self._resumed

    def is_completed(self, step: str) -> bool:
        """Returns whether a step has been completed."""
        return step in self.content["completed"]

    def result(self, step: str) -> Any:
        """Returns what a completed step led to."""
        return self.content["completed"][step]

    def complete(self, step: str, result: Any = None) -> None:
        """Records a step as completed, with what it led to."""
        self.content["completed"][step] = result
        self.content["seconds"] = self.seconds
        staged = self.path.with_suffix(".tmp")
        staged.write_text(json.dumps(self.content, indent=1), encoding="utf-8")
        os.replace(staged, self.path)


class OnlineLoop:
    """
    Drives the stations round after round.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The feedback log.
        registry ([`~online_trl.registry.ModelRegistry`]):
            Where versions are published; its live policy is what the server serves.
        server_url (`str`):
            Address of the running server, which follows the registry.
        users ([`Users`]):
            Those who talk to it.
        settings ([`LoopSettings`]):
            How to go round.
        output_dir (`Path`):
            Where training runs are kept.
        state ([`LoopState`]):
            What has been completed.
        progress (`Callable[[str, float], None]`, *optional*):
            Called while a step is under way.
        on_refresh (`Callable[[RefreshOutcome], None]`, *optional*):
            Called after each refresh of the reward model.
        evaluate (`Callable[[str], PolicyEvaluation]`, *optional*):
            Evaluates a candidate by its name, whose guard metrics then count too.
    """

    def __init__(
        self,
        *,
        store: FeedbackStore,
        registry: ModelRegistry,
        server_url: str,
        users: Users,
        settings: LoopSettings,
        output_dir: Path,
        state: LoopState,
        progress: Progress | None = None,
        on_refresh: Callable[[RefreshOutcome], None] | None = None,
        evaluate: Callable[[str], PolicyEvaluation] | None = None,
    ) -> None:
        self.store = store
        self.registry = registry
        self.server_url = server_url
        self.users = users
        self.settings = settings
        self.output_dir = output_dir
        self.progress: Progress = progress or (lambda step, share: None)
        self.state = state
        self.on_refresh = on_refresh
        self.evaluate = evaluate
        self.measurement = Measurement(store, registry)

    def run(self) -> None:
        """
        Goes round until all rounds are completed.

        Raises:
            `KeyboardInterrupt`: if it was interrupted; what was completed is kept.
        """
        self._step("base/evaluate", self._evaluate_base)
        for number in range(1, self.settings.rounds + 1):
            self._step(f"{number}/collect", partial(self._collect, number))
            self._step(f"{number}/train", partial(self._train, number))
            candidate = self.state.result(f"{number}/train")["policy_version"]
            self._step(f"{number}/evaluate", partial(self._evaluate, number, candidate))
            self._step(f"{number}/promote", partial(self._promote, number, candidate))

    def _step(self, name: str, run: Callable[[], Any]) -> None:
        if not self.state.is_completed(name):
            self.progress(name, 0.0)
            self.state.complete(name, run())
            self.progress(name, 1.0)

    def _evaluate_base(self) -> None:
        self.users.evaluate(
            [self.measurement.base], self.settings.evaluation_prompts, 0, progress=self._fraction("base/evaluate")
        )

    def _collect(self, number: int) -> dict[str, int]:
        self.users.deliver_late(number)
        self.users.chat(self.settings.sessions, number, progress=self._fraction(f"{number}/collect"))
        return {"upto": self.store.latest_seq()}

    def _train(self, number: int) -> dict[str, Any]:
        """Trains on from the policy in service while users go on talking to it; publishes a candidate."""
        # A loop that was killed just after it published must not publish the same policy a second time.
        published = [v for v in self.registry.versions(ModelRole.POLICY) if v.config.get("round") == number]
        version = published[0] if published else self._train_and_publish(number)
        return {"policy_version": version.name}

    def _train_and_publish(self, number: int) -> ModelVersion:
        live = self._live_policy()
        folder = self.output_dir / "training" / f"round-{number}"
        trainer = self._make_trainer(live, folder, number)
        with self._traffic(number):
            trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
        if trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt  # the checkpoint that was saved on the way out is resumed from
        trainer.save_model(str(folder))
        return self.registry.publish(
            ModelRole.POLICY,
            copy_model(folder),
            parent=live.name,
            feedback_interval=(0, trainer.feedback_cursor),
            prompt_interval=(0, trainer.online_collator.cursor),
            reward_versions=tuple(trainer.live_reward.versions_used),
            config={"trainer": self.settings.trainer, "seed": self.settings.seed, "round": number},
        )

    def _make_trainer(self, live: ModelVersion, folder: Path, number: int) -> Any:
        config_type, trainer_type = TRAINERS[self.settings.trainer]
        settings = {"output_dir": str(folder), "seed": self.settings.seed, **self.settings.training}
        path = self.registry.path(live.name)
        if config_type is OnlinePPOConfig and (path / CRITIC_FOLDER).is_dir():
            settings["critic_model"] = str(path / CRITIC_FOLDER)
        # Up to where this round's collection ended, so that a resumed run goes through the same prompts.
        upto = self.state.result(f"{number}/collect")["upto"]
        prompts = prompt_dataset(self.store.interactions(upto=upto, purpose=Purpose.CHAT))
        trainer = trainer_type(
            model=str(path),
            reward_funcs=[LiveReward(self.registry)],
            args=config_type(**settings),
            train_dataset=prompts.shuffle(seed=self.settings.seed),
            store=self.store,
            callbacks=[StepProgress(self._fraction(f"{number}/train")), StopCallback()],
        )
        trainer.remove_callback(PrinterCallback)  # the loop shows its own progress
        if self.on_refresh is not None:
            trainer.refresh_callback.schedule.on_refresh = self.on_refresh
        return trainer

    @contextmanager
    def _traffic(self, number: int) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self.users.chat_forever, args=(stop, number), name="users", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _evaluate(self, number: int, candidate: str) -> dict[str, Any]:
        live = self._live_policy().name
        versions = list(dict.fromkeys([candidate, live, self.measurement.base]))
        self.users.evaluate(
            versions, self.settings.evaluation_prompts, number, progress=self._fraction(f"{number}/evaluate")
        )
        if self.evaluate is not None:
            self.registry.record_evaluation(candidate, as_record(self.evaluate(candidate)))
        decision = self.measurement.decide(candidate, self.settings.gate)
        return {"version": candidate, "incumbent": live, "decision": asdict(decision)}

    def _promote(self, number: int, candidate: str) -> None:
        decision = self.state.result(f"{number}/evaluate")["decision"]
        if not decision["accepted"]:
            self.registry.refuse(candidate, decision["reason"])
            return
        self.registry.promote(candidate, decision["reason"])
        wait_until_served(self.server_url, candidate)

    def _live_policy(self) -> ModelVersion:
        live = self.registry.live(ModelRole.POLICY)
        if live is None:
            raise RegistryError("the registry has no live policy to train on from; publish and promote one first")
        return live

    def _fraction(self, step: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(step, done / total)


def gather_report(state: LoopState, settings: LoopSettings, measurement: Measurement) -> RunReport:
    """
    Gathers what came of a loop whose rounds are completed.

    Args:
        state ([`LoopState`]), settings ([`LoopSettings`]):
            The loop's.
        measurement ([`~online_trl.measurement.Measurement`]):
            Over the loop's log and registry.
    """
    return measurement.report(
        trainer=settings.trainer,
        seed=settings.seed,
        seconds=state.content["seconds"],
        decisions=[_decision(state.result(f"{number}/evaluate")) for number in range(1, settings.rounds + 1)],
    )


def _decision(result: dict[str, Any]) -> PolicyDecision:
    checks = tuple(GateCheck(**check) for check in result["decision"]["checks"])
    decision = GateDecision(result["decision"]["accepted"], result["decision"]["reason"], checks)
    return PolicyDecision(version=result["version"], incumbent=result["incumbent"], decision=decision)


def wait_until_served(server_url: str, version: str, *, timeout: float = 60.0) -> None:
    """
    Waits until a server answers with a version by default.

    Args:
        server_url (`str`):
            Address of the server.
        version (`str`):
            Name of the policy version.
        timeout (`float`, *optional*, defaults to `60.0`):
            Seconds to wait.

    Raises:
        `TimeoutError`: if it does not in that time.
    """
    deadline = time.monotonic() + timeout
    while httpx.get(f"{server_url}/healthz").json()["policy_version"] != version:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server at {server_url} does not serve {version} after {timeout:.0f} s")
        time.sleep(0.1)
