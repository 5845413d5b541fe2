import math

import pytest

from online_trl import evaluation
from online_trl.evaluation.alignment import log_ratios
from online_trl.types import Interaction


def test_log_ratios_by_hand():
    # (-0.5 - 0.5) - (-1 - 1) = 1 and (-2) - (-1.5) = -0.5.
    assert log_ratios([[-0.5, -0.5], [-2.0]], [[-1.0, -1.0], [-1.5]]) == pytest.approx([1.0, -0.5])


@pytest.mark.parametrize(("logprobs", "reference"), [([[-0.5, -0.5]], [[-1.0]]), ([[-0.5]], [[-1.0], [-1.0]])])
def test_log_ratios_need_matching_tokens(logprobs, reference):
    with pytest.raises(ValueError, match="not about the same tokens"):
        log_ratios(logprobs, reference)


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
