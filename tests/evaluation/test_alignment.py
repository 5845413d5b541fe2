import math

import pytest

from online_trl import evaluation
from online_trl.types import Interaction


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


def test_answer_length_is_in_words():
    interactions = [
        Interaction(
            prompt=[{"role": "user", "content": "hello"}],
            completion=[{"role": "assistant", "content": text}],
            policy_version="policy-0001",
            session_id="session",
            user_id="asker",
        )
        for text in ("one two three", "one")
    ]
    assert evaluation.answer_length(interactions) == 2.0
    assert math.isnan(evaluation.answer_length([]))
