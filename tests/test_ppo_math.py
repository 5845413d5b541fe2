"""Hand-worked numbers for every function of `ppo_math`."""

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


def test_whiten_uses_real_tokens_only():
    whitened = ppo_math.whiten(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(whitened, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_whiten_over_two_ranks_equals_whiten_of_both_together():
    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 8.0]])
    mask = torch.ones(1, 2)
    moments = ppo_math.masked_moments(first, mask) + ppo_math.masked_moments(second, mask)
    together = ppo_math.whiten(torch.cat([first, second]), torch.ones(2, 2))
    torch.testing.assert_close(ppo_math.whiten(second, mask, moments), together[1:])


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
    )
    assert loss.item() == pytest.approx(expected)


def test_explained_variance_of_a_perfect_and_of_a_constant_critic():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    assert ppo_math.explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert ppo_math.explained_variance(torch.full((1, 3), 2.0), returns, mask).item() == pytest.approx(0.0)
