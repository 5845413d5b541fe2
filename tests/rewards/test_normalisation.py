import math

import pytest
import torch

from online_trl.rewards.normalisation import Moments

NAN = math.nan


def test_rewards_get_mean_0_and_unbiased_standard_deviation_1():
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, squared distances 4 + 1 + 0 + 9
    moments = Moments.of(rewards)
    assert moments == Moments(4, 3.0, 14.0)
    assert moments.standardise(rewards).tolist() == pytest.approx([x / math.sqrt(14 / 3) for x in (-2, -1, 0, 3)])
    assert moments.standardise(rewards).dtype == torch.float32


def test_where_a_source_does_not_apply_is_not_counted_and_stays():
    rewards = torch.tensor([NAN, 1.0, NAN, 3.0])
    assert Moments.of(rewards) == Moments(2, 2.0, 2.0)
    assert Moments.of(rewards).standardise(rewards).tolist() == pytest.approx(
        [NAN, -1 / math.sqrt(2), NAN, 1 / math.sqrt(2)], nan_ok=True
    )


def test_parts_put_together_are_the_moments_of_the_whole():
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([NAN, NAN]), torch.tensor([3.0, 6.0, NAN]), torch.tensor([])]
    moments = Moments()
    for part in parts:
        moments = moments.merged(Moments.of(part))
    assert moments == Moments(4, 3.0, 14.0)


def test_rewards_that_are_all_the_same_become_0():
    same = torch.full((3,), 0.1)
    assert Moments.of(same).standardise(same).tolist() == [0.0, 0.0, 0.0]


def test_one_reward_is_the_mean_and_none_changes_nothing():
    assert Moments.of(torch.tensor([5.0])).standardise(torch.tensor([5.0, 7.0])).tolist() == [0.0, 2.0]
    assert Moments().standardise(torch.tensor([5.0])).tolist() == [5.0]
