"""The longest prompt that a run trains on: a longer one is left out or truncated, and either is counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from datasets import Dataset, IterableDataset

from .config import TRUNCATE, ConfigError

logger = logging.getLogger(__name__)


class PromptLimit:
    """
    Holds prompts to a number of tokens.

    Args:
        max_length (`int`):
            Tokens of the longest prompt.
        long_prompts (`str`):
            What becomes of a longer one, `"drop"` or `"truncate"`.
        count_tokens (`Callable`):
            Counts the tokens of a prompt as the policy is given it.

    Attributes:
        dropped (`int`):
            Prompts that this process has left out so far.
    """

    def __init__(self, max_length: int, long_prompts: str, count_tokens: Callable[[Any], int]) -> None:
        self.max_length = max_length
        self.truncates = long_prompts == TRUNCATE
        self.count_tokens = count_tokens
        self.dropped = 0

    def admits(self, prompt: Any) -> bool:
        """Says whether a prompt may be trained on; one that may not is counted."""
        if self.truncates or self.count_tokens(prompt) <= self.max_length:
            return True
        self.dropped += 1
        return False

    def admitted(self, dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
        """
        Leaves out the rows whose prompt is too long; of a dataset that is streamed, as they come.

        Raises:
            [`~online_trl.config.ConfigError`]: if no row is left.
        """
        if self.truncates:
            return dataset
        if isinstance(dataset, IterableDataset):
            return dataset.filter(lambda row: self.admits(row["prompt"]))
        kept = [index for index, prompt in enumerate(dataset["prompt"]) if self.admits(prompt)]
        if not kept:
            raise ConfigError(
                f"every prompt of `train_dataset` is longer than `max_prompt_length`, which is {self.max_length}; "
                "raise it, or set `long_prompts` to `truncate`"
            )
        if len(kept) < len(dataset):
            logger.warning(
                "%d of the %d prompts of `train_dataset` are longer than `max_prompt_length`, which is %d tokens, and "
                "are left out",
                len(dataset) - len(kept),
                len(dataset),
                self.max_length,
            )
        return dataset.select(kept)

    def truncated(self, prompt_ids: list[list[int]]) -> tuple[list[list[int]], float]:
        """Returns the last tokens of each prompt, and the share of the prompts that lost some."""
        long = sum(len(ids) > self.max_length for ids in prompt_ids)
        return [ids[-self.max_length :] for ids in prompt_ids], long / len(prompt_ids)
