"""Prompts as the token ids that TRL's `PPOTrainer` wants, and the way back from these to the rows they came from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]


@dataclass
class _Batch:
    """A batch, and how many of its rows were asked for: the same prompts may come again in a later one."""

    input_ids: torch.Tensor
    rows: list[Row]
    asked: int = 0


class PromptCollator:
    """
    Turns rows with prompts, conversational or plain, into the batches of token ids that `PPOTrainer` reads, and tells
    which rows a batch was made of.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the policy.
        draw (`Callable[[list[dict]], list[dict]]`):
            Called with the rows of each batch; returns those to use, some of them replaced by fresh ones.
        tokenize (`Callable[[list], list[list[int]]]`):
            Called with the prompts of those rows; returns the token ids of each.
        slice_size (`int`):
            Sequences that the trainer scores at once.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        draw: Callable[[list[Row]], list[Row]],
        tokenize: Callable[[list[Any]], list[list[int]]],
        slice_size: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.draw = draw
        self.tokenize = tokenize
        self.slice_size = slice_size
        # The dataloader is a batch ahead of the trainer, and may have batches for evaluation that are never used.
        self._batches: deque[_Batch] = deque(maxlen=8)

    def __call__(self, features: list[Row]) -> dict[str, torch.Tensor]:
        rows = self.draw(features)
        input_ids = self.tokenize([row["prompt"] for row in rows])
        padded = self.tokenizer.pad({"input_ids": input_ids}, padding_side="left", return_tensors="pt")
        self._batches.append(_Batch(padded["input_ids"] * padded["attention_mask"], rows))
        return {"input_ids": padded["input_ids"]}

    def rows_of(self, input_ids: torch.Tensor) -> tuple[list[Row], int]:
        """
        Finds the rows behind sequences that begin with the prompts of a batch, or of a slice of one.

        Args:
            input_ids (`torch.Tensor` of shape `(B, T)`):
                Prompts and completions, with 0 where the prompts are padded.

        Returns:
            `tuple[list[dict], int]`: The rows, and the length of the padded prompts.
        """
        found, count = input_ids.cpu(), len(input_ids)
        for batch in self._batches:
            width = batch.input_ids.shape[1]
            for start in range(batch.asked, len(batch.rows), self.slice_size):
                if torch.equal(batch.input_ids[start : start + count], found[:, :width]):
                    batch.asked = start + count
                    return batch.rows[start : start + count], width
        raise RuntimeError("these sequences begin with no prompts of a recent batch")
