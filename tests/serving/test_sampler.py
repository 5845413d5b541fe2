from __future__ import annotations

import math

import pytest
import torch

from online_trl.serving.sampler import draw

# Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()


def draw_one(*, temperature: float = 1.0, top_p: float = 1.0, uniform: float = 0.0) -> tuple[int, float]:
    tokens, logprobs, _ = draw(
        LOGITS, torch.tensor([temperature]), torch.tensor([top_p]), torch.tensor([uniform], dtype=torch.float64)
    )
    return tokens.item(), math.exp(logprobs.item())


@pytest.mark.parametrize(
    ("uniform", "token", "probability"),
    [(0.0, 0, 0.5), (0.49, 0, 0.5), (0.51, 1, 0.25), (0.74, 1, 0.25), (0.76, 2, 0.125), (0.999999, 3, 0.125)],
)
def test_random_number_picks_its_share_of_the_distribution(uniform: float, token: int, probability: float):
    assert draw_one(uniform=uniform) == (token, pytest.approx(probability))


def test_temperature_sharpens_the_distribution():
    # Squares of the probabilities, 1/4 1/16 1/64 1/64, sum to 22/64.
    assert draw_one(temperature=0.5, uniform=0.75) == (1, pytest.approx(4 / 22))


@pytest.mark.parametrize(
    ("top_p", "uniform", "token", "probability"),
    [
        (0.5, 0.999, 0, 1.0),
        (0.6, 0.66, 0, 2 / 3),
        (0.6, 0.67, 1, 1 / 3),
        (0.75, 0.999, 1, 1 / 3),
        (0.8, 0.999, 2, 1 / 7),
    ],
)
def test_nucleus_is_cut_and_scaled_to_one(top_p: float, uniform: float, token: int, probability: float):
    assert draw_one(top_p=top_p, uniform=uniform) == (token, pytest.approx(probability))


def test_temperature_zero_takes_the_likeliest_and_its_plain_probability():
    assert draw_one(temperature=0.0, top_p=0.1, uniform=0.99) == (0, pytest.approx(0.5))


def test_rows_do_not_touch_each_other():
    tokens, logprobs, _ = draw(
        LOGITS.repeat(3, 1),
        torch.tensor([1.0, 0.0, 1.0]),
        torch.tensor([1.0, 1.0, 0.5]),
        torch.tensor([0.6, 0.6, 0.6], dtype=torch.float64),
    )
    assert tokens.tolist() == [1, 0, 0]
    assert logprobs.exp().tolist() == pytest.approx([0.25, 0.5, 1.0])


def test_draws_follow_the_distribution():
    n = 4000
    uniform = torch.arange(n, dtype=torch.float64) / n
    tokens, _, _ = draw(LOGITS.repeat(n, 1), torch.ones(n), torch.ones(n), uniform)
    assert torch.bincount(tokens).tolist() == pytest.approx([2000, 1000, 500, 500], abs=2)
