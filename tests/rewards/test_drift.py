import json
import math

import numpy as np
import pytest

from drift import certainties, delays, false_alarms, false_alarms_of_thumbs
from online_trl.rewards.drift import DriftDetector

RIGHT, WRONG = 1.0, 0.0


def test_a_fall_is_reported_with_where_it_began_and_how_deep_it_is():
    detector = DriftDetector(min_after=10)
    assert detector.update([RIGHT, RIGHT, WRONG, RIGHT] * 20, range(100, 180)) is None
    alarm = detector.update([WRONG] * 30, range(200, 230))
    assert (alarm.change_seq, alarm.seen_seq, alarm.rows) == (200, 209, 10)
    assert (alarm.before, alarm.after) == (0.75, 0.0)
    assert alarm.reason == "the live version is right about 0.00 of the 10 statements since row 200, 0.75 before"


def test_the_statistic_is_the_log_likelihood_ratio_of_two_rates_against_one():
    # 30 of 40 right, then 5 of 20, against 35 of 60.
    def likelihood(right, total):
        return right * math.log(right / total) + (total - right) * math.log(1 - right / total)

    ratio = likelihood(30, 40) + likelihood(5, 20) - likelihood(35, 60)
    correct = [0.75] * 40 + [0.25] * 20
    for threshold, alarms in ((ratio - 1e-6, True), (ratio + 1e-6, False)):
        detector = DriftDetector(threshold=threshold, min_before=40, min_after=20, window=100)
        assert (detector.update(correct, range(60)) is not None) is alarms


def test_a_rise_is_no_drift():
    detector = DriftDetector()
    assert detector.update([WRONG, RIGHT, WRONG] * 100, range(300)) is None
    assert detector.update([RIGHT] * 300, range(300, 600)) is None


def test_after_an_alarm_it_starts_anew():
    detector = DriftDetector()
    alarm = detector.update([RIGHT] * 100 + [WRONG] * 300, range(400))
    assert alarm.seen_seq < 130
    assert len(detector.state_dict()["rows"]) == 400 - alarm.seen_seq - 1
    assert detector.update([WRONG] * 300, range(400, 700)) is None


def test_how_the_rows_are_portioned_makes_no_difference():
    correct = (np.random.default_rng(0).random(900) < np.repeat([0.8, 0.5], [500, 400])).tolist()
    weights = [0.5, 1.0, 0.0] * 300
    whole = DriftDetector(window=300)
    single = DriftDetector(window=300)
    alarms = [single.update([right], [seq], [weights[seq]]) for seq, right in enumerate(correct)]
    assert whole.update(correct, range(900), weights) == [alarm for alarm in alarms if alarm][-1]
    assert whole.state_dict() == single.state_dict()


def test_weights_scale_the_evidence_and_rows_of_weight_0_are_passed_over():
    correct = [RIGHT] * 60 + [WRONG] * 30
    assert DriftDetector().update(correct, range(90)) is not None
    assert DriftDetector().update(correct, range(90), [0.1] * 90) is None
    unheard = DriftDetector()
    unheard.update(correct, range(90), [0.0] * 90)
    assert unheard.state_dict()["rows"] == []


def test_a_resumed_detector_goes_on_where_it_was():
    first = DriftDetector()
    first.update([RIGHT] * 60, range(60), [0.9] * 60)
    resumed = DriftDetector()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    alarms = [detector.update([WRONG] * 40, range(60, 100)) for detector in (first, resumed)]
    assert alarms[0] == alarms[1] is not None


def test_memory_is_bounded_by_the_window():
    detector = DriftDetector(window=80)
    detector.update([RIGHT, WRONG] * 200, range(400))
    assert [seq for _, _, seq in detector.state_dict()["rows"]] == list(range(320, 400))


@pytest.mark.parametrize(("right", "weight"), [(1.1, 1.0), (-0.1, 1.0), (math.nan, 1.0), (1.0, 2.0)])
def test_numbers_outside_0_and_1_are_refused(right, weight):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\].*row 7"):
        DriftDetector().update([right], [7], [weight])


def test_a_window_holds_both_sides():
    with pytest.raises(ValueError, match="a `window` of 60 cannot hold 50 statements and 25 after them"):
        DriftDetector(window=60)


def test_a_slow_decline_gives_fewer_false_alarms_than_one_in_50_intervals():
    line = false_alarms(np.linspace(0.78, 0.70, 3000), "", runs=15)
    assert line["intervals of 100"] == 450
    assert line["false alarms"] <= 7


def test_thumbs_that_are_nearly_all_up_give_fewer_false_alarms_than_one_in_50_intervals():
    line = false_alarms_of_thumbs(0.98, runs=10)
    assert line["intervals of 100"] == 300
    assert line["false alarms"] <= 3


@pytest.mark.parametrize(("after", "median", "missed"), [(0.45, 60, 0), (0.60, 250, 1)])
def test_a_flip_is_seen_soon(after, median, missed):
    line = delays(after, runs=15)
    assert line["median delay, rows"] <= median
    assert line["missed"] <= missed


def test_a_minority_makes_no_change_certain_and_everybody_does():
    minority, everybody = (certainties(opposed, runs=40) for opposed in (0.3, 1.0))
    assert minority["alarms"] > 30
    assert minority["certain"] == 0
    assert everybody["certain"] == 40
