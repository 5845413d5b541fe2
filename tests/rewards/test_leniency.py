import math

import pytest
import torch

from online_trl.rewards.leniency import VerdictTable, fit_leniency


def fit(scores, labels, users=None, *, leniency_std=1.0, **options):
    scores = torch.as_tensor(scores, dtype=torch.float).reshape(len(labels), -1)
    users = torch.zeros(len(labels), dtype=torch.long) if users is None else torch.as_tensor(users)
    weights = torch.ones_like(scores)
    return fit_leniency(scores, torch.tensor(labels), users, weights, int(users.max()) + 1, leniency_std, **options)


def test_a_threshold_by_hand():
    # Three of four answers that score 1 get a thumb: 1 - threshold = log 3, but for a prior that is almost flat.
    thresholds, leniency = fit([1.0] * 4, [1.0, 1.0, 1.0, 0.0], leniency_std=0.0)
    assert thresholds.item() == pytest.approx(1 - math.log(3), abs=0.02)
    assert leniency.item() == pytest.approx(0.0, abs=1e-9)


def test_a_rating_counts_as_that_share_of_a_thumb():
    ratings, _ = fit([1.0], [0.75], leniency_std=0.0)
    thumbs, _ = fit([1.0] * 4, [1.0, 1.0, 1.0, 0.0], leniency_std=0.0)
    assert ratings.item() == pytest.approx(thumbs.item(), abs=0.05)


def test_two_users_who_are_mirror_images_have_opposite_leniency():
    # By symmetry the threshold is 0, and leniency solves 4·(3/4 - sigmoid(l)) = l / σ².
    thresholds, leniency = fit([0.0] * 8, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0] * 4 + [1] * 4)
    lenient, grumpy = leniency[:, 0].tolist()
    assert thresholds.item() == pytest.approx(0.0, abs=1e-9)
    assert lenient == pytest.approx(-grumpy)
    assert 4 * (0.75 - torch.tensor(lenient).sigmoid().item()) == pytest.approx(lenient, abs=1e-6)


def test_at_the_fit_nothing_pulls_any_more():
    torch.manual_seed(0)
    scores, users = torch.randn(60, 3, dtype=torch.double), torch.arange(60) % 5
    labels, weights = (torch.rand(60) < 0.6).double(), 2.0 * torch.randint(0, 2, (60, 3))
    thresholds, leniency = fit_leniency(scores, labels, users, weights, 5, 0.7)
    residuals = weights * ((scores - thresholds + leniency[users]).sigmoid() - labels[:, None])
    by_user = torch.zeros(5, 3, dtype=torch.double).index_add(0, users, residuals)
    torch.testing.assert_close(by_user + leniency / 0.7**2, torch.zeros_like(leniency), atol=1e-8, rtol=0)
    centres = (weights * scores).sum(0) / weights.sum(0)
    torch.testing.assert_close(residuals.sum(0), (thresholds - centres) / 100, atol=1e-8, rtol=0)


def test_a_grumpy_user_does_not_shift_the_threshold_of_the_others():
    torch.manual_seed(0)
    scores = torch.randn(300)
    labels = (torch.rand(300) < scores.sigmoid()).float()
    users = torch.arange(300) % 6
    without = fit(scores, labels.tolist(), users)
    with_grumpy = torch.cat([scores, torch.randn(60)]), [*labels.tolist(), *[0.0] * 60]
    users = torch.cat([users, torch.full((60,), 6)])
    beside = fit(*with_grumpy, users)
    blind = fit(*with_grumpy, users, leniency_std=0.0)
    assert beside[1][6].item() < -2

    def for_others(fitted):  # leniency is relative to the mean user, so that both parts make up what somebody wants
        return (fitted[0] - fitted[1][:6])[:, 0]

    assert (for_others(beside) - for_others(without)).abs().max() < 0.1
    assert (for_others(blind) - for_others(without)).mean() > 0.3


@pytest.mark.parametrize("labels", [[1.0] * 6, [0.0] * 6, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_labels_that_a_threshold_separates_perfectly_keep_the_fit_finite(labels, scale):
    scores = scale * torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    thresholds, leniency = fit(scores, labels, [0, 1, 2, 0, 1, 2], leniency_std=5.0)
    assert thresholds.isfinite().all()
    assert leniency.abs().max() < 1e2
    assert thresholds.abs().max() < 4 * max(scale, 10)


def test_a_bad_start_and_few_steps_end_in_the_same_place():
    torch.manual_seed(1)
    scores, labels = torch.randn(40), (torch.rand(40) < 0.5).float().tolist()
    expected = fit(scores, labels)
    far = torch.tensor([60.0]), torch.tensor([[-60.0]])
    torch.testing.assert_close(fit(scores, labels, start=far, iterations=60), expected, atol=1e-6, rtol=0)


def test_weights_of_zero_are_verdicts_that_nobody_gave():
    users = torch.tensor([0, 0, 1, 1])
    scores, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    weights = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    thresholds, leniency = fit_leniency(scores, labels, users, weights, 2, 1.0)
    few, _ = fit_leniency(scores[:2], labels[:2], users[:2], weights[:2], 1, 1.0)
    torch.testing.assert_close(thresholds, few)
    assert leniency[1].item() == pytest.approx(0.0, abs=1e-12)


def test_a_table_fits_to_the_latest_score_of_every_verdict():
    table = VerdictTable(num_heads=2, leniency_std=1.0)
    ones = torch.ones(2, 2)
    table.update([7, 8], [100, 200], torch.tensor([1.0, 0.0]), ones, torch.full((2, 2), 5.0))
    table.update([9, 8], [100, 300], torch.tensor([0.0, 1.0]), ones, torch.zeros(2, 2))
    table.update([7], [100], torch.tensor([1.0]), ones[:1], torch.ones(1, 2), iterations=25)
    scores = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    labels, users = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 2, 0])
    thresholds, leniency = fit_leniency(scores, labels, users, torch.ones(3, 2), 3, 1.0)
    torch.testing.assert_close(table.thresholds, thresholds)
    torch.testing.assert_close(
        table.offsets([100, 300, 999]), (torch.stack([*leniency[[0, 2]], torch.zeros(2)]) - thresholds).float()
    )


def test_nobody_knows_a_threshold_before_the_first_verdict():
    assert VerdictTable(num_heads=2, leniency_std=1.0).offsets([1, 2]).tolist() == [[0.0, 0.0], [0.0, 0.0]]
