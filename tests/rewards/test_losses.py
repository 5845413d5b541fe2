"""Hand-worked numbers for every loss of the reward model."""

import math
from itertools import permutations

import pytest
import torch

from online_trl.rewards import losses

LOG2, LOG3 = math.log(2), math.log(3)


def column(*values):
    return torch.tensor(values)[:, None]


def test_a_pair_by_hand():
    # Scores log 3 and 0: the odds are 3 to 1, so the better one wins with chance 3/4.
    won, lost = column(LOG3, 0.0), column(0.0, LOG3)
    torch.testing.assert_close(losses.pair_loss(won, lost), -column(3 / 4, 1 / 4).log())


def test_a_margin_is_what_the_better_one_has_to_be_ahead_by():
    loss = losses.pair_loss(column(LOG3, LOG3), column(0.0, 0.0), margin=column(LOG3, LOG3 - LOG2))
    torch.testing.assert_close(loss, -column(1 / 2, 2 / 3).log())


def test_ties_after_davidson_by_hand():
    # Worths 4 and 1, ν = 1: win, loss and tie have 4, 1 and √(4·1) = 2 of 7.
    better, worse = column(math.log(4)), column(0.0)
    torch.testing.assert_close(losses.pair_loss(better, worse, tie_strength=1.0), -column(4 / 7).log())
    torch.testing.assert_close(losses.pair_loss(worse, better, tie_strength=1.0), -column(1 / 7).log())
    torch.testing.assert_close(losses.tie_loss(better, worse, tie_strength=1.0), -column(2 / 7).log())
    # ν = 3 has 6 of 11; its constant log 3 is left out.
    torch.testing.assert_close(losses.tie_loss(better, worse, tie_strength=3.0), -column(2 / 11).log())


def test_without_ties_in_the_model_a_tie_is_half_a_win_of_each():
    first, second = column(1.5, -2.0), column(0.3, 4.0)
    halves = (losses.pair_loss(first, second) + losses.pair_loss(second, first)) / 2
    torch.testing.assert_close(losses.tie_loss(first, second), halves)


def test_a_ranking_by_hand():
    # Worths 1, 2, 3 in the order 3, 1, 2: 3/6 · 1/3.
    scores = torch.tensor([[[0.0], [LOG2], [LOG3]]])
    ranks, mask = torch.tensor([[2, 3, 1]]), torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(losses.ranking_loss(scores, ranks, mask), -column(3 / 6 * 1 / 3).log())


def test_the_chances_of_all_rankings_without_ties_add_up_to_one():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.7]).expand(24, 4)[..., None]
    ranks = torch.tensor(list(permutations(range(4))))
    loss = losses.ranking_loss(scores, ranks, torch.ones(24, 4, dtype=torch.bool))
    assert (-loss).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_a_ranking_with_ties_after_efron_by_hand():
    # Worths 1, 2 tied before 3. First place: 6 stand; second: half of what the tied ones have is gone, 6 - 3/2.
    scores = torch.tensor([[[0.0], [LOG2], [LOG3]]])
    ranks, mask = torch.tensor([[1, 1, 2]]), torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(losses.ranking_loss(scores, ranks, mask), -column(1 / 6 * 2 / 4.5).log())


def test_padding_of_a_ranking_changes_neither_loss_nor_gradient():
    short = torch.tensor([[[1.0, 2.0], [0.5, 0.0]]], requires_grad=True)
    padded = torch.tensor([[[1.0, 2.0], [0.5, 0.0], [90.0, 90.0]]], requires_grad=True)
    expected = losses.ranking_loss(short, torch.tensor([[1, 2]]), torch.tensor([[True, True]]))
    loss = losses.ranking_loss(padded, torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(loss, expected)
    expected.sum().backward()
    loss.sum().backward()
    torch.testing.assert_close(padded.grad[:, :2], short.grad)
    assert (padded.grad[:, 2] == 0).all()


def test_a_ranking_of_two_is_a_pair_and_each_head_stands_alone():
    scores = torch.tensor([[[1.0, -3.0], [0.2, 5.0]]])
    loss = losses.ranking_loss(scores, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(loss, losses.pair_loss(scores[:, 0], scores[:, 1]))


def test_scores_far_apart_keep_finite_losses_and_gradients():
    scores = torch.tensor([[[500.0], [-500.0], [-501.0], [0.0]]], requires_grad=True)
    loss = losses.ranking_loss(scores, torch.tensor([[1, 2, 3, 3]]), torch.ones(1, 4, dtype=torch.bool))
    loss = loss + losses.pair_loss(scores[:, 1], scores[:, 0], tie_strength=0.5)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert scores.grad.isfinite().all()


def test_a_label_by_hand():
    # Logits: log 3 twice, then log 3 less a threshold of log 3. Chances 3/4, 3/4, 1/2; the second said no, the third
    # seven tenths of a yes.
    loss = losses.label_loss(column(LOG3, LOG3, LOG3), torch.tensor([1.0, 0.0, 0.7]), column(0.0, 0.0, -LOG3))
    torch.testing.assert_close(loss, -column(3 / 4, 1 / 4, 1 / 2).log())


def test_a_soft_label_is_satisfied_by_its_own_chance():
    score = column(LOG3).requires_grad_()
    losses.label_loss(score, torch.tensor([0.75])).sum().backward()
    torch.testing.assert_close(score.grad, column(0.0))


def test_centring_is_that_of_trl_for_a_pair():
    scores = torch.tensor([[[3.0], [-1.0], [7.0]]])
    assert losses.centring_loss(scores, torch.tensor([[True, True, False]])).item() == (3.0 - 1.0) ** 2
    assert losses.centring_loss(scores, torch.tensor([[True, True, True]])).item() == (2 * 3.0) ** 2


def test_the_pull_is_on_differences_and_a_shift_is_free():
    old = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert losses.pull_loss(old + 5, old).tolist() == [0.0, 0.0]
    now = torch.tensor([[1.0, 0.0], [4.0, -3.0]])  # the differences went from 1 to 3 and from 0 to -3
    assert losses.pull_loss(now, old).tolist() == [4.0, 9.0]


def test_the_pull_is_the_mean_over_all_pairs_of_answers():
    change = torch.tensor([1.0, 3.0, 8.0])[:, None]
    assert losses.pull_loss(change, torch.zeros(3, 1)).item() == pytest.approx((2**2 + 7**2 + 5**2) / 3)
    assert losses.pull_loss(change[:1], torch.zeros(1, 1)).item() == 0.0


def test_weights_multiply_the_losses_and_a_weak_batch_stays_weak():
    loss = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert losses.weigh(loss, torch.tensor([[2.0, 0.0], [1.0, 1.0]])).item() == (2 + 0 + 3 + 4) / 4
    assert losses.weigh(loss, torch.full((2, 2), 0.1)).item() == pytest.approx(0.25)
