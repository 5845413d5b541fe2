import math

import numpy as np
import pytest

from online_trl.estimates import clustered_mean, confidence_sequence, mean_estimate
from online_trl.estimates.fixed import bounded_interval
from online_trl.estimates.sequential import critical_value, sequence_interval
from online_trl.estimates.users import ClusteredMean, UserTotals
from online_trl.types import Estimate

STREAMS, ARRIVALS, USERS = 1000, 240, 60


def peek(*, mean, likeness, comes_back):
    """
    Looks at every one of many streams after every judgement. Users have a leniency of their own and come back.

    Returns the shares of the streams in which the interval ever misses the truth: the confidence sequence, the
    interval for a fixed sample of the same clusters, and the confidence sequence as if each judgement came from
    somebody else.
    """
    rng = np.random.default_rng(0)
    rest = (1 - likeness) / likeness
    leniency = rng.beta(rest * mean, rest * (1 - mean), size=(STREAMS, USERS))
    streams, known = np.arange(STREAMS), np.zeros(STREAMS, int)
    counts, ups = np.zeros((STREAMS, USERS)), np.zeros((STREAMS, USERS))
    missed = np.zeros((3, STREAMS), bool)
    for arrival in range(1, ARRIVALS + 1):
        is_new = ((rng.random(STREAMS) > comes_back) & (known < USERS)) | (known == 0)
        who = np.where(is_new, known, (rng.random(STREAMS) * known).astype(int))
        known += is_new
        counts[streams, who] += 1
        ups[streams, who] += rng.random(STREAMS) < leniency[streams, who]
        clustered = clustered_mean(UserTotals(counts, ups, ups))
        share, judged = ups.sum(axis=1) / arrival, np.full(STREAMS, float(arrival))
        strangers = ClusteredMean(share, share * (1 - share), judged, judged, judged)
        intervals = [sequence_interval(clustered), fixed_interval(clustered), sequence_interval(strangers)]
        for misses, (low, high) in zip(missed, intervals, strict=True):
            misses |= (mean < low) | (mean > high)
    return missed.mean(axis=1)


def fixed_interval(clustered):
    z = np.asarray(1.96)
    return bounded_interval(
        clustered.mean, clustered.spread, clustered.independent, added=z**2 / 2, critical=z, bounds=(0.0, 1.0)
    )


@pytest.mark.parametrize(
    ("mean", "likeness", "comes_back"),
    # Strong leniency, users who come back often, and users who hardly differ but come back all the time.
    [(0.6, 0.5, 0.7), (0.75, 0.4, 0.8), (0.6, 0.02, 0.9)],
)
def test_the_interval_covers_the_truth_while_people_peek(mean, likeness, comes_back):
    sequence, fixed, strangers = peek(mean=mean, likeness=likeness, comes_back=comes_back)
    assert sequence <= 0.05
    assert fixed > 0.1
    assert likeness < 0.1 or strangers > 0.1


def test_the_boundary_is_crossed_by_a_random_walk_as_rarely_as_it_says():
    # Over three decades of time, nearly the whole of the probability is spent.
    rng = np.random.default_rng(0)
    times = np.unique(np.geomspace(10, 10_000, 400).astype(int))
    steps = rng.standard_normal((4000, times.size)) * np.sqrt(np.diff(times, prepend=0))
    scores = steps.cumsum(axis=1) / np.sqrt(times)
    crossed = np.mean((scores > critical_value(times / 200, 0.05)).any(axis=1))
    assert 0.02 <= crossed <= 0.05


def test_the_boundary_is_tightest_for_its_level_where_it_is_planned():
    # The variance of the mixture that was chosen for a progress of 1 is the best one there.
    at_plan = critical_value(1.0, 0.025)
    assert at_plan == pytest.approx(3.04, abs=0.01)
    assert critical_value(0.1, 0.025) > at_plan < critical_value(100.0, 0.025)
    assert critical_value(1.0, 0.005) > at_plan > critical_value(1.0, 0.1)


def test_the_price_of_peeking():
    values, users = [1.0, 1.0, 1.0, 0.0] * 50, [str(number) for number in range(200)]
    fixed = mean_estimate(values, clusters=users, bounds=(0.0, 1.0))
    sequence = confidence_sequence(values, users)
    assert sequence.mean == fixed.mean == 0.75
    assert 1.3 < (sequence.high - sequence.low) / (fixed.high - fixed.low) < 1.7
    assert confidence_sequence(values, users, planned=20_000).low < sequence.low


def test_repeated_judgements_of_one_mind_are_no_new_evidence():
    values, users = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], list("abcdefgh")
    once, tenfold = confidence_sequence(values, users), confidence_sequence(values * 10, users * 10)
    assert (tenfold.low, tenfold.high) == (pytest.approx(once.low, abs=0.01), pytest.approx(once.high, abs=0.01))


def test_unanimity_of_few_is_no_certainty():
    estimate = confidence_sequence([1.0] * 40, [str(number) for number in range(40)])
    assert estimate.mean == estimate.high == 1.0
    assert 0.5 < estimate.low < 0.9


def test_other_bounds_scale_the_interval():
    values, users = [1.0, 0.0, 0.5, 1.0, 1.0, 0.25] * 10, [str(number) for number in range(60)]
    unit = confidence_sequence(values, users)
    stars = confidence_sequence([1 + 4 * value for value in values], users, bounds=(1.0, 5.0))
    assert (stars.mean, stars.low) == (pytest.approx(1 + 4 * unit.mean), pytest.approx(1 + 4 * unit.low))


def test_a_handful_of_users_says_nothing():
    assert confidence_sequence([1.0] * 400, list("abcd") * 100) == Estimate(1.0, 0.0, 1.0, 400)
    empty = confidence_sequence([], [])
    assert (math.isnan(empty.mean), empty.low, empty.high, empty.n) == (True, 0.0, 1.0, 0)
