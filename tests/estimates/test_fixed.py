import math

import numpy as np
import pytest

from online_trl import estimates
from online_trl.estimates.fixed import _student_t as student_t
from online_trl.types import Estimate


def test_mean_estimate_by_hand():
    # Mean 5, sample variance 20/3, t with 3 degrees of freedom 3.182.
    estimate = estimates.mean_estimate([2.0, 4.0, 6.0, 8.0])
    half = 3.182 * math.sqrt(20 / 3 / 4)
    assert (estimate.mean, estimate.n) == (5.0, 4)
    assert estimate.low == pytest.approx(5 - half, rel=0.01)
    assert estimate.high == pytest.approx(5 + half, rel=0.01)


def test_repeated_answers_of_one_user_are_no_new_evidence():
    values, users = [0.0, 1.0, 1.0, 0.0], ["a", "b", "c", "d"]
    once = estimates.mean_estimate(values, clusters=users)
    tenfold = estimates.mean_estimate(values * 10, clusters=users * 10)
    assert (tenfold.low, tenfold.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert tenfold.n == 40


def test_every_value_its_own_cluster_is_the_plain_interval():
    values = [0.1, 0.5, 0.9, 0.3, 0.6]
    assert estimates.mean_estimate(values, clusters=list("abcde")) == estimates.mean_estimate(values)


def test_unanimous_judgements_are_not_certainty():
    # Agresti and Coull: 30 of 30 is centred on 31.92 / 33.84.
    estimate = estimates.mean_estimate([1.0] * 30, bounds=(0.0, 1.0))
    assert estimate.mean == estimate.high == 1.0
    assert estimate.low == pytest.approx(0.862, abs=0.001)


def test_a_bounded_interval_stays_within_its_bounds():
    estimate = estimates.mean_estimate([1.0, 1.0, 0.9, 0.2], bounds=(0.0, 1.0))
    assert 0.0 <= estimate.low < estimate.mean < estimate.high == 1.0


@pytest.mark.parametrize(
    ("values", "clusters"),
    [([0.7], None), ([0.6, 0.8], ["ada", "ada"])],
)
def test_one_user_says_nothing_about_the_spread(values, clusters):
    bounded = estimates.mean_estimate(values, clusters=clusters, bounds=(0.0, 1.0))
    assert bounded == Estimate(pytest.approx(0.7), 0.0, 1.0, len(values))
    assert estimates.mean_estimate(values, clusters=clusters).high == math.inf


def test_an_empty_sample_has_no_mean():
    estimate = estimates.mean_estimate([], clusters=[], bounds=(0.0, 1.0))
    assert math.isnan(estimate.mean)
    assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 0)


def test_a_higher_level_is_a_wider_interval():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    for bounds in (None, (0.0, 1.0)):
        wide = estimates.mean_estimate(values, level=0.95, bounds=bounds)
        narrow = estimates.mean_estimate(values, level=0.5, bounds=bounds)
        assert wide.low < narrow.low < narrow.high < wide.high


def test_values_and_clusters_must_match():
    with pytest.raises(ValueError, match="3 values, but 2 clusters"):
        estimates.mean_estimate([1.0, 2.0, 3.0], clusters=["a", "b"])


@pytest.mark.parametrize(("users", "mean"), [(12, 0.3), (30, 0.8), (60, 0.9)])
def test_the_interval_covers_the_truth_as_often_as_it_says(users, mean):
    random = np.random.default_rng(0)
    clusters = [str(user) for user in range(users) for _ in range(5)]
    covered = 0
    for _ in range(400):
        leniency = random.beta(6 * mean, 6 * (1 - mean), size=(users, 1))
        votes = (random.random((users, 5)) < leniency).astype(float).ravel()
        estimate = estimates.mean_estimate(votes, clusters=clusters, bounds=(0.0, 1.0))
        covered += estimate.low <= mean <= estimate.high
    assert 0.92 <= covered / 400 <= 0.99


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)],
)
def test_student_t_agrees_with_the_tables(freedom, quantile):
    assert student_t(0.975, freedom) == pytest.approx(quantile, rel=0.002)


def test_a_share_has_the_interval_of_its_cases():
    cases = estimates.mean_estimate([1.0] * 15 + [0.0] * 5, bounds=(0.0, 1.0))
    share = estimates.share_estimate(0.75, 20)
    assert (share.mean, share.n) == (0.75, 20)
    assert (share.low, share.high) == (pytest.approx(cases.low), pytest.approx(cases.high))


def test_a_share_of_nothing_is_unknown():
    estimate = estimates.share_estimate(math.nan, 0)
    assert math.isnan(estimate.mean)
    assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 0)
