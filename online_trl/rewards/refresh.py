"""Refreshes the reward model while the policy trains.

A refresh is [`~online_trl.rewards.reward_trainer.OnlineRewardTrainer`], run in the process group of its caller (the
policy trainer, between two of its steps, or `recipes/reward_refresh.py`), warm-started from the live version. The
conversations that decide whether the result goes into service are never trained on.

Each version keeps its anchors, word for word. What was erased, or taken back, is replaced among them at the next
refresh; versions published before keep it until they are deleted, and `online-trl lineage` names them.
"""

from __future__ import annotations

import gc
import logging
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback
from trl import RewardTrainer

from ..config import RefreshArguments
from ..preferences import PreferenceBatch, cap_user_shares, statement_dataset
from ..registry import Consumed, ModelRegistry, Sources, copy_model
from ..types import ModelRole, Statement, VersionStatus, utcnow
from .anchors import renew_anchors
from .collapse import Audit, find_collapse
from .drift_watch import DriftWatch, change_from_plain, plain_change
from .judgement import Judgement, judge
from .memory import ChangePoint, Recency, StatementMemory, ages
from .nesting import nested_trainer
from .outcome import RefreshOutcome, version_metrics, version_record
from .reward_model import adapter_to_continue
from .reward_trainer import OnlineRewardConfig, OnlineRewardTrainer, save_merged
from .scorer import LiveReward
from .statements import NothingToTrainOnError

logger = logging.getLogger(__name__)

RESTARTED = "restarted"
# After so many refusals in a row, going on from the live version leads nowhere.
_PATIENCE = 2
_DECIDED = (VersionStatus.LIVE, VersionStatus.RETIRED, VersionStatus.REFUSED)


