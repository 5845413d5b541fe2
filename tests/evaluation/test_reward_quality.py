import math

import pytest

from online_trl.evaluation.reward_quality import reward_quality
from online_trl.rewards.calibration import pair_calibration
from online_trl.types import FeedbackKind, PreferencePair, Ranking, UnpairedLabel


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


def label(seq, up):
    return UnpairedLabel(
        prompt=messages("?", "user"),
        completion=messages("yes"),
        label=up,
        score=float(up),
        feedback_ids=(f"row-{seq}",),
        seq=seq,
        voice=f"user-{seq}",
    )


def test_what_is_known_by_thumbs_is_as_little_as_there_are_of_one_kind():
    def width(ups, downs):
        statements = [label(seq, up=seq <= ups) for seq in range(1, ups + downs + 1)]
        # Of each kind, half lie between those of the other.
        scores = [(float(statement.label) + statement.seq % 2,) for statement in statements]
        accuracy = reward_quality("reward-0001", statements, scores).accuracy
        assert accuracy.mean == pytest.approx(0.875)
        return accuracy.high - accuracy.low

    assert width(90, 10) > 1.5 * width(50, 50)


def test_a_stretch_of_thumbs_up_alone_tells_nothing():
    statements = [
        *(label(seq, up=True) for seq in range(1, 5)),
        pair(5),
        label(6, up=True),
        label(7, up=False),
        pair(8),
    ]
    scores = [(1.0,)] * 4 + [(1.0, 0.0), (1.0,), (0.0,), (0.0, 1.0)]
    quality = reward_quality("reward-0001", statements, scores, stretches=2)
    assert quality.accuracy.mean == pytest.approx(7 / 8)
    assert [(point.at, point.accuracy.mean) for point in quality.over_feedback] == [("5-8", 0.75)]


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
