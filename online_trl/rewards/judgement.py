"""What is measured of a reward model before it may go into service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..gates import compare_anchors, is_better, reward_gate
from ..preferences import statement_key
from ..types import GateDecision, PreferencePair, Statement, UnpairedLabel
from .anchors import AnchorSet, Standard
from .calibration import Calibration, calibration, logistic, pair_calibration
from .judging import correctness, judging_weights, pseudo_values
from .scorer import RewardScorer

# An alarm comes before it, and what is confirmed by mistake is judged again by the next refresh.
_CONFIRMING_LEVEL = 0.2


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    What is known of a candidate.

    Args:
        standard ([`~online_trl.rewards.anchors.Standard`]):
            Its scale.
        decision ([`~online_trl.types.GateDecision`]):
            Whether it may go into service.
        confirms_change (`bool`):
            Whether it is better than the version in service on what people said since they seem to have changed.
        judged (`tuple[Statement, ...]`):
            The newest held-out statements, which decided that.
        accuracy (`float`), audit_accuracy (`float`):
            How often it is right about them, and about held-out statements of all times; NaN of none.
        spread (`float`):
            Spread of its raw scores over the anchors.
        audited (`int`):
            How many held-out statements of all times there were.
        pair_calibration ([`~online_trl.rewards.calibration.Calibration`]), label_calibration (`Calibration`):
            Whether it is as sure as it is right: which of two answers is chosen, and which answer gets a thumb up.
    """

    standard: Standard
    decision: GateDecision
    confirms_change: bool
    judged: tuple[Statement, ...]
    accuracy: float
    audit_accuracy: float
    audited: int
    spread: float
    pair_calibration: Calibration
    label_calibration: Calibration


def judge(
    candidate: RewardScorer,
    live: RewardScorer | None,
    anchors: AnchorSet,
    judged: Sequence[Statement],
    audited: Sequence[Statement],
    *,
    threshold: float,
    since_change: Sequence[Statement] | None = None,
) -> Judgement:
    """
    Measures a candidate against the version in service.

    Args:
        candidate ([`~online_trl.rewards.scorer.RewardScorer`]), live ([`~online_trl.rewards.scorer.RewardScorer`]):
            The two; `None` if nothing is in service yet, or what is known to be worse than a coin.
        anchors ([`~online_trl.rewards.anchors.AnchorSet`]):
            What the candidate's scores are standardised on.
        judged (`Sequence[Statement]`):
            The newest held-out statements.
        audited (`Sequence[Statement]`):
            Held-out statements of all times.
        threshold (`float`):
            Raw score of the candidate that a thumb up needs.
        since_change (`Sequence[Statement]`, *optional*):
            While it is not certain that people have changed: the held-out statements since they seem to have. A
            candidate that is better on them goes into service whatever it says of what came before; one that is not is
            judged as ever, so that an interval of false statements gets nothing through.
    """
    raw = candidate.raw_scores(anchors.conversations)
    since = since_change or ()
    # The slices overlap, and what costs is to score an answer.
    known, live_known = (
        {} if scorer is None else _scores(scorer, judged, audited, since) for scorer in (candidate, live)
    )
    weights, scores = judging_weights(judged), [known[statement_key(each)] for each in judged]
    correct = _told(judged, known)
    comparison = None
    if live is not None:
        of_live = live.raw_scores(anchors.conversations).mean(dim=1)
        comparison = compare_anchors(raw.mean(dim=1).tolist(), of_live.tolist())
    decision = reward_gate(
        correct,
        None if live is None else _told(judged, live_known),
        weights=weights,
        anchors=comparison,
    )
    confirms = live is not None and is_better(
        _told(since, known), _told(since, live_known), weights=judging_weights(since), level=_CONFIRMING_LEVEL
    )
    if confirms:
        decision = GateDecision(
            True,
            "accepted: people have changed, and it is right about what they say since more often than the live one",
        )
    return Judgement(
        standard=Standard(anchors, raw.tolist()),
        decision=decision,
        confirms_change=confirms,
        judged=tuple(judged),
        accuracy=_mean(correct, weights),
        audit_accuracy=_mean(_told(audited, known), judging_weights(audited)),
        audited=len(audited),
        spread=float(raw.mean(dim=1).std(correction=0)),
        pair_calibration=_pair_calibration(judged, scores),
        label_calibration=_label_calibration(judged, scores, threshold),
    )


def mean_scores(scorer: RewardScorer, statements: Sequence[Statement]) -> list[list[float]]:
    """Scores each answer of each statement by the mean of the heads, on the model's own scale."""
    conversations = [each.prompt + completion for each in statements for completion in each.completions]
    scores = iter(scorer.raw_scores(conversations).mean(dim=1).tolist())
    return [[next(scores) for _ in each.completions] for each in statements]


def _scores(scorer: RewardScorer, *slices: Sequence[Statement]) -> dict[str, list[float]]:
    """Scores each statement of several slices once; by its key."""
    statements = {statement_key(each): each for rows in slices for each in rows}
    return dict(zip(statements, mean_scores(scorer, list(statements.values())), strict=True))


def _told(statements: Sequence[Statement], known: Mapping[str, Sequence[float]]) -> list[float]:
    """What each statement says of how right a model is, in numbers that are as noisy as they look."""
    scores = [known[statement_key(each)] for each in statements]
    return pseudo_values(statements, correctness(statements, scores))


def _pair_calibration(judged: Sequence[Statement], scores: Sequence[Sequence[float]]) -> Calibration:
    pairs = [(each, row) for each, row in zip(judged, scores, strict=True) if isinstance(each, PreferencePair)]
    return pair_calibration([row[0] - row[1] for _, row in pairs], [pair.weight for pair, _ in pairs])


def _label_calibration(
    judged: Sequence[Statement], scores: Sequence[Sequence[float]], threshold: float
) -> Calibration:
    labels = [(each, row) for each, row in zip(judged, scores, strict=True) if isinstance(each, UnpairedLabel)]
    chances = logistic(np.asarray([row[0] - threshold for _, row in labels], dtype=float)).tolist()
    return calibration(chances, [label.score for label, _ in labels], [label.weight for label, _ in labels])


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return float(np.average(values, weights=weights)) if sum(weights) > 0 else float("nan")
