import math

import numpy as np
import pytest

from online_trl.rewards.calibration import Calibration, ReliabilityBin, calibration, pair_calibration


def test_the_error_is_the_mean_distance_of_predicted_and_observed():
    result = calibration([0.5, 0.75, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0], num_bins=2)
    assert result == Calibration(
        ece=pytest.approx(0.25 * 0 + 0.75 * abs(0.75 - 2 / 3)),
        bins=(ReliabilityBin(0.0, 0.5, 0.0, 0.0, 1.0), ReliabilityBin(0.5, 1.0, 0.75, pytest.approx(2 / 3), 3.0)),
    )


def test_predictions_count_by_their_weight():
    result = calibration([0.75, 0.75, 0.25], [1.0, 0.0, 1.0], [3.0, 1.0, 4.0], num_bins=2)
    assert result.bins == (ReliabilityBin(0.0, 0.5, 0.25, 1.0, 4.0), ReliabilityBin(0.5, 1.0, 0.75, 0.75, 4.0))
    assert result.ece == 0.5 * 0.75
    assert calibration([0.75, 0.25], [1.0, 0.0], [1.0, 0.0], num_bins=2).bins[0].low == 0.5


def test_outcomes_may_lie_between_up_and_down():
    assert calibration([0.25, 0.25], [0.5, 0.0]).ece == 0.0


def test_a_pair_counts_half_from_either_side():
    # Both are sure to 3 : 1; one is right, one is wrong.
    result = pair_calibration([math.log(3), -math.log(3)], num_bins=2)
    assert result.bins == (
        ReliabilityBin(0.0, 0.5, pytest.approx(0.25), 0.5, 1.0),
        ReliabilityBin(0.5, 1.0, pytest.approx(0.75), 0.5, 1.0),
    )
    assert result.ece == pytest.approx(0.25)
    assert pair_calibration([math.log(3), -math.log(3)], [3.0, 1.0], num_bins=2).ece == pytest.approx(0.0)


def test_a_sure_margin_does_not_overflow():
    assert pair_calibration([1e4, 1e4]).ece == 0.0
    assert pair_calibration([-1e4]).ece == 1.0


def test_a_model_that_speaks_the_truth_is_calibrated_and_a_boaster_is_not():
    rng = np.random.default_rng(0)
    margins = rng.standard_normal(20_000)
    said = np.where(rng.random(20_000) < 1 / (1 + np.exp(-margins)), margins, -margins)
    assert pair_calibration(said).ece < 0.01
    assert pair_calibration(3 * said).ece > 0.1


def test_of_nothing_there_is_no_error():
    result = calibration([], [])
    assert math.isnan(result.ece)
    assert result.bins == ()


@pytest.mark.parametrize("chance", [1.5, -0.1, math.nan])
def test_a_probability_lies_between_0_and_1(chance):
    with pytest.raises(ValueError, match=r"a probability lies in \[0, 1\]"):
        calibration([0.5, chance], [1.0, 1.0])


def test_each_probability_has_an_outcome():
    with pytest.raises(ValueError, match="2 probabilities, 1 outcomes"):
        calibration([0.5, 0.5], [1.0])
