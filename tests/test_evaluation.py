import math

import numpy as np
import pytest

from online_trl import evaluation
from online_trl.types import Estimate, Feedback, FeedbackKind, Interaction, Purpose


def answer(store, version, text="an answer", purpose=Purpose.EVALUATION):
    interaction = Interaction(
        prompt=[{"role": "user", "content": "hello"}],
        completion=[{"role": "assistant", "content": text}],
        policy_version=version,
        session_id="session",
        user_id="asker",
        purpose=purpose,
    )
    return store.add_interaction(interaction).interaction_id


def say(store, kind, interaction_ids, value, user="ada", **fields):
    return store.add_feedback(
        Feedback(kind=kind, interaction_ids=interaction_ids, value=value, user_id=user, **fields)
    )


def thumb(store, interaction_id, value, user="ada", **fields):
    return say(store, FeedbackKind.BINARY, [interaction_id], value, user, **fields)


def compare(store, first, second, value, user="ada", **fields):
    return say(store, FeedbackKind.COMPARISON, [first, second], value, user, **fields)


def test_mean_estimate_by_hand():
    # Mean 5, sample variance 20/3, t with 3 degrees of freedom 3.182.
    estimate = evaluation.mean_estimate([2.0, 4.0, 6.0, 8.0])
    half = 3.182 * math.sqrt(20 / 3 / 4)
    assert (estimate.mean, estimate.n) == (5.0, 4)
    assert estimate.low == pytest.approx(5 - half, rel=0.01)
    assert estimate.high == pytest.approx(5 + half, rel=0.01)


def test_repeated_answers_of_one_user_are_no_new_evidence():
    values, users = [0.0, 1.0, 1.0, 0.0], ["a", "b", "c", "d"]
    once = evaluation.mean_estimate(values, clusters=users)
    tenfold = evaluation.mean_estimate(values * 10, clusters=users * 10)
    assert (tenfold.low, tenfold.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert tenfold.n == 40


def test_every_value_its_own_cluster_is_the_plain_interval():
    values = [0.1, 0.5, 0.9, 0.3, 0.6]
    assert evaluation.mean_estimate(values, clusters=list("abcde")) == evaluation.mean_estimate(values)


def test_unanimous_judgements_are_not_certainty():
    # Agresti and Coull: 30 of 30 is centred on 31.92 / 33.84.
    estimate = evaluation.mean_estimate([1.0] * 30, bounds=(0.0, 1.0))
    assert estimate.mean == estimate.high == 1.0
    assert estimate.low == pytest.approx(0.862, abs=0.001)


def test_a_bounded_interval_stays_within_its_bounds():
    estimate = evaluation.mean_estimate([1.0, 1.0, 0.9, 0.2], bounds=(0.0, 1.0))
    assert 0.0 <= estimate.low < estimate.mean < estimate.high == 1.0


@pytest.mark.parametrize(
    ("values", "clusters"),
    [([0.7], None), ([0.6, 0.8], ["ada", "ada"])],
)
def test_one_user_says_nothing_about_the_spread(values, clusters):
    bounded = evaluation.mean_estimate(values, clusters=clusters, bounds=(0.0, 1.0))
    assert bounded == Estimate(pytest.approx(0.7), 0.0, 1.0, len(values))
    assert evaluation.mean_estimate(values, clusters=clusters).high == math.inf


def test_an_empty_sample_has_no_mean():
    estimate = evaluation.mean_estimate([], clusters=[], bounds=(0.0, 1.0))
    assert math.isnan(estimate.mean)
    assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 0)


def test_a_higher_level_is_a_wider_interval():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    for bounds in (None, (0.0, 1.0)):
        wide = evaluation.mean_estimate(values, level=0.95, bounds=bounds)
        narrow = evaluation.mean_estimate(values, level=0.5, bounds=bounds)
        assert wide.low < narrow.low < narrow.high < wide.high


def test_values_and_clusters_must_match():
    with pytest.raises(ValueError, match="3 values, but 2 clusters"):
        evaluation.mean_estimate([1.0, 2.0, 3.0], clusters=["a", "b"])


@pytest.mark.parametrize(("users", "mean"), [(12, 0.3), (30, 0.8), (60, 0.9)])
def test_the_interval_covers_the_truth_as_often_as_it_says(users, mean):
    random = np.random.default_rng(0)
    clusters = [str(user) for user in range(users) for _ in range(5)]
    covered = 0
    for _ in range(400):
        leniency = random.beta(6 * mean, 6 * (1 - mean), size=(users, 1))
        votes = (random.random((users, 5)) < leniency).astype(float).ravel()
        estimate = evaluation.mean_estimate(votes, clusters=clusters, bounds=(0.0, 1.0))
        covered += estimate.low <= mean <= estimate.high
    assert 0.92 <= covered / 400 <= 0.99


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)],
)
def test_student_t_agrees_with_the_tables(freedom, quantile):
    assert evaluation._student_t(0.975, freedom) == pytest.approx(quantile, rel=0.002)


def test_satisfaction_is_the_mean_of_thumbs_and_scaled_ratings(store):
    answers = [answer(store, "policy-0001") for _ in range(3)]
    thumb(store, answers[0], True, "ada")
    thumb(store, answers[1], False, "bob")
    say(store, FeedbackKind.RATING, [answers[2]], {"score": 4, "low": 1, "high": 5}, "eve")
    estimate = evaluation.satisfaction(store, "policy-0001")
    assert estimate.mean == pytest.approx((1 + 0 + 0.75) / 3)
    assert estimate.n == 3
    assert 0.0 <= estimate.low < estimate.mean < estimate.high <= 1.0


