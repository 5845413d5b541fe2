"""
What holds the reward model of the adaptation benchmark back: what people say, or the model that learns from it?

    python benchmarks/adaptation_ceiling.py --seeds 2

In dense runs, a linear model of the parts that the taste is made of learns from the statements of the live reward.
After each refresh both score the deployed policy's answers, eight to each question. Given is the correlation of scores
with satisfaction within questions, which is what GRPO learns from.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback

from adaptation_arms import scores
from adaptation_deployment import Deployment
from adaptation_policy import Answered, examine
from adaptation_run import assemble, keep_quiet, make_base
from adaptation_scenarios import Run
from online_trl.rewards.losses import label_loss, pair_loss
from online_trl.simulation.taste import Taste
from online_trl.store import FeedbackStore
from online_trl.types import Statement, UnpairedLabel, utcnow

QUESTIONS, ANSWERS = 64, 8
_RIDGE = 0.05


class PartsModel:
    """
    A linear model of the parts of a taste, which the reward model does not know.

    Args:
        taste ([`~online_trl.simulation.taste.Taste`]):
            Whose parts it sees, not how much they count.
        statements (`Sequence[Statement]`):
            What it learns from. All count the same.
    """

    def __init__(self, taste: Taste, statements: Sequence[Statement]) -> None:
        self.taste = taste
        chosen, rejected, labelled, verdicts = [], [], [], []
        for each in statements:
            parts = [self._parts(each.prompt[-1]["content"], answer[-1]["content"]) for answer in each.completions]
            if isinstance(each, UnpairedLabel):
                labelled.append(parts[0])
                verdicts.append(each.score)
            for first, second in permutations(range(len(parts)), 2):
                if each.ranks[first] < each.ranks[second]:
                    chosen.append(parts[first])
                    rejected.append(parts[second])
        width = len((chosen + labelled)[0])
        table = partial(torch.tensor, dtype=torch.float64)
        better, worse, single = (table(rows).view(-1, width) for rows in (chosen, rejected, labelled))
        told = table(verdicts)
        self._weights = torch.zeros(width, dtype=torch.float64, requires_grad=True)
        threshold = torch.zeros(1, dtype=torch.float64, requires_grad=True)

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            pairs = pair_loss((better @ self._weights)[:, None], (worse @ self._weights)[:, None])
            labels = label_loss((single @ self._weights)[:, None], told, -threshold)
            total: torch.Tensor = pairs.sum() + labels.sum() + _RIDGE * self._weights.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer = torch.optim.LBFGS([self._weights, threshold], max_iter=200)
        optimizer.step(loss)  # type: ignore[arg-type]

    def scores(self, answered: Answered) -> torch.Tensor:
        """Returns the score of each answer."""
        parts = torch.tensor([self._parts(*each) for each in answered], dtype=torch.float64)
        return (parts @ self._weights).detach()

    def _parts(self, question: str, answer: str) -> list[float]:
        return list(self.taste.parts(question, answer).values())


def correlation_within(scores: torch.Tensor, truth: torch.Tensor, answers: int) -> float:
    """Returns the correlation of two rows of numbers after the mean over each question's answers is taken off."""
    first, second = (row.double().view(-1, answers) for row in (scores, truth))
    first, second = (row - row.mean(dim=1, keepdim=True) for row in (first, second))
    return float((first * second).sum() / (first.square().sum() * second.square().sum()).sqrt())


class Ceiling(TrainerCallback):
    """Compares the live reward with the model of the parts each time that there is a new version of the policy."""

    def __init__(self, deployment: Deployment, trainer: Any) -> None:
        self.deployment = deployment
        self.trainer = trainer
        self.rows: list[tuple[int, float, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._compare(state.global_step, kwargs["model"], kwargs["processing_class"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.deployment.run.version_steps == 0 and state.global_step < state.max_steps:
            self._compare(state.global_step, kwargs["model"], kwargs["processing_class"])

    def _compare(self, step: int, model: Any, tokenizer: Any) -> None:
        taste, reward, run = self.deployment.taste, self.deployment.reward, self.deployment.run
        answered = examine(model, tokenizer, questions=run.scaled(QUESTIONS), answers=ANSWERS, seed=run.seed)
        truth = torch.tensor([taste.satisfaction(*each) for each in answered])
        schedule = self.trainer.refresh_callback.schedule
        statements = schedule.refresher.memory.everything(upto=schedule.feed.cursor, now=utcnow())
        scored = (scores(reward, answered), PartsModel(taste, statements).scores(answered))
        self.rows.append((step, *(correlation_within(row, truth, ANSWERS) for row in scored)))


def compare(run: Run, base: Path, folder: Path) -> list[tuple[int, float, float]]:
    """Returns, for each version of the policy, its step and the correlation of the live reward and of the parts."""
    with FeedbackStore(f"sqlite:///{folder / 'feedback.db'}") as store:
        deployment, trainer = assemble(run, base, folder, store)
        ceiling = Ceiling(deployment, trainer)
        trainer.add_callback(ceiling)  # after the one that refreshes
        trainer.train()
    return ceiling.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds (%(default)s)")
    arguments = parser.parse_args()
    keep_quiet()
    table = Table("seed", "step", "live reward", "model of the parts")
    for seed in range(1, arguments.seeds + 1):
        run = Run(scenario="dense", arm="ours", trainer="grpo", seed=seed, taste_seed=seed)
        with tempfile.TemporaryDirectory(prefix="ceiling-") as temporary:
            folder = Path(temporary)
            make_base(folder / "base", seed=seed, taste_seed=seed)
            for step, live, parts in compare(run, folder / "base", folder):
                table.add_row(str(seed), str(step), f"{live:.2f}", f"{parts:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
