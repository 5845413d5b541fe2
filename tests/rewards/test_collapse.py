import math

import numpy as np
import pytest

from online_trl.rewards.collapse import Audit, find_collapse


def line(*measured, statements=256):
    return [
        Audit(f"reward-{number:04}", score, statements, spread) for number, (score, spread) in enumerate(measured, 1)
    ]


def test_a_line_that_holds_has_not_collapsed():
    assert find_collapse([]) is None
    assert find_collapse(line((0.4, 0.0))) is None
    assert find_collapse(line((0.74, 1.0), (0.78, 1.5), (0.72, 0.8))) is None


def test_a_fall_from_the_best_beyond_noise_is_a_collapse():
    # Three standard errors of the difference of 0.80 and 0.66 on 256 statements are 0.116.
    assert find_collapse(line((0.70, 1.0), (0.80, 1.0), (0.69, 1.0))) is None
    assert find_collapse(line((0.70, 1.0), (0.80, 1.0), (0.66, 1.0))) == (
        "reward-0003 is right about 0.66 of the audit set, reward-0002 was about 0.80: a fall of more than the "
        "0.12 that noise explains"
    )
    assert find_collapse(line((0.80, 1.0), (0.69, 1.0)), noise=2.0) is not None


def test_only_the_newest_of_a_line_is_judged():
    assert find_collapse(line((0.80, 1.0), (0.60, 1.0), (0.79, 1.0))) is None


def test_few_statements_have_more_noise():
    assert find_collapse(line((0.80, 1.0), (0.60, 1.0), statements=64)) is None
    assert find_collapse(line((1.0, 1.0), (0.0, 1.0), statements=19)) is None
    assert find_collapse(line((1.0, 1.0), (0.0, 1.0), statements=20)) is not None


def test_a_spread_that_shrank_to_a_quarter_of_the_first_is_a_collapse():
    assert find_collapse(line((0.7, 2.0), (0.7, 8.0), (0.7, 0.5))) is None
    assert find_collapse(line((0.7, 2.0), (0.7, 8.0), (0.7, 0.49))) == (
        "the scores of reward-0003 spread by 0.49 on the anchors, below 0.25 times the 2 of reward-0001"
    )
    assert find_collapse(line((0.7, 2.0), (0.7, 0.9)), min_spread_ratio=0.5) is not None


def test_what_is_not_a_number_is_a_spread_that_collapsed_and_a_score_that_says_nothing():
    assert find_collapse(line((0.7, 2.0), (0.7, math.nan))) is not None
    assert find_collapse(line((0.9, 2.0), (math.nan, 2.0))) is None
    assert find_collapse(line((math.nan, 2.0), (0.1, 2.0))) is None


def test_a_line_of_twenty_equals_hardly_ever_looks_collapsed():
    rng = np.random.default_rng(0)
    lines = rng.binomial(256, 0.75, size=(300, 20)) / 256
    collapsed = [find_collapse(line(*((score, 1.0) for score in scores))) is not None for scores in lines.tolist()]
    assert np.mean(collapsed) == pytest.approx(0.01, abs=0.02)
