import math

import pytest

from online_trl.evaluation.reward_quality import reward_quality
from online_trl.rewards.calibration import pair_calibration
from online_trl.types import FeedbackKind, PreferencePair, Ranking


def messages(text, role="assistant"):
    return [{"role": role, "content": text}]


def pair(seq):
    return PreferencePair(
        prompt=messages("?", "user"),
        chosen=messages("yes"),
        rejected=messages("no"),
        kind=FeedbackKind.COMPARISON,
        feedback_ids=(f"row-{seq}",),
        seq=seq,
        voice=f"user-{seq}",
    )


def test_accuracy_and_its_trend_over_the_log():
    statements = [pair(seq) for seq in range(1, 11)]
    # Right about the first five, wrong about the next five.
    scores = [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 5
    quality = reward_quality("reward-0002", statements, scores, stretches=2)
    assert quality.accuracy.mean == 0.5
    assert [(point.at, point.accuracy.mean) for point in quality.over_feedback] == [("1-5", 1.0), ("6-10", 0.0)]
    assert quality.ece == pytest.approx(pair_calibration([1.0] * 5 + [-1.0] * 5).ece)


def test_what_puts_no_answer_above_another_says_nothing():
    tie = Ranking(
        prompt=messages("?", "user"),
        completions=[messages("a"), messages("b")],
        ranks=(1, 1),
        kind=FeedbackKind.COMPARISON,
        feedback_ids=("row-1",),
        seq=1,
    )
    quality = reward_quality("reward-0001", [tie], [(1.0, 0.0)])
    assert (quality.accuracy, quality.over_feedback) == (None, ())
    assert math.isnan(quality.ece)
