"""What the loop of a deployment goes through: a recipe and the evaluation in processes of their own, real users."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import FOLLOW, ConfigError
from ..evaluation.guards import guard_measurements
from ..evaluation_records import recorded_evaluations
from ..gates import promotion_gate
from ..loop import PausedError
from ..registry import ModelRegistry, copy_model
from ..store import LogReader
from ..types import (
    Estimate,
    FeedbackKind,
    ModelRole,
    ModelVersion,
    PolicyDecision,
    PolicyEvaluation,
    VersionStatus,
    utcnow,
)
from .job import Job
from .settings import DeploymentSettings, LaunchSettings
from .trial import CanaryTrial, settled

_LOOK_EVERY = 1.0
# Users meet a candidate in its canary; before that, judges alone have seen it.
_UNJUDGED = Estimate(math.nan, 0.0, 1.0, 0)


class DeploymentStations:
    """
    What the loop of a deployment goes through.

    Args:
        settings ([`~online_trl.deployment.settings.DeploymentSettings`]):
            What it was told.
        store ([`~online_trl.store.LogReader`]):
            The feedback log.
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions.
        stopped (`Callable[[], bool]`):
            Asked while something takes long; ends it.
        now (`bool`, *optional*, defaults to `False`):
            Whether a round begins without a trigger.
    """

    def __init__(
        self,
        settings: DeploymentSettings,
        store: LogReader,
        registry: ModelRegistry,
        *,
        stopped: Callable[[], bool],
        now: bool = False,
    ) -> None:
        self.settings = settings
        self.store = store
        self.registry = registry
        self.stopped = stopped
        self.now = now
        self.folder = Path(settings.output_dir)
        self._new_feedback = _NewFeedback(store)

    def wait(self, seconds: float) -> None:
        """Waits, or raises a `KeyboardInterrupt` if the loop is to stop."""
        deadline = time.monotonic() + seconds
        while not self.stopped():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _LOOK_EVERY))
        raise KeyboardInterrupt

    def begin(self) -> None:
        policy = self.settings.policy
        if self.registry.live(ModelRole.POLICY) is not None:
            return
        versions = self.registry.versions(ModelRole.POLICY)
        if not versions:
            if policy is None:
                raise ConfigError(f"{self.settings.registry} holds no policy: name a first one with `policy`")
            versions = [self.registry.publish(ModelRole.POLICY, _write_policy(policy))]
        self.registry.promote(versions[0].name, "the policy that the loop starts from")

    def collect(self, number: int, after: int) -> int:
        while not self._is_due(after):
            self.wait(_LOOK_EVERY)
        return self.store.latest_seq()

    def train(self, number: int, upto: int) -> str:
        """Trains on from the policy in service; publishes a candidate."""
        run_name = f"{self.folder.name}-round-{number}"
        # A loop that was killed may have left the training behind, or been killed just after that published: it must
        # not train for the same round a second time.
        Job("train", [], self.folder).stop()
        if (version := self._published(run_name)) is None:
            self._train(run_name)
            version = self._published(run_name)
        if version is None:
            raise RuntimeError(f"the recipe {self.settings.train.script} ended well, but published no policy")
        return version.name

    def evaluate(self, number: int, candidate: str) -> PolicyDecision:
        """Measures a candidate beside the version in service, and asks the promotion gate."""
        live = self._live().name
        if (record := self.registry.get(candidate)).status is not VersionStatus.CANDIDATE:
            return PolicyDecision(version=candidate, incumbent=live, decision=settled(record))
        if (evaluation := self._evaluation(candidate, live)) is None:
            self._evaluate(candidate)
            evaluation = self._evaluation(candidate, live)
        if evaluation is None:
            raise RuntimeError(f"the evaluation ended well, but recorded nothing of {candidate} beside {live}")
        decision = promotion_gate(
            win_rate=evaluation.figures.get("win_rate_vs_live", _UNJUDGED),
            satisfaction=_UNJUDGED,
            live_satisfaction=None,
            guards=guard_measurements(evaluation),
            thresholds=self.settings.gate,
        )
        return PolicyDecision(version=candidate, incumbent=live, decision=decision)

    def canary(self, number: int, decision: PolicyDecision) -> PolicyDecision:
        if self.settings.canary is None or not decision.decision.accepted:
            return decision
        trial = CanaryTrial(self.registry, self.store, self.settings.canary, wait=self._wait_for_users)
        return replace(decision, decision=trial.run(decision.version))

    def promote(self, number: int, decision: PolicyDecision) -> None:
        # What users or somebody by hand have decided since stands, a rollback too.
        if self.registry.get(decision.version).status is VersionStatus.CANDIDATE:
            settle = self.registry.promote if decision.decision.accepted else self.registry.refuse
            settle(decision.version, decision.decision.reason)
        for role in ModelRole if self.settings.keep else ():
            self.registry.prune(role, keep=self.settings.keep)
        # What was published lies in the registry; checkpoints are for runs that are not finished.
        shutil.rmtree(self.folder / "training", ignore_errors=True)

    def _is_due(self, after: int) -> bool:
        triggers = self.settings.triggers
        new = self._new_feedback.count(after)
        if new == 0:
            if self.now:
                raise PausedError("there is no new feedback to train on")
            return False
        by_rows = 0 < triggers.feedback <= new
        by_time = 0 < triggers.minutes <= self._minutes_since_last()
        return self.now or by_rows or by_time or (triggers.drift and self._has_drifted())

    def _minutes_since_last(self) -> float:
        published = self.registry.versions(ModelRole.POLICY)[-1].created_at
        return (utcnow() - published).total_seconds() / 60

    def _has_drifted(self) -> bool:
        """Whether a reward version since the newest policy answers to a change of what people want."""
        newest = self.registry.versions(ModelRole.POLICY)[-1].created_at
        rewards = self.registry.versions(ModelRole.REWARD)
        return any(reward.created_at > newest and reward.config.get("drift") for reward in rewards)

    def _published(self, run_name: str) -> ModelVersion | None:
        versions = self.registry.versions(ModelRole.POLICY)
        return next((version for version in versions if version.config.get("run_name") == run_name), None)

    def _live(self) -> ModelVersion:
        live = self.registry.live(ModelRole.POLICY)
        assert live is not None, "the loop began with one"
        return live

    def _evaluation(self, candidate: str, live: str) -> PolicyEvaluation | None:
        evaluations = recorded_evaluations(self.registry.evaluations(candidate))
        return next((each for each in reversed(evaluations) if each.live == live), None)

    def _evaluate(self, candidate: str) -> None:
        command = [sys.executable, "-m", "online_trl.cli", "evaluate", "--version", candidate]
        command += ["--registry", self.settings.registry, "--store", self.settings.store]
        if self.settings.evaluate is not None:
            command += ["--config", self.settings.evaluate]
        Job("evaluate", command, self.folder).run(stopped=self.stopped)

    def _wait_for_users(self, seconds: float) -> None:
        if self.now:
            raise PausedError("users have not decided about the canary yet; the next run goes on with it")
        self.wait(seconds)

    def _train(self, run_name: str) -> None:
        live = self._live()
        folder = self.folder / "training" / run_name
        arguments = {
            "model_name_or_path": self.registry.path(live.name),
            "store": self.settings.store,
            "registry": self.settings.registry,
            "output_dir": folder,
            "run_name": run_name,
            "resume_from_checkpoint": "auto",
        }
        if self.settings.refresh is not None:
            arguments["refresh_mode"] = FOLLOW
        Job("train", launch_command(self.settings.train, arguments), self.folder).run(stopped=self.stopped)


class _NewFeedback:
    """
    Counts the feedback after a position of the log, and reads each row once however often it is asked. Only after an
    erasure is all of it read again: what is gone counts no more.
    """

    def __init__(self, store: LogReader) -> None:
        self._store = store
        self._after = self._upto = self._count = 0

    def count(self, after: int) -> int:
        """Signals that nobody gave on purpose, and what waits in quarantine, begin no round."""
        if after != self._after:
            self._after, self._upto, self._count = after, after, 0
        if (end := self._store.latest_seq()) > self._upto:
            if self._store.tombstones(after=self._upto, upto=end):
                self._upto, self._count = after, 0
            rows = self._store.admitted_feedback(after=self._upto, upto=end)
            self._count += sum(row.kind is not FeedbackKind.IMPLICIT for row in rows)
            self._upto = end
        return self._count


def launch_command(settings: LaunchSettings, arguments: Mapping[str, Any]) -> list[str]:
    """
    Returns the command line that launches a recipe.

    Args:
        settings ([`~online_trl.deployment.settings.LaunchSettings`]):
            The recipe and how to start it.
        arguments (`Mapping[str, Any]`):
            What overrides its YAML file, by name.
    """
    how = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    if settings.accelerate_config is not None:
        how = ["--config_file", settings.accelerate_config]
    flags = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    # What the recipe says last is what went wrong, not that its launcher was told so.
    return [*launch, "--quiet", *how, settings.script, "--config", settings.config, *flags]


def _write_policy(name: str) -> Callable[[Path], None]:
    """Returns what writes a policy that somebody named into the folder of a version."""
    if Path(name).is_dir():
        return copy_model(name)

    def download(target: Path) -> None:
        from huggingface_hub import snapshot_download

        snapshot_download(name, local_dir=target)

    return download
