import pytest
import torch

from online_trl.rewards.ensemble import MAX_HEADS, bootstrap_weights, disagreement, pessimistic

KEYS = [f"feedback-{index}/interaction-{index}" for index in range(2000)]


def test_weights_are_double_or_nothing_with_a_mean_of_one():
    weights = bootstrap_weights(KEYS, 8)
    assert weights.shape == (2000, 8)
    assert set(weights.unique().tolist()) == {0.0, 2.0}
    assert weights.mean(dim=0).tolist() == pytest.approx([1.0] * 8, abs=0.1)


def test_heads_draw_apart_from_each_other():
    correlations = torch.corrcoef(bootstrap_weights(KEYS, 8).T) - torch.eye(8)
    assert correlations.abs().max() < 0.1


def test_a_statement_keeps_its_weights_whatever_stands_beside_it():
    together = bootstrap_weights(KEYS, 8)
    assert together[7].equal(bootstrap_weights([KEYS[7]], 8)[0])
    assert together.equal(bootstrap_weights(KEYS, 8))
    assert bootstrap_weights(["a"], 8).tolist() == [[0, 2, 2, 2, 2, 0, 2, 2]]  # BLAKE2b of "a" in 8 bits is 0xde


def test_one_head_learns_from_everything():
    assert bootstrap_weights(KEYS[:3], 1).tolist() == [[1.0]] * 3


@pytest.mark.parametrize("heads", [3, 12, MAX_HEADS])
def test_any_number_of_heads_has_weights(heads):
    assert bootstrap_weights(KEYS[:2], heads).shape == (2, heads)


def test_no_statements_have_no_weights():
    assert bootstrap_weights([], 8).shape == (0, 8)


def test_the_pessimistic_score_by_hand():
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])  # deviations 1 and 0
    assert pessimistic(scores, 0.5).tolist() == [1.5, 4.0]
    assert pessimistic(scores, 0.0).tolist() == [2.0, 4.0]
    assert disagreement(scores).tolist() == [1.0, 0.0]


def test_one_head_agrees_with_itself():
    scores = torch.tensor([[1.0], [2.0]])
    assert disagreement(scores).tolist() == [0.0, 0.0]
    assert pessimistic(scores, 2.0).tolist() == [1.0, 2.0]
