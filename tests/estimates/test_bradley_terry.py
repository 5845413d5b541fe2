import numpy as np
import pytest

from online_trl.estimates import bradley_terry, win_rate_matrix

USERS = [str(number) for number in range(400)]


def test_two_versions_have_the_win_rate_that_was_counted():
    games = [("new", "old", 1.0)] * 200 + [("old", "new", 0.5)] * 80 + [("old", "new", 1.0)] * 120
    (name, estimate), *others = bradley_terry(games, USERS, reference="old").items()
    assert (name, others) == ("new", [])
    assert estimate.mean == pytest.approx(240 / 400, abs=0.005)
    assert estimate.n == 400
    assert 0.5 < estimate.low < 0.6 < estimate.high < 0.7


def test_a_version_is_placed_by_those_that_both_met():
    # It never met the reference: the odds of the two steps multiply, without ties.
    games = [("b", "a", 1.0)] * 60 + [("b", "a", 0.0)] * 40 + [("c", "b", 1.0)] * 60 + [("c", "b", 0.0)] * 40
    rated = bradley_terry(games * 2, USERS, reference="a")
    assert rated["b"].mean == pytest.approx(0.6, abs=0.01)
    assert rated["c"].mean == pytest.approx(2.25 / 3.25, abs=0.015)
    assert rated["c"].high - rated["c"].low > rated["b"].high - rated["b"].low


def test_strengths_and_ties_are_found_again():
    rng = np.random.default_rng(0)
    strengths, tie, names = np.array([0.0, 0.5, 1.0, -0.4]), 0.7, list("abcd")
    games = []
    for _ in range(6000):
        first, second = rng.choice(4, 2, replace=False)
        lead = (strengths[first] - strengths[second]) / 2
        chances = np.array([np.exp(lead), tie, np.exp(-lead)])
        points = rng.choice([1.0, 0.5, 0.0], p=chances / chances.sum())
        games.append((names[first], names[second], float(points)))
    rated = bradley_terry(games, [str(game) for game in range(6000)], reference="a")
    for name, strength in zip("bcd", strengths[1:], strict=True):
        win, loss = np.exp(strength / 2), np.exp(-strength / 2)
        assert rated[name].low < (win + tie / 2) / (win + tie + loss) < rated[name].high
        assert rated[name].high - rated[name].low < 0.15


def test_the_order_of_the_two_makes_no_difference():
    games = [("a", "b", 1.0)] * 30 + [("b", "c", 0.5)] * 30 + [("c", "a", 1.0)] * 20
    turned = [(second, first, 1 - points) for first, second, points in games]
    rated, again = (bradley_terry(each, USERS[:80], reference="a") for each in (games, turned))
    assert rated["b"].mean == pytest.approx(again["b"].mean)
    assert rated["c"].low == pytest.approx(again["c"].low)


def test_comparisons_of_one_mind_are_no_new_evidence():
    games = [("new", "old", 1.0)] * 30 + [("old", "new", 1.0)] * 10
    many = bradley_terry(games * 10, USERS, reference="old")["new"]
    few = bradley_terry(games * 10, USERS[:40] * 10, reference="old")["new"]
    assert many.mean == few.mean
    assert many.low > 0.5 > few.low


def test_what_never_lost_is_not_beyond_measure():
    rated = bradley_terry([("new", "old", 1.0)] * 40, USERS[:40], reference="old")["new"]
    assert 0.9 < rated.mean < 1.0
    assert 0.6 < rated.low < 0.9 < rated.high == 1.0


def test_versions_that_never_met_the_reference_are_wide_open():
    rated = bradley_terry([("b", "c", 1.0)] * 30, USERS[:30], reference="a")
    assert rated["b"].low < 0.05
    assert rated["b"].high > 0.95


def test_few_judges_say_nothing_and_no_comparison_gives_no_rate():
    rated = bradley_terry([("new", "old", 1.0)] * 100, ["a", "b", "c", "d"] * 25, reference="old")["new"]
    assert (rated.low, rated.high) == (0.0, 1.0)
    assert bradley_terry([], [], reference="old") == {}
    with pytest.raises(ValueError, match="1 comparisons, but 0 users"):
        bradley_terry([("a", "b", 1.0)], [], reference="a")


def test_a_matrix_has_the_rates_against_each_reference_and_both_sides_share_the_points():
    games = [("b", "a", 1.0)] * 60 + [("b", "a", 0.0)] * 40 + [("c", "b", 0.5)] * 100
    rates = win_rate_matrix(games, USERS[:200], references=["a", "b", "c"])
    for reference in ("a", "b", "c"):
        alone = bradley_terry(games, USERS[:200], reference=reference)
        assert {name: rate for (name, other), rate in rates.items() if other == reference} == alone
    assert rates["a", "b"].mean + rates["b", "a"].mean == pytest.approx(1.0)
    assert win_rate_matrix([], [], references=["a", "b"]) == {}
