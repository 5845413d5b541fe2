"""Refreshes the reward model while the policy trains.

A refresh is TRL's `RewardTrainer`, run in the process group of the policy trainer between two of its steps,
warm-started from the live version. The conversations that decide whether the result goes into service are never
trained on.

Each version keeps its anchors, word for word. What was erased, or taken back, is replaced among them at the next
refresh; versions published before keep it until they are deleted, and `online-trl lineage` names them.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback
from trl import RewardConfig, RewardTrainer

from ..gates import AnchorComparison, compare_anchors, reward_gate
from ..preferences import PreferenceBatch, preference_dataset
from ..registry import Consumed, ModelRegistry, Sources, copy_model
from ..types import GateDecision, Message, ModelRole, PreferencePair
from .judging import correctness, judging_weights
from .nesting import nested_trainer
from .scorer import AnchorSource, LiveReward, RewardScorer, standardise

logger = logging.getLogger(__name__)

Anchor = tuple[list[Message], AnchorSource]


@dataclass(frozen=True, slots=True)
class RefreshOutcome:
    """
    What a refresh led to.

    Args:
        version (`str`):
            The version that was published.
        decision ([`~online_trl.types.GateDecision`]):
            Whether it went into service, and why.
        pairs (`int`), heldout_pairs (`int`):
            Pairs that it was trained and judged on.
        accuracy (`float`):
            Its accuracy on the held-out pairs.
        seconds (`float`):
            How long the refresh took.
    """

    version: str
    decision: GateDecision
    pairs: int
    heldout_pairs: int
    accuracy: float
    seconds: float


class RewardRefresher:
    """
    Trains, judges and publishes versions of the live reward model.

    Args:
        live ([`LiveReward`]):
            The reward function whose model is refreshed.
        base_model (`str`):
            Folder or hub id that the first version starts from: a causal language model, which gets a new head, or a
            reward model.
        make_args (`Callable[[], RewardConfig]`):
            Makes the settings of a refresh. Called anew for each one, because training arguments belong to the
            accelerator that is created after them.
        replay (`float`, *optional*, defaults to `1.0`):
            Old pairs mixed in, as a multiple of the fresh ones.
        heldout_fraction (`float`, *optional*, defaults to `0.2`):
            Share of the conversations kept for the gate.
        heldout_window (`int`, *optional*, defaults to `256`):
            The newest so many held-out pairs decide.
        num_anchors (`int`, *optional*, defaults to `64`):
            Answers that the scale of the scores is fixed on.
        broadcast (`Callable[[Callable[[], T]], T]`, *optional*):
            Calls its argument on the main process and returns the result on every rank.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw of old pairs.
    """

    def __init__(
        self,
        live: LiveReward,
        *,
        base_model: str,
        make_args: Callable[[], RewardConfig],
        replay: float = 1.0,
        heldout_fraction: float = 0.2,
        heldout_window: int = 256,
        num_anchors: int = 64,
        broadcast: Callable[[Callable[[], Any]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.live = live
        self.registry: ModelRegistry = live.registry
        self.base_model = base_model
        self.make_args = make_args
        self.replay = replay
        self.heldout_fraction = heldout_fraction
        self.heldout_window = heldout_window
        self.num_anchors = num_anchors
        self.broadcast: Callable[[Callable[[], Any]], Any] = broadcast or (lambda read: read())
        self.seed = seed
        self._history: list[PreferencePair] = []
        self._heldout: list[PreferencePair] = []
        self._withdrawn: set[str] = set()

    @property
    def is_ready(self) -> bool:
        """Whether there is a live version already."""
        return self.live.version is not None

    def trainable(self, batch: PreferenceBatch) -> int:
        """Returns how many pairs of a batch are not kept for the gate."""
        return len(self._split(batch.pairs)[0])

    def remember(self, batch: PreferenceBatch) -> None:
        """Adds pairs of the past to the history without training on them, as when a run starts or resumes."""
        self._forget(batch)
        fresh, heldout = self._split(batch.pairs)
        self._history.extend(fresh)
        self._heldout.extend(heldout)

    def refresh(self, batch: PreferenceBatch) -> RefreshOutcome:
        """
        Trains a candidate on a fresh batch and some history, publishes it, and puts it into service if it passes the
        gate. Every rank calls this at the same step with the same batch.

        Args:
            batch ([`~online_trl.preferences.PreferenceBatch`]):
                Fresh preference rows.

        Returns:
            [`RefreshOutcome`]: What was published and whether it went into service.

        Raises:
            `ValueError`: if the batch holds no pair to train on.
        """
        started = time.monotonic()
        self._forget(batch)
        fresh, heldout = self._split(batch.pairs)
        self._heldout.extend(heldout)
        pairs = self._by_weight([*fresh, *self._replay(len(fresh), batch.upto)], batch.upto)
        if not pairs:
            raise ValueError(f"the feedback in ({batch.after}, {batch.upto}] gives no preference pair to train on")
        judged = self._heldout[-self.heldout_window :]
        with tempfile.TemporaryDirectory(prefix="reward-") as folder:
            shared = Path(self.broadcast(lambda: folder))
            self._train(pairs, shared)
            outcome: RefreshOutcome = self.broadcast(
                lambda: self._judge_and_publish(shared, batch, pairs, judged, started)
            )
        self._history.extend(fresh)
        if outcome.decision.accepted:
            self.live.load(outcome.version)
        logger.info("%s: %s", outcome.version, outcome.decision.reason)
        return outcome

    def _forget(self, batch: PreferenceBatch) -> None:
        """Drops the pairs of earlier batches that rest on what was taken back, replaced or erased since."""
        self._history = [pair for pair in self._history if batch.still_counts(pair)]
        self._heldout = [pair for pair in self._heldout if batch.still_counts(pair)]
        self._withdrawn |= batch.withdrawn

    def _split(self, pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], list[PreferencePair]]:
        heldout = [pair for pair in pairs if self._is_heldout(pair)]
        return [pair for pair in pairs if not self._is_heldout(pair)], heldout

    def _is_heldout(self, pair: PreferencePair) -> bool:
        """Decided by the conversations of the pair alone, so that every run and every resume decides the same."""
        sessions = "/".join(pair.session_ids).encode()
        return int.from_bytes(hashlib.sha256(sessions).digest()[:4], "big") < self.heldout_fraction * 2**32

    def _replay(self, fresh: int, upto: int) -> list[PreferencePair]:
        count = min(len(self._history), round(self.replay * fresh))
        return random.Random(f"{self.seed}-{upto}").sample(self._history, count)

    def _by_weight(self, pairs: Sequence[PreferencePair], upto: int) -> list[PreferencePair]:
        """Keeps each pair with the probability of its weight: TRL's `RewardTrainer` knows no row weights."""
        draw = random.Random(f"weight-{self.seed}-{upto}")
        return [pair for pair in pairs if draw.random() < pair.weight]

    def _train(self, pairs: Sequence[PreferencePair], folder: Path) -> None:
        """Runs TRL's `RewardTrainer` from the live version and saves the result; a collective call."""
        start = str(self.registry.path(self.live.version)) if self.live.version else self.base_model
        with nested_trainer():
            trainer = RewardTrainer(model=start, args=self.make_args(), train_dataset=preference_dataset(pairs))
            trainer.remove_callback(PrinterCallback)  # the refresh is reported as one, not by its inner log
            trainer.train()
            trainer.save_model(str(folder))
            _release(trainer)

    def _judge_and_publish(
        self,
        folder: Path,
        batch: PreferenceBatch,
        pairs: Sequence[PreferencePair],
        judged: Sequence[PreferencePair],
        started: float,
    ) -> RefreshOutcome:
        anchors = self._anchors(batch)
        standardise(folder, [words for words, _ in anchors], [source for _, source in anchors])
        candidate, live = RewardScorer(folder, device=self.live.device), self.live.scorer
        correct, weights = _correctness(candidate, judged), judging_weights(judged)
        decision = reward_gate(
            correct,
            _correctness(live, judged) if live is not None else None,
            weights=weights,
            anchors=_compare([words for words, _ in anchors], candidate, live) if live is not None else None,
        )
        accuracy = float(np.average(correct, weights=weights)) if judged else math.nan
        consumed = Consumed(Sources.of(pairs), Sources.of(judged), _sources_of(anchors))
        consumed.write(folder)
        version = self.registry.publish(
            ModelRole.REWARD,
            copy_model(folder),
            parent=self.live.version,
            feedback_interval=(batch.after, batch.upto),
            metrics={
                "reward_accuracy": accuracy,
                "heldout_pairs": float(len(judged)),
                "pairs": float(len(pairs)),
            },
        )
        settle = self.registry.promote if decision.accepted else self.registry.refuse
        settle(version.name, decision.reason)
        return RefreshOutcome(
            version=version.name,
            decision=decision,
            pairs=len(pairs),
            heldout_pairs=len(judged),
            accuracy=accuracy,
            seconds=time.monotonic() - started,
        )

    def _anchors(self, batch: PreferenceBatch) -> list[Anchor]:
        """The live version's anchors that were not withdrawn, and answers of the batch in place of the others."""
        known = self.live.scorer.anchors if self.live.scorer is not None else None
        kept: list[Anchor] = []
        wanted = self.num_anchors
        if known is not None:
            wanted = len(known["conversations"])
            named = zip(known["conversations"], known["sources"], strict=True)
            kept = [(words, source) for words, source in named if not self._is_withdrawn(source)]
        fresh = _possible_anchors(batch)
        return kept + random.Random(self.seed).sample(fresh, min(wanted - len(kept), len(fresh)))

    def _is_withdrawn(self, source: AnchorSource) -> bool:
        return not self._withdrawn.isdisjoint([*source["feedback_ids"], *source["interaction_ids"]])


def _possible_anchors(batch: PreferenceBatch) -> list[Anchor]:
    return [
        (
            pair.prompt + side,
            AnchorSource(feedback_ids=list(pair.feedback_ids), interaction_ids=list(pair.interaction_ids)),
        )
        for pair in batch.pairs
        for side in (pair.chosen, pair.rejected)
    ]


def _sources_of(anchors: Sequence[Anchor]) -> Sources:
    return Sources(
        frozenset(name for _, source in anchors for name in source["feedback_ids"]),
        frozenset(name for _, source in anchors for name in source["interaction_ids"]),
    )


def _correctness(scorer: RewardScorer, pairs: Sequence[PreferencePair]) -> list[float]:
    sides = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    return correctness(pairs, scorer.scores(sides).view(-1, 2).tolist())


def _compare(anchors: list[list[Message]], candidate: RewardScorer, live: RewardScorer) -> AnchorComparison:
    return compare_anchors(candidate.raw_scores(anchors).tolist(), live.raw_scores(anchors).tolist())


def _release(trainer: RewardTrainer) -> None:
    """Frees what the nested trainer held, before the policy needs the memory again."""
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