def test_satisfaction_leaves_out_chats_other_versions_and_other_kinds(store):
    thumb(store, answer(store, "policy-0001"), True)
    thumb(store, answer(store, "policy-0001", purpose=Purpose.CHAT), False)
    thumb(store, answer(store, "policy-0002"), False)
    say(store, FeedbackKind.CORRECTION, [answer(store, "policy-0001")], "Better this way.")
    estimate = evaluation.satisfaction(store, "policy-0001")
    assert (estimate.mean, estimate.n) == (1.0, 1)


def test_satisfaction_honours_a_changed_and_a_withdrawn_judgement(store):
    changed, withdrawn = answer(store, "policy-0001"), answer(store, "policy-0001")
    earlier = thumb(store, changed, False, "ada")
    thumb(store, changed, True, "ada", supersedes=earlier.feedback_id)
    regretted = thumb(store, withdrawn, False, "bob")
    thumb(store, withdrawn, None, "bob", supersedes=regretted.feedback_id)
    estimate = evaluation.satisfaction(store, "policy-0001")
    assert (estimate.mean, estimate.n) == (1.0, 1)


def test_a_version_without_judgements_has_no_satisfaction(store):
    for _ in range(2):
        estimate = evaluation.satisfaction(store, "policy-0001")
        assert math.isnan(estimate.mean)
        assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 0)
        answer(store, "policy-0001")


def test_win_rate_counts_from_both_sides_and_ties_half(store):
    old, new = answer(store, "policy-0001"), answer(store, "policy-0002")
    compare(store, new, old, "first", "ada")
    compare(store, old, new, "second", "bob")
    compare(store, old, new, "tie", "eve")
    compare(store, old, new, "first", "kim")
    estimate = evaluation.win_rate(store, "policy-0002", "policy-0001")
    mirrored = evaluation.win_rate(store, "policy-0001", "policy-0002")
    assert (estimate.mean, estimate.n) == (pytest.approx(2.5 / 4), 4)
    assert (mirrored.mean, mirrored.low) == (pytest.approx(1.5 / 4), pytest.approx(1 - estimate.high))


def test_win_rate_leaves_out_chats_third_versions_and_withdrawn_comparisons(store):
    old, new, third = (answer(store, f"policy-000{number}") for number in (1, 2, 3))
    chat = answer(store, "policy-0001", purpose=Purpose.CHAT)
    compare(store, new, old, "first", "ada")
    compare(store, new, third, "second", "bob")
    compare(store, new, chat, "second", "bob")
    compare(store, third, old, "second", "bob")
    regretted = compare(store, new, old, "second", "eve")
    compare(store, new, old, None, "eve", supersedes=regretted.feedback_id)
    estimate = evaluation.win_rate(store, "policy-0002", "policy-0001")
    assert (estimate.mean, estimate.n) == (1.0, 1)


def test_win_rate_does_not_depend_on_which_answer_came_first(store):
    new, old = answer(store, "policy-0002"), answer(store, "policy-0001")
    compare(store, new, old, "first", "ada")
    assert evaluation.win_rate(store, "policy-0002", "policy-0001").n == 1
    assert evaluation.win_rate(store, "policy-0001", "policy-0002").n == 1


def test_a_version_is_not_compared_with_itself(store):
    with pytest.raises(ValueError, match="policy-0001 has no win rate against itself"):
        evaluation.win_rate(store, "policy-0001", "policy-0001")


def test_kl_divergence_by_hand():
    # (-0.5 - 0.5) - (-1 - 1) = 1 and (-2) - (-1.5) = -0.5.
    assert evaluation.kl_divergence([[-0.5, -0.5], [-2.0]], [[-1.0, -1.0], [-1.5]]) == pytest.approx(0.25)


def test_kl_divergence_needs_matching_tokens():
    with pytest.raises(ValueError, match="not about the same tokens"):
        evaluation.kl_divergence([[-0.5, -0.5]], [[-1.0]])
    with pytest.raises(ValueError, match="not about the same tokens"):
        evaluation.kl_divergence([[-0.5]], [[-1.0], [-1.0]])
    with pytest.raises(ValueError, match="no answer"):
        evaluation.kl_divergence([], [])


def test_reward_accuracy_counts_ties_half():
    estimate = evaluation.reward_accuracy([0.3, 2.0, -0.1, 0.0])
    assert (estimate.mean, estimate.n) == (2.5 / 4, 4)


def test_a_share_has_the_interval_of_its_cases():
    cases = evaluation.mean_estimate([1.0] * 15 + [0.0] * 5, bounds=(0.0, 1.0))
    share = evaluation.share_estimate(0.75, 20)
    assert (share.mean, share.n) == (0.75, 20)
    assert (share.low, share.high) == (pytest.approx(cases.low), pytest.approx(cases.high))


def test_a_share_of_nothing_is_unknown():
    estimate = evaluation.share_estimate(math.nan, 0)
    assert math.isnan(estimate.mean)
    assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 0)
    assert evaluation.reward_accuracy([]).n == 0


def test_answer_length_is_in_words(store):
    ids = [answer(store, "policy-0001", text) for text in ("one two three", "one")]
    interactions = store.get_interactions(ids).values()
    assert evaluation.answer_length(interactions) == 2.0
    assert math.isnan(evaluation.answer_length([]))