class RewardRefresher:
    """
    Trains, judges and publishes versions of the live reward model.

    Args:
        live ([`LiveReward`]):
            The reward function whose model is refreshed.
        base_model (`str`):
            The initial model: folder or hub id of a causal language model, which gets a new head, or a reward model.
        make_args (`Callable[[], OnlineRewardConfig]`):
            Makes the settings of a refresh. Called anew for each one, because training arguments belong to the
            accelerator that is created after them.
        settings ([`~online_trl.config.RefreshArguments`], *optional*):
            What to train on, and from where.
        peft_config (`PeftConfig`, *optional*):
            Adapters to train instead of all weights. Versions are published with them merged in; one that is an
            adapter on the initial model keeps that too, and the next refresh goes on from it.
        broadcast (`Callable[[Callable[[], T]], T]`, *optional*):
            Calls its argument on the main process and returns the result on every rank.
        seed (`int`, *optional*, defaults to `0`):
            Seed of what is drawn.
    """

    def __init__(
        self,
        live: LiveReward,
        *,
        base_model: str,
        make_args: Callable[[], OnlineRewardConfig],
        settings: RefreshArguments | None = None,
        peft_config: Any = None,
        broadcast: Callable[[Callable[[], Any]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.live = live
        self.registry: ModelRegistry = live.registry
        self.base_model = base_model
        self.make_args = make_args
        self.settings = settings or RefreshArguments()
        self.peft_config = peft_config
        self.broadcast: Callable[[Callable[[], Any]], Any] = broadcast or (lambda read: read())
        self.seed = seed
        self.memory = make_memory(self.settings, seed)
        self.memory.change = self.broadcast(self._known_change)
        self.drift = DriftWatch(self.memory, max_user_share=self.settings.max_user_share)
        self._withdrawn: set[str] = set()

    @property
    def is_ready(self) -> bool:
        """Whether there is a live version already."""
        return self.live.version is not None

    def trainable(self, batch: PreferenceBatch) -> int:
        """Returns how many statements of a batch are not kept for the gate."""
        return len(self.memory.trainable(batch.statements))

    def remember(self, batch: PreferenceBatch) -> None:
        """Takes note of statements without training on them, as when a run starts or resumes."""
        self.memory.forget(batch.withdrawn)
        self.memory.remember(batch.statements)
        self._withdrawn |= batch.withdrawn

    def watch(self, batch: PreferenceBatch) -> bool:
        """
        Takes note of how the live version does on feedback that it has not learned from.

        Returns:
            `bool`: Whether it does so much worse than before that people must have changed.
        """
        return self.drift.take_up(self.broadcast(lambda: self.drift.listen(batch, self.live.scorer)))

    def refresh(self, batch: PreferenceBatch) -> RefreshOutcome:
        """
        Trains a candidate on a fresh batch and some history, publishes it, and puts it into service if it passes the
        gate. One that has collapsed, or that follows on two that were refused, is made anew from the initial model.
        Every rank calls this at the same step with the same batch.

        Args:
            batch ([`~online_trl.preferences.PreferenceBatch`]):
                Fresh preference rows.

        Returns:
            [`RefreshOutcome`]: What was published and whether it went into service.

        Raises:
            [`~online_trl.rewards.statements.NothingToTrainOnError`]: if the batch holds nothing to train on.
        """
        started = time.monotonic()
        self.live.follow()  # to go on from the version in service, which somebody may have rolled back
        self.remember(batch)
        restarted = self.broadcast(lambda: self._why_gone() or self._why_stuck())
        restart = self._starts_anew or restarted is not None
        rows = self._rows(batch, restart=restart)
        with tempfile.TemporaryDirectory(prefix="reward-") as temporary:
            folder = Path(self.broadcast(lambda: temporary))
            threshold = self._train(rows, folder, restart=restart)
            judgement, collapse = self.broadcast(lambda: self._judge(batch, folder, threshold))
            if collapse is not None and not restart:
                logger.warning("the reward model has collapsed, %s: it is made anew", collapse)
                restarted = collapse
                rows, folder = self._rows(batch, restart=True), folder / RESTARTED
                threshold = self._train(rows, folder, restart=True)
                judgement, _ = self.broadcast(lambda: self._judge(batch, folder, threshold))
            candidate = _Candidate(folder, batch, rows, judgement, restarted=restarted)
            outcome: RefreshOutcome = self.broadcast(lambda: self._publish(candidate, started))
        if outcome.decision.accepted:
            self.live.load(outcome.version)
        self.drift.settle(confirmed=judgement.confirms_change, accepted=outcome.decision.accepted)
        logger.info("%s: %s", outcome.version, outcome.decision.reason)
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs beside the log and the registry, as plain values."""
        return {"drift": self.drift.state_dict(), "withdrawn": sorted(self._withdrawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of a checkpoint."""
        self.drift.load_state_dict(state["drift"])
        self._withdrawn = set(state["withdrawn"])

    @property
    def _starts_anew(self) -> bool:
        return self.settings.refresh_start == "initial" or not self.is_ready

    def _known_change(self) -> ChangePoint | None:
        """The change that the newest version knew of: a run that begins goes on from there."""
        versions = [each for each in self.registry.versions(ModelRole.REWARD) if each.status in _DECIDED]
        return change_from_plain(versions[-1].config.get("change")) if versions else None

    def _rows(self, batch: PreferenceBatch, *, restart: bool) -> list[Statement]:
        # The newest word is the present: a resumed run weighs ages as the one that it goes on from.
        now = max((statement.said_at for statement in batch.statements), default=None)
        rows = [] if now is None else self._remembered(batch, now, restart=restart)
        if not rows:
            raise NothingToTrainOnError(
                f"the feedback in ({batch.after}, {batch.upto}] gives no statement to train on"
            )
        return rows

    def _remembered(self, batch: PreferenceBatch, now: datetime, *, restart: bool) -> list[Statement]:
        if restart:
            rows = self.memory.everything(upto=batch.upto, now=now)
        else:
            rows = self.memory.training_set(batch.statements, upto=batch.upto, now=now)
        return self._capped(rows)

    def _capped(self, rows: Sequence[Statement]) -> list[Statement]:
        return cap_user_shares(rows, self.settings.max_user_share)

    def _train(self, rows: Sequence[Statement], folder: Path, *, restart: bool) -> float:
        """
        Trains from the live version, or from the initial model, and saves the result; a collective call. Returns the
        score that a thumb up needs.
        """
        live = None if restart else self.registry.path(str(self.live.version))
        adapter = None if live is None else adapter_to_continue(live, self.base_model, self.peft_config)
        start = self.base_model if live is None or adapter is not None else str(live)
        with nested_trainer():
            args = self.make_args()
            args.reinit_head |= self.settings.refresh_drift_reinit_head and self.drift.alarm is not None
            trainer = OnlineRewardTrainer(
                model=start,
                args=args,
                train_dataset=statement_dataset(rows),
                peft_config=self.peft_config,
                adapter=adapter,
            )
            trainer.remove_callback(PrinterCallback)  # the refresh is reported as one, not by its inner log
            trainer.train()
            save_merged(trainer, folder, keep_adapter=start == self.base_model)
            threshold = float(trainer.thresholds.mean())
            _release(trainer)
        return threshold

    def _judge(self, batch: PreferenceBatch, folder: Path, threshold: float) -> tuple[Judgement, str | None]:
        """Measures a candidate; beside that, how it has collapsed, if it has."""
        candidate = self.live.scorer_of(folder)
        live = self.live.scorer
        anchors = renew_anchors(
            None if live is None or live.standard is None else live.standard.anchor_set,
            [*self.memory.everything(upto=batch.upto, now=utcnow()), *batch.statements],
            self._withdrawn,
            size=self.settings.refresh_anchors,
            max_refreshes=self.settings.refresh_anchor_life,
            seed=self.seed,
            score=None if live is None else live.scores,
        )
        judgement = judge(
            candidate,
            # What is worse than a coin is nothing to be measured against: its successor is judged as a first version.
            None if self.drift.live_is_reversed else live,
            anchors,
            self._capped(self.memory.heldout(before_change=self.drift.is_unconfirmed)),
            self._capped(self.memory.audit_set()),
            threshold=threshold,
            since_change=self._capped(self.memory.heldout()) if self.drift.is_unconfirmed else None,
        )
        judgement.standard.write(folder)
        audit = Audit("the candidate", judgement.audit_accuracy, judgement.audited, judgement.spread)
        return judgement, find_collapse([*self._line(anchors.version), audit])

    def _why_gone(self) -> str | None:
        """Says so if the live version has vanished from the registry, so that nothing can go on from it."""
        name = self.live.version
        if name is None or name in {version.name for version in self.registry.versions(ModelRole.REWARD)}:
            return None
        logger.warning("%s has vanished from the registry: the reward model is made anew", name)
        return f"{name} has vanished from the registry"

    def _why_stuck(self) -> str | None:
        """Says so if the versions since the live one were refused one after the other, and none was made anew."""
        decided = [each for each in self.registry.versions(ModelRole.REWARD) if each.status in _DECIDED]
        newest = [each for each in decided if each.feedback_interval is not None][-_PATIENCE:]
        is_stuck = len(newest) == _PATIENCE and all(
            each.status is VersionStatus.REFUSED and not each.config.get("restarted") for each in newest
        )
        return f"the {_PATIENCE} refreshes before it were refused" if is_stuck else None

    def _line(self, anchor_set: int) -> list[Audit]:
        """
        The versions that went into service since the last restart, since people last changed and since the anchors
        were drawn, oldest first.
        """
        since = 0 if self.memory.change is None else self.memory.change.seq
        line: list[Audit] = []
        for version in self.registry.versions(ModelRole.REWARD):
            interval, metrics = version.feedback_interval, version.metrics
            if version.status not in (VersionStatus.LIVE, VersionStatus.RETIRED) or interval is None:
                continue
            if interval[1] <= since or version.config.get("restarted"):
                line = []
            if version.config.get("anchor_set") == anchor_set:
                score = metrics.get("audit_accuracy", math.nan)
                line.append(Audit(version.name, score, metrics["audit_statements"], metrics["anchor_spread"]))
        return line

    def _publish(self, candidate: _Candidate, started: float) -> RefreshOutcome:
        batch, judgement = candidate.batch, candidate.judgement
        now = max(statement.said_at for statement in candidate.rows)
        outcome = RefreshOutcome(
            version="",
            decision=judgement.decision,
            trained_on=dict(Counter(type(statement).__name__ for statement in candidate.rows)),
            heldout=len(judgement.judged),
            accuracy=judgement.accuracy,
            ece=judgement.pair_calibration.ece,
            ages=ages(candidate.rows, upto=batch.upto, now=now),
            restarted=candidate.restarted,
            drift=None if self.drift.alarm is None else self.drift.alarm.reason,
            seconds=time.monotonic() - started,
        )
        anchors = judgement.standard.anchor_set.sources
        Consumed(Sources.of(candidate.rows), Sources.of(judgement.judged), anchors).write(candidate.folder)
        version = self.registry.publish(
            ModelRole.REWARD,
            copy_model(candidate.folder),
            parent=self.live.version,
            feedback_interval=(batch.after, batch.upto),
            metrics=version_metrics(outcome, judgement),
            config={
                **version_record(outcome, judgement),
                "change": plain_change(self.drift.certain_change(confirmed=judgement.confirms_change)),
            },
        )
        settle = self.registry.promote if outcome.decision.accepted else self.registry.refuse
        settle(version.name, outcome.decision.reason)
        return replace(outcome, version=version.name)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A trained model with what is known of it."""

    folder: Path
    batch: PreferenceBatch
    rows: Sequence[Statement]
    judgement: Judgement
    restarted: str | None


def learned_upto(registry: ModelRegistry) -> int:
    """Returns where the feedback ends that any reward version has learned from, in service or refused."""
    if registry.live(ModelRole.REWARD) is None:
        return 0  # a first version that was refused has to be made of the same feedback again
    versions = [version for version in registry.versions(ModelRole.REWARD) if version.status in _DECIDED]
    return max((version.feedback_interval[1] for version in versions if version.feedback_interval), default=0)


def make_memory(settings: RefreshArguments, seed: int) -> StatementMemory:
    """Makes the memory that goes with the settings of the refreshes."""
    return StatementMemory(
        heldout_fraction=settings.refresh_heldout_fraction,
        replay=settings.refresh_replay,
        recency=Recency(
            settings.refresh_half_life or None,
            settings.refresh_drift_half_life or None,
            "hours" if settings.refresh_age_unit == "hours" else "rows",
        ),
        seed=seed,
    )


def _release(trainer: RewardTrainer) -> None:
    """Frees what the nested trainer held, before the policy needs the memory again."""
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
