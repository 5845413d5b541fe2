import math

import numpy as np
import pytest

from online_trl.estimates import clustered_mean, user_totals
from online_trl.estimates.users import UserTotals


def test_the_judgements_of_each_user_are_summed_up():
    totals = user_totals([1.0, 0.5, 0.0], ["bob", "ada", "bob"])
    assert [list(each) for each in totals] == [[1, 2], [0.5, 1.0], [0.25, 1.0]]


def test_values_and_users_must_match():
    with pytest.raises(ValueError, match="2 values, but 1 users"):
        user_totals([1.0, 2.0], ["a"])


def test_one_judgement_each_is_the_plain_mean():
    mean = clustered_mean(user_totals([1.0, 0.0, 0.0, 1.0, 1.0], list("abcde")))
    assert (float(mean.mean), float(mean.users), float(mean.n)) == (pytest.approx(0.6), 5, 5)
    assert (float(mean.spread), float(mean.independent)) == (pytest.approx(0.24), pytest.approx(5))


def test_users_of_one_mind_count_once_each():
    # Everybody always says the same, so that the second and the tenth judgement tell nothing.
    values = [1.0] * 10 + [0.0] * 2 + [1.0] + [0.0]
    mean = clustered_mean(user_totals(values, ["a"] * 10 + ["b"] * 2 + ["c", "d"]))
    assert float(mean.mean) == pytest.approx(0.5)
    assert float(mean.independent) == pytest.approx(4)


def test_nobody_counts_for_more_than_ten():
    rng = np.random.default_rng(0)
    flood, others = rng.integers(2, size=10_000), [0.0, 1.0] * 50
    mean = clustered_mean(user_totals([*flood, *others], ["flood"] * 10_000 + [str(user) for user in range(100)]))
    assert float(mean.independent) <= 110


def test_weights_follow_from_how_alike_a_users_judgements_are():
    # Between users (1·3 + 1·3) / 9 · … by hand: two users with three judgements each, one with one.
    mean = clustered_mean(user_totals([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0], ["a", "a", "a", "b", "b", "b", "c"]))
    between = (3 * (2 / 3 - 4 / 7) ** 2 + 3 * (1 / 3 - 4 / 7) ** 2 + (1 - 4 / 7) ** 2) / 2
    within = (2 / 3 + 2 / 3) / 4
    size = (7 - 19 / 7) / 2
    correlation = max(0.1, (between - within) / (between + (size - 1) * within))
    weights = np.array([3 / (1 + 2 * correlation)] * 2 + [1.0])
    assert float(mean.mean) == pytest.approx(weights @ [2 / 3, 1 / 3, 1] / weights.sum())


def test_streams_are_estimated_side_by_side():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, size=(3, 8)).astype(float)
    sums = rng.binomial(counts.astype(int), 0.5).astype(float)
    together = clustered_mean(UserTotals(counts, sums, sums))
    for stream in range(3):
        alone = clustered_mean(UserTotals(counts[stream], sums[stream], sums[stream]))
        assert float(alone.independent) == pytest.approx(together.independent[stream])
        assert float(alone.mean) == pytest.approx(together.mean[stream])


def test_an_empty_sample_has_no_mean():
    mean = clustered_mean(user_totals([], []))
    assert math.isnan(mean.mean)
    assert (float(mean.users), float(mean.n)) == (0, 0)
