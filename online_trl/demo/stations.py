"""The stations of the demo: everything in one process, except the server, with simulated users in front of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from transformers import PrinterCallback

from ..callbacks import StepProgress, StopCallback
from ..checkpoint import last_complete_checkpoint
from ..config import check_choice
from ..evaluate_script import Evaluation
from ..evaluation import satisfaction_of, win_rate_of
from ..evaluation.guards import guard_measurements
from ..evaluation.opinions import Opinions
from ..evaluation_records import as_record
from ..evaluation_settings import EvaluationSettings
from ..gates import promotion_gate
from ..grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from ..ppo import OnlinePPOConfig, OnlinePPOTrainer
from ..preferences import prompt_dataset
from ..registry import ModelRegistry, RegistryError, copy_model
from ..rewards.outcome import RefreshOutcome
from ..rewards.scorer import LiveReward
from ..store import FeedbackStore
from ..types import ModelRole, ModelVersion, PolicyDecision, Purpose, VersionStatus

TRAINERS: dict[str, tuple[type, type]] = {
    "grpo": (OnlineGRPOConfig, OnlineGRPOTrainer),
    "ppo": (OnlinePPOConfig, OnlinePPOTrainer),
}

# What judges say of answers to prompts that users sent, beside what users say of those to prompts nobody trains on.
_EVALUATION = EvaluationSettings(num_prompts=50, max_completion_length=48, device="cpu")

Progress = Callable[[int, int], None]
"""Called with how many parts of a step are done, and how many it has."""


class Users(Protocol):
    """Those who talk to the deployed policy, as far as the demo has to wait for them."""

    def chat(self, n_sessions: int, round: int, *, progress: Progress | None = None) -> None:
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
        progress: Progress | None = None,
    ) -> None:
        """Judges the answers of several versions to the same prompts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """
    How the demo goes round.

    Args:
        trainer (`str`, *optional*, defaults to `"grpo"`):
            `grpo` or `ppo`.
        rounds (`int`, *optional*, defaults to `3`):
            How often it goes round.
        sessions (`int`, *optional*, defaults to `600`):
            Conversations before the training run of a round.
        evaluation_prompts (`int`, *optional*, defaults to `100`):
            Held-out prompts that each version is judged on.
        training (`dict[str, Any]`, *optional*):
            Fields of the trainer's config.
        seed (`int`, *optional*, defaults to `0`):
            Seed of everything that is drawn.
    """

    trainer: str = "grpo"
    rounds: int = 3
    sessions: int = 600
    evaluation_prompts: int = 100
    training: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("trainer", self.trainer, tuple(TRAINERS))


class DemoStations:
    """
    What the demo's loop goes through.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The feedback log.
        registry ([`~online_trl.registry.ModelRegistry`]):
            Where versions are published; its live policy is what the server serves.
        server_url (`str`):
            Address of the running server, which follows the registry.
        users ([`Users`]):
            Those who talk to it.
        settings ([`DemoSettings`]):
            How to go round.
        output_dir (`Path`):
            Where training runs are kept.
        progress ([`Progress`]):
            Called while a step is under way.
        on_refresh (`Callable[[RefreshOutcome], None]`):
            Called after each refresh of the reward model.
    """

    def __init__(
        self,
        *,
        store: FeedbackStore,
        registry: ModelRegistry,
        server_url: str,
        users: Users,
        settings: DemoSettings,
        output_dir: Path,
        progress: Progress,
        on_refresh: Callable[[RefreshOutcome], None],
    ) -> None:
        self.store = store
        self.registry = registry
        self.server_url = server_url
        self.users = users
        self.settings = settings
        self.output_dir = output_dir
        self.progress = progress
        self.on_refresh = on_refresh

    def begin(self) -> None:
        self._judge([self._base()], 0)

    def collect(self, number: int, after: int) -> int:
        self.users.deliver_late(number)
        self.users.chat(self.settings.sessions, number, progress=self.progress)
        return self.store.latest_seq()

    def train(self, number: int, upto: int) -> str:
        """Trains on from the policy in service while users go on talking to it; publishes a candidate."""
        # A loop that was killed just after it published must not publish the same policy a second time.
        published = [v for v in self.registry.versions(ModelRole.POLICY) if v.config.get("round") == number]
        version = published[0] if published else self._train_and_publish(number, upto)
        return version.name

    def evaluate(self, number: int, candidate: str) -> PolicyDecision:
        live = self._live_policy().name
        self._judge(list(dict.fromkeys([candidate, live, self._base()])), number)
        evaluation = Evaluation(_EVALUATION, self.registry, self.store).evaluate(candidate)
        self.registry.record_evaluation(candidate, as_record(evaluation))
        said = Opinions.read(self.store, Purpose.EVALUATION)
        decision = promotion_gate(
            win_rate=win_rate_of(said, candidate, live),
            satisfaction=satisfaction_of(said, candidate),
            live_satisfaction=satisfaction_of(said, live),
            guards=guard_measurements(evaluation),
        )
        return PolicyDecision(version=candidate, incumbent=live, decision=decision)

    def canary(self, number: int, decision: PolicyDecision) -> PolicyDecision:
        # The simulated users have judged the candidate beside the version in service already.
        return decision

    def promote(self, number: int, decision: PolicyDecision) -> None:
        if not decision.decision.accepted:
            self.registry.refuse(decision.version, decision.decision.reason)
            return
        # One that was rolled back by hand since stays so.
        if self.registry.get(decision.version).status is not VersionStatus.CANDIDATE:
            return
        self.registry.promote(decision.version, decision.decision.reason)
        wait_until_served(self.server_url, decision.version)

    def _judge(self, versions: Sequence[str], number: int) -> None:
        self.users.evaluate(versions, self.settings.evaluation_prompts, number, progress=self.progress)

    def _train_and_publish(self, number: int, upto: int) -> ModelVersion:
        live = self._live_policy()
        folder = self.output_dir / "training" / f"round-{number}"
        trainer = self._make_trainer(live, folder, upto)
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

    def _make_trainer(self, live: ModelVersion, folder: Path, upto: int) -> Any:
        config_type, trainer_type = TRAINERS[self.settings.trainer]
        settings = {"output_dir": str(folder), "seed": self.settings.seed, **self.settings.training}
        path = self.registry.path(live.name)
        # Up to where this round's collection ended, so that a resumed run goes through the same prompts.
        prompts = prompt_dataset(self.store.interactions(upto=upto, purpose=Purpose.CHAT))
        trainer = trainer_type(
            model=str(path),
            reward_funcs=[LiveReward(self.registry)],
            args=config_type(**settings),
            train_dataset=prompts.shuffle(seed=self.settings.seed),
            store=self.store,
            callbacks=[StepProgress(self.progress), StopCallback()],
        )
        trainer.remove_callback(PrinterCallback)  # the demo shows its own progress
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

    def _base(self) -> str:
        """The policy that all others are compared with."""
        return self.registry.versions(ModelRole.POLICY)[0].name

    def _live_policy(self) -> ModelVersion:
        live = self.registry.live(ModelRole.POLICY)
        if live is None:
            raise RegistryError("the registry has no live policy to train on from; publish and promote one first")
        return live


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
