"""Hand-worked numbers for every function of `ppo_math`."""

import math

import pytest
import torch

from online_trl import ppo_math


def test_token_rewards_puts_the_score_on_the_last_real_token():
    rewards = ppo_math.token_rewards(
        torch.tensor([2.0, -1.0]),
        torch.tensor([[0.5, 1.0, 0.0], [1.0, 9.0, 9.0]]),
        torch.tensor([[1, 1, 1], [1, 0, 0]]),
        kl_coef=0.1,
    )
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, -0.1, 2.0], [-1.1, 0.0, 0.0]]))


def test_token_rewards_gives_nothing_to_an_empty_completion():
    rewards = ppo_math.token_rewards(torch.tensor([3.0]), torch.zeros(1, 2), torch.zeros(1, 2), kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.zeros(1, 2))


def test_generalized_advantages_by_hand():
    # Last step: 1 - 0.2 = 0.8. Before it: 0 + 0.9 * 0.2 - 0.5 + 0.9 * 0.5 * 0.8 = 0.04.
    advantages, returns = ppo_math.generalized_advantages(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.2]]), torch.ones(1, 2), gamma=0.9, lam=0.5
    )
    torch.testing.assert_close(advantages, torch.tensor([[0.04, 0.8]]))
    torch.testing.assert_close(returns, torch.tensor([[0.54, 1.0]]))


def test_generalized_advantages_ignore_padding():
    short, _ = ppo_math.generalized_advantages(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.2]]), torch.ones(1, 2), gamma=0.9, lam=0.5
    )
    padded, returns = ppo_math.generalized_advantages(
        torch.tensor([[0.0, 1.0, 7.0]]),
        torch.tensor([[0.5, 0.2, 9.0]]),
        torch.tensor([[1.0, 1.0, 0.0]]),
        gamma=0.9,
        lam=0.5,
    )
    torch.testing.assert_close(padded[:, :2], short)
    assert padded[0, 2] == returns[0, 2] == 0


def test_lambda_one_gives_returns_that_are_the_rewards_to_go():
    _, returns = ppo_math.generalized_advantages(
        torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[9.0, -3.0, 5.0]]), torch.ones(1, 3), gamma=1.0, lam=1.0
    )
    torch.testing.assert_close(returns, torch.tensor([[7.0, 6.0, 4.0]]))


def test_advantages_step_over_what_tools_said():
    # The same two tokens as by hand above, with a tool's answer between them and padding after them.
    advantages, returns = ppo_math.generalized_advantages(
        torch.tensor([[0.0, 7.0, 1.0, 7.0]]),
        torch.tensor([[0.5, 9.0, 0.2, 9.0]]),
        torch.tensor([[1, 0, 1, 0]]),
        gamma=0.9,
        lam=0.5,
    )
    torch.testing.assert_close(advantages, torch.tensor([[0.04, 0.0, 0.8, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.54, 0.0, 1.0, 0.0]]))


def test_token_rewards_pays_the_last_token_of_the_policy_and_not_of_a_tool():
    rewards = ppo_math.token_rewards(torch.tensor([2.0]), torch.zeros(1, 4), torch.tensor([[1, 0, 1, 0]]), kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[0.0, 0.0, 2.0, 0.0]]))


def test_kl_estimates_by_hand():
    # The reference finds the first token half as likely as the policy does, and the second one twice as likely.
    logps, ref_logps = torch.log(torch.tensor([[0.5, 0.25]])), torch.log(torch.tensor([[0.25, 0.5]]))
    log2 = math.log(2)
    torch.testing.assert_close(ppo_math.kl_estimate(logps, ref_logps, estimator="k1"), torch.tensor([[log2, -log2]]))
    torch.testing.assert_close(
        ppo_math.kl_estimate(logps, ref_logps, estimator="k3"), torch.tensor([[0.5 - 1 + log2, 2 - 1 - log2]])
    )


def test_ended_looks_at_the_last_token_alone():
    ids = torch.tensor([[5, 2, 0], [5, 2, 6], [5, 6, 3], [5, 6, 7]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    assert ppo_math.ended(ids, mask, [2, 3]).tolist() == [True, False, True, False]


def test_whiten_uses_chosen_tokens_only():
    values, mask = torch.tensor([[1.0, 3.0, 100.0, 5.0]]), torch.tensor([[1, 1, 0, 1]])
    torch.testing.assert_close(ppo_math.whiten(values, mask), torch.tensor([[-1.0, 0.0, 0.0, 1.0]]))
    kept = ppo_math.whiten(values, mask, shift_mean=False)
    torch.testing.assert_close(kept, torch.tensor([[2.0, 3.0, 0.0, 4.0]]))


def test_whiten_over_two_ranks_equals_whiten_of_both_together():
    ranks = [torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[5.0, 8.0, 4.0]])]
    masks = [torch.tensor([[1, 1, 0]]), torch.ones(1, 3)]
    together = ppo_math.whiten(torch.cat(ranks), torch.cat(masks))

    # Each rank gives its part of a sum, and gets the whole.
    counts_and_totals = torch.stack([torch.tensor([2.0, 3.0]), torch.tensor([3.0, 17.0])])
    squares = torch.tensor(sum((value - 4) ** 2 for value in (1, 2, 5, 8, 4)))
    for rank, part in zip([0, 1], together.split(1), strict=True):
        sums = iter([counts_and_totals.sum(dim=0), torch.tensor(0.0), squares.float()])
        whitened = ppo_math.whiten(ranks[rank], masks[rank], add_up=lambda tensor, sums=sums: next(sums))
        torch.testing.assert_close(whitened, part)


def test_whiten_of_equal_values_is_zero_and_not_noise():
    torch.testing.assert_close(ppo_math.whiten(torch.full((4, 64), 1000.1), torch.ones(4, 64)), torch.zeros(4, 64))


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_batch_without_enough_tokens_to_vary_stays_finite(tokens):
    values, mask = torch.tensor([[3.0, 4.0]]), torch.tensor([[1, 0]]) * tokens
    assert ppo_math.whiten(values, mask).isfinite().all()
    assert ppo_math.explained_variance(values, values, mask) == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, 0.5 * (0.1 - 1.0) ** 2),  # inside the clip range: the plain error
        (0.9, 0.5 * (0.2 - 1.0) ** 2),  # moved too far towards the return: the clipped error is larger
        (-0.9, 0.5 * (-0.9 - 1.0) ** 2),  # moved too far away: the plain error is larger
    ],
)
def test_clipped_value_loss_takes_the_larger_error(value, expected):
    loss = ppo_math.clipped_value_loss(
        torch.tensor([[value, 50.0]]),
        torch.zeros(1, 2),
        torch.ones(1, 2),
        torch.tensor([[1.0, 0.0]]),
        cliprange=0.2,
        count=torch.tensor(4),
    )
    assert loss.item() == pytest.approx(expected / 4)


def test_explained_variance_of_a_perfect_and_of_a_constant_critic():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    assert ppo_math.explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert ppo_math.explained_variance(torch.full((1, 3), 2.0), returns, mask).item() == pytest.approx(0.0)
    # Returns that are all the same leave nothing to explain.
    assert ppo_math.explained_variance(returns, torch.ones(1, 3), mask).item() == 0
