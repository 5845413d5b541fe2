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
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback
from trl import RewardTrainer

from ..config import RefreshArguments
from ..preferences import PreferenceBatch, cap_user_shares, statement_dataset
from ..registry import Consumed, ModelRegistry, Sources, copy_model
from ..types import GateDecision, ModelRole, Statement, UnpairedLabel, VersionStatus, utcnow
from .anchors import renew_anchors
from .calibration import Calibration
from .collapse import Audit, find_collapse
from .drift import DriftAlarm, DriftDetector
from .judgement import Judgement, judge, mean_scores
from .judging import correctness, judging_weights
from .memory import Ages, ChangePoint, Recency, StatementMemory, ages
from .nesting import nested_trainer
from .reward_model import adapter_to_continue
from .reward_trainer import OnlineRewardConfig, OnlineRewardTrainer, save_merged
from .scorer import LiveReward

logger = logging.getLogger(__name__)

RESTARTED = "restarted"
# After so many refusals in a row, going on from the live version leads nowhere.
_PATIENCE = 2
# A change that no version does better on within so many refreshes was none.
_CONFIRMED_WITHIN = 3
# As many statements as the test for drift looks back on.
_HEARD = 2000
_DECIDED = (VersionStatus.LIVE, VersionStatus.RETIRED, VersionStatus.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshOutcome:
    """
    What a refresh led to.

    Args:
        version (`str`):
            The version that was published.
        decision ([`~online_trl.types.GateDecision`]):
            Whether it went into service, and why.
        trained_on (`dict[str, int]`):
            Statements that it was trained on, by what they are: `PreferencePair`, `Ranking`, `UnpairedLabel`.
        heldout (`int`):
            Statements that it was judged by.
        accuracy (`float`):
            How often it is right about them.
        ece (`float`):
            Expected calibration error on the pairs among them.
        ages ([`~online_trl.rewards.memory.Ages`]):
            How old the statements were that it was trained on.
        restarted (`str`, *optional*):
            Why it was made anew from the initial model, if it was.
        drift (`str`, *optional*):
            The change of what people want that was noticed since the refresh before.
        seconds (`float`):
            How long the refresh took.
    """

    version: str
    decision: GateDecision
    trained_on: dict[str, int]
    heldout: int
    accuracy: float
    ece: float
    ages: Ages
    restarted: str | None = None
    drift: str | None = None
    seconds: float

    @property
    def statements(self) -> int:
        """How many statements it was trained on."""
        return sum(self.trained_on.values())


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
        self.detector = DriftDetector()
        self.alarm: DriftAlarm | None = None
        # Refreshes in which a change that was noticed may still be confirmed by a version that does better.
        self._unconfirmed = 0
        self._withdrawn: set[str] = set()
        self._heard: list[tuple[int, datetime]] = []
        self.memory.change = self.broadcast(self._known_change)

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
        alarm, at = self.broadcast(lambda: self._listen(batch))
        if alarm is None:
            return False
        logger.warning("drift: %s", alarm.reason)
        self.alarm, self._unconfirmed = alarm, _CONFIRMED_WITHIN
        self.memory.change = ChangePoint(alarm.change_seq, at)
        return True

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
            `ValueError`: if the batch holds nothing to train on.
        """
        started = time.monotonic()
        self.live.follow()  # to go on from the version in service, which somebody may have rolled back
        self.remember(batch)
        restarted = self.broadcast(self._why_stuck)
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
        self._settle_change(judgement)
        logger.info("%s: %s", outcome.version, outcome.decision.reason)
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs beside the log and the registry, as plain values."""
        return {
            "detector": self.detector.state_dict(),
            "change": _plain_change(self.memory.change),
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "unconfirmed": self._unconfirmed,
            "withdrawn": sorted(self._withdrawn),
            "heard": [[seq, at.isoformat()] for seq, at in self._heard],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of a checkpoint."""
        self.detector.load_state_dict(state["detector"])
        alarm = state["alarm"]
        self.memory.change = _change(state["change"])
        self.alarm = None if alarm is None else DriftAlarm(**alarm)
        self._unconfirmed, self._withdrawn = state["unconfirmed"], set(state["withdrawn"])
        self._heard = [(seq, datetime.fromisoformat(at)) for seq, at in state["heard"]]

    @property
    def _starts_anew(self) -> bool:
        return self.settings.refresh_start == "initial" or not self.is_ready

    def _listen(self, batch: PreferenceBatch) -> tuple[DriftAlarm | None, datetime | None]:
        # What counts again after something was taken back has been heard before.
        new = [each for each in batch.statements if each.seq > batch.after]
        scorer = self.live.scorer
        if scorer is None or not new:
            return None, None
        self._heard = [*self._heard, *((each.seq, each.said_at) for each in new)][-_HEARD:]
        # Verdicts are judged against each other, and there may be few of the other kind among the newest.
        old = [each for each in self.memory.heldout() if isinstance(each, UnpairedLabel)]
        both = [*old, *new]
        correct = correctness(both, mean_scores(scorer, both))[len(old) :]
        weights = judging_weights(both)[len(old) :]
        alarm = self.detector.update(correct, [each.seq for each in new], weights)
        if alarm is None:
            return None, None
        return alarm, min(at for seq, at in self._heard if seq >= alarm.change_seq)

    def _settle_change(self, judgement: Judgement) -> None:
        """People have changed if a version does better on what they say since; if none does in time, they have not."""
        self.alarm = None
        if judgement.confirms_change:
            self._unconfirmed = 0
        elif self._unconfirmed:
            self._unconfirmed -= 1
            if not self._unconfirmed:
                since = self.memory.change.seq if self.memory.change is not None else None
                logger.warning("no version does better on what people say since row %s", since)
                self.memory.change = None

    def _confirmed_change(self, judgement: Judgement) -> dict[str, Any] | None:
        is_certain = judgement.confirms_change or not self._unconfirmed
        return _plain_change(self.memory.change) if is_certain else None

    def _known_change(self) -> ChangePoint | None:
        """The change that the newest version knew of: a run that begins goes on from there."""
        versions = [each for each in self.registry.versions(ModelRole.REWARD) if each.status in _DECIDED]
        return _change(versions[-1].config.get("change")) if versions else None

    def _rows(self, batch: PreferenceBatch, *, restart: bool) -> list[Statement]:
        # The newest word is the present: a resumed run weighs ages as the one that it goes on from.
        now = max((statement.said_at for statement in batch.statements), default=None)
        rows = [] if now is None else self._remembered(batch, now, restart=restart)
        if not rows:
            raise ValueError(f"the feedback in ({batch.after}, {batch.upto}] gives no statement to train on")
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
            args.reinit_head |= self.settings.refresh_drift_reinit_head and self.alarm is not None
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
            live,
            anchors,
            self._capped(self.memory.heldout(before_change=self._unconfirmed > 0)),
            self._capped(self.memory.audit_set()),
            threshold=threshold,
            since_change=self._capped(self.memory.heldout()) if self._unconfirmed else None,
        )
        judgement.standard.write(folder)
        audit = Audit("the candidate", judgement.audit_accuracy, judgement.audited, judgement.spread)
        return judgement, find_collapse([*self._line(anchors.version), audit])

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
            drift=None if self.alarm is None else self.alarm.reason,
            seconds=time.monotonic() - started,
        )
        anchors = judgement.standard.anchor_set.sources
        Consumed(Sources.of(candidate.rows), Sources.of(judgement.judged), anchors).write(candidate.folder)
        version = self.registry.publish(
            ModelRole.REWARD,
            copy_model(candidate.folder),
            parent=self.live.version,
            feedback_interval=(batch.after, batch.upto),
            metrics=_metrics(outcome, judgement),
            config={**_record(outcome, judgement), "change": self._confirmed_change(judgement)},
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


def _plain_change(change: ChangePoint | None) -> dict[str, Any] | None:
    return None if change is None else {"seq": change.seq, "at": change.at.isoformat()}


def _change(plain: dict[str, Any] | None) -> ChangePoint | None:
    return None if plain is None else ChangePoint(plain["seq"], datetime.fromisoformat(plain["at"]))


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


def _metrics(outcome: RefreshOutcome, judgement: Judgement) -> dict[str, float]:
    return {
        "reward_accuracy": outcome.accuracy,
        "heldout_statements": float(outcome.heldout),
        "statements": float(outcome.statements),
        "audit_accuracy": judgement.audit_accuracy,
        "audit_statements": float(judgement.audited),
        "anchor_spread": judgement.spread,
        "ece": outcome.ece,
        "label_ece": judgement.label_calibration.ece,
        "age_rows": outcome.ages.rows.median,
        "age_hours": outcome.ages.hours.median,
        "delay_hours": outcome.ages.delay_hours.median,
        "refresh_seconds": outcome.seconds,
    }


def _record(outcome: RefreshOutcome, judgement: Judgement) -> dict[str, Any]:
    return {
        "trained_on": outcome.trained_on,
        "ages": asdict(outcome.ages),
        "pair_calibration": _bins(judgement.pair_calibration),
        "label_calibration": _bins(judgement.label_calibration),
        "anchor_set": judgement.standard.anchor_set.version,
        "drift": outcome.drift,
        "restarted": outcome.restarted,
    }


def _bins(calibration: Calibration) -> list[dict[str, float]]:
    """The reliability plot, as plain values."""
    return [asdict(each) for each in calibration.bins]


def _release(trainer: RewardTrainer) -> None:
    """Frees what the nested trainer held, before the policy needs the memory again."""
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
