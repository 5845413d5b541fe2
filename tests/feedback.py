"""Feedback for tests: comparisons whose outcome follows from the answers, so that a reward model can learn them."""

from transformers import TrainerCallback

from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction


def add_comparisons(store: FeedbackStore, count: int, *, prompt: str = "question", start: int = 0) -> None:
    """Adds `count` comparisons in which the answer `yes` is preferred over `no`."""
    for number in range(start, start + count):
        answers = [
            Interaction(
                prompt=[{"role": "user", "content": f"{prompt} {number}"}],
                completion=[{"role": "assistant", "content": text}],
                policy_version="policy-0001",
                session_id=f"session-{number}",
                user_id=f"user-{number % 7}",
            )
            for text in (f"yes {number}", f"no {number}")
        ]
        stored = store.add_interactions(answers)
        store.add_feedback(
            Feedback(
                kind=FeedbackKind.COMPARISON,
                interaction_ids=[interaction.interaction_id for interaction in stored],
                value="first",
                user_id=f"user-{number % 7}",
            )
        )


class WriteEachStep(TrainerCallback):
    """Adds fresh feedback after every step, as users do while a policy trains."""

    def __init__(self, store: FeedbackStore, count: int = 6) -> None:
        self.store = store
        self.count = count

    def on_step_end(self, args, state, control, **kwargs):
        add_comparisons(self.store, self.count, prompt="fresh", start=1000 + 100 * state.global_step)
