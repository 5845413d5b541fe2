from __future__ import annotations

import pytest

from online_trl.store import UnknownInteractionError
from online_trl.types import Feedback, FeedbackKind, Interaction


def answer(number: int) -> Interaction:
    return Interaction(
        prompt=[{"role": "user", "content": f"Question {number}?"}],
        completion=[{"role": "assistant", "content": f"Answer {number}."}],
        policy_version="policy-0001",
        session_id=f"session {number}",
        user_id="ada",
    )


def thumb(name: str) -> Feedback:
    return Feedback(kind=FeedbackKind.BINARY, interaction_ids=[name], value=True, user_id="ada")


# Up to, and beyond, what one statement of SQLite inserts of either.
@pytest.mark.parametrize("count", [1, 3, 47, 48, 199])
def test_a_batch_of_any_size_comes_back_as_it_went_in(store, count):
    answers = store.add_interactions([answer(number) for number in range(count)])
    thumbs = store.add_feedback_batch([thumb(row.interaction_id) for row in answers])
    assert (store.interactions(), store.feedback()) == (answers, thumbs)
    assert [row.seq for row in [*answers, *thumbs]] == list(range(1, 2 * count + 1))


def test_a_batch_with_an_unknown_answer_names_it_and_adds_nothing(store):
    known = store.add_interactions([answer(number) for number in range(3)])
    names = [known[0].interaction_id, "missing", known[1].interaction_id, "also missing"]
    with pytest.raises(UnknownInteractionError, match=r"missing.*also missing"):
        store.add_feedback_batch([thumb(name) for name in names])
    assert store.feedback() == []
