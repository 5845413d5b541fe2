"""
Which two of several answers users are asked to compare: where the ensemble disagrees, or any two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from online_trl.rewards.asking import double_thompson, random_pair


class Asking:
    """
    Chooses what is put side by side.

    Args:
        reward ([`~online_trl.rewards.scorer.LiveReward`]):
            The reward whose ensemble is asked what it disagrees about.
        arm (`str`):
            `random`, or `ours` for double Thompson sampling.
        seed (`int`):
            Seed of the draws.
    """

    def __init__(self, reward: Any, arm: str, *, seed: int) -> None:
        self.reward = reward
        self.is_random = arm == "random"
        self._rng = np.random.default_rng(seed)

    def choose(self, question: str, texts: Sequence[str]) -> tuple[int, int]:
        """Returns the indices of the two answers that are compared, in the order shown."""
        if self.is_random or self.reward.version is None:
            pair = random_pair(np.zeros((len(texts), 1)), self._rng)
        else:
            pair = double_thompson(self._head_scores(question, texts), self._rng)
        return pair.first, pair.second

    def _head_scores(self, question: str, texts: Sequence[str]) -> np.ndarray:
        prompt = {"role": "user", "content": question}
        conversations = [[prompt, {"role": "assistant", "content": text}] for text in texts]
        return self.reward.scorer.head_scores(conversations).numpy()
