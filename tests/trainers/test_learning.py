"""Both trainers learn a small task whose reward can be verified, and PPO's values explain what comes of an answer."""

import pytest
from datasets import Dataset

from trainer_runs import logged, make

# Each step learns from one batch; what is stated of a run holds for four seeds out of four, with room to spare.
SETTINGS = {
    "grpo": {"max_steps": 50},
    "ppo": {"max_steps": 80, "num_iterations": 2, "vf_coef": 1.0, "cliprange_value": 2.0},
}


def questions(first, last):
    """Half of the questions pay three times as much as the others, which a critic can know from their first word."""
    rows = [(word, worth, index) for index in range(first, last) for word, worth in (("yes", 3.0), ("no", 1.0))]
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"{word} {index}"}], "worth": worth} for word, worth, index in rows]
    )


def vowels(completions, worth, **columns):
    texts = [completion[0]["content"].lower() for completion in completions]
    shares = [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in texts]
    return [paid * share for paid, share in zip(worth, shares, strict=True)]


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_reward_of_questions_never_trained_on_rises(kind, tiny_policy, tmp_path):
    settings = {"learning_rate": 1e-2, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 32}
    trainer = make(kind, tiny_policy, tmp_path, vowels, questions(0, 32), beta=0.0, **settings, **SETTINGS[kind])
    unseen = questions(100, 116)
    before = trainer.evaluate(unseen)["eval_reward"]
    trainer.train()
    after = trainer.evaluate(unseen)
    assert before < 0.5  # of 2 that can be had
    assert after["eval_reward"] > before + 0.6
    if kind == "ppo":
        assert after["eval_val/explained_variance"] > 0.8
        assert logged(trainer, "val/explained_variance")[0] == pytest.approx(0.0, abs=1e-4)
