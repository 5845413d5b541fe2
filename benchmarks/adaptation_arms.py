"""The arms of the adaptation benchmark: what pays the policy, and how it is kept up to date."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback
from trl import RewardConfig, RewardTrainer

from online_trl.config import RefreshArguments
from online_trl.preferences import PreferenceBatch, preference_dataset
from online_trl.rewards.nesting import nested_trainer
from online_trl.rewards.scorer import RewardScorer
from online_trl.simulation.taste import Taste
from online_trl.types import Message, PreferencePair

_SCALED_ON = 64
# About the mean and the spread of satisfaction over the base policy's answers: all arms pay on the same scale.
_MEAN, _SPREAD = 0.35, 0.2


class TrueTaste:
    """
    The oracle: the taste itself as the reward.

    Args:
        taste ([`~online_trl.simulation.taste.Taste`]):
            What is liked at present.
    """

    __name__ = "true_taste"

    def __init__(self, taste: Taste) -> None:
        self.taste = taste

    def __call__(self, prompts: list[list[Message]], completions: list[list[Message]], **columns: Any) -> list[float]:
        return [
            (self.taste.satisfaction(prompt[-1]["content"], completion[-1]["content"]) - _MEAN) / _SPREAD
            for prompt, completion in zip(prompts, completions, strict=True)
        ]


class PlainRefresher:
    """
    TRL's `RewardTrainer` on every pair so far, from the initial model, with one head. It is the reward function, too,
    which pays nothing until there is a pair to learn from.

    The weights that the log gives to pairs, so that no user has too large a share, are honoured by leaving pairs out:
    TRL's `RewardTrainer` knows no weights.

    Args:
        base_model (`Path`):
            Folder of the model that each refresh starts from.
        output_dir (`Path`):
            Where TRL keeps its files.
        seed (`int`):
            Seed of the training and of what is left out.
    """

    __name__ = "plain_reward"
    is_ready = True

    def __init__(self, base_model: Path, output_dir: Path, *, seed: int) -> None:
        self.base_model = base_model
        self.output_dir = output_dir
        self.seed = seed
        self.pairs: list[PreferencePair] = []
        self._scorer: RewardScorer | None = None
        self._mean, self._spread = 0.0, 1.0

    def trainable(self, batch: PreferenceBatch) -> int:
        return len(batch.pairs)

    def remember(self, batch: PreferenceBatch) -> None:
        self.pairs.extend(batch.with_capped_shares(RefreshArguments.max_user_share).pairs)

    def watch(self, batch: PreferenceBatch) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def refresh(self, batch: PreferenceBatch) -> int:
        """Trains anew and returns on how many pairs."""
        self.remember(batch)
        draw = random.Random(f"weight-{self.seed}")
        pairs = [pair for pair in self.pairs if draw.random() < pair.weight]
        with tempfile.TemporaryDirectory(prefix="plain-") as folder:
            self._train(pairs, folder)
            self._scorer = RewardScorer(folder)
        answers = [pair.prompt + side for pair in pairs[-_SCALED_ON:] for side in (pair.chosen, pair.rejected)]
        scores = self._scorer.scores(answers)
        self._mean, self._spread = float(scores.mean()), max(1e-3, float(scores.std()))
        return len(pairs)

    def _train(self, pairs: Sequence[PreferencePair], folder: str) -> None:
        with nested_trainer():
            args = RewardConfig(
                output_dir=str(self.output_dir),
                learning_rate=1e-3,
                num_train_epochs=2,
                per_device_train_batch_size=32,
                seed=self.seed,
                bf16=False,
                use_cpu=True,
                gradient_checkpointing=False,
                disable_tqdm=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                dataloader_pin_memory=False,
            )
            trainer = RewardTrainer(model=str(self.base_model), args=args, train_dataset=preference_dataset(pairs))
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.save_model(folder)

    def __call__(self, prompts: list[list[Message]], completions: list[list[Message]], **columns: Any) -> list[float]:
        if self._scorer is None:
            return [0.0] * len(prompts)
        scores = self._scorer.scores([a + b for a, b in zip(prompts, completions, strict=True)])
        return ((scores - self._mean) / self._spread).tolist()


def accuracy(reward: Any, taste: Taste, answered: Sequence[tuple[str, str]]) -> float | None:
    """
    Returns how often a reward prefers the more satisfying of two answers to one question, or `None` where no two
    neighbours differ by enough to say.
    """
    pairs = [
        (question, first, second)
        for (question, first), (other, second) in zip(answered[::2], answered[1::2], strict=True)
        if question == other and abs(taste.satisfaction(question, first) - taste.satisfaction(question, second)) > 0.05
    ]
    if not pairs:
        return None
    compared = [(question, text) for question, first, second in pairs for text in (first, second)]
    scored, truth = (scores(function, compared).view(-1, 2) for function in (reward, TrueTaste(taste)))
    return float(((scored[:, 0] > scored[:, 1]) == (truth[:, 0] > truth[:, 1])).float().mean())


def scores(reward: Any, answered: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Returns what a reward function pays for each answer to its question."""
    prompts = [[Message(role="user", content=question)] for question, _ in answered]
    completions = [[Message(role="assistant", content=text)] for _, text in answered]
    return torch.tensor(reward(prompts=prompts, completions=completions))
