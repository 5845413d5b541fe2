"""Log-probabilities of answers under a reference policy, for the KL divergence of a version from the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel


class Tokens(Protocol):
    """An answer as token ids, such as an [`~online_trl.types.Interaction`]."""

    @property
    def prompt_ids(self) -> list[int] | None: ...

    @property
    def completion_ids(self) -> list[int] | None: ...


class ReferencePolicy:
    """
    A frozen policy that says how likely it would have been to give an answer.

    Args:
        model (`PreTrainedModel`):
            A causal language model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()

    def logprobs(self, answers: Sequence[Tokens]) -> list[list[float]]:
        """
        Scores the very tokens that were sampled.

        Args:
            answers (`Sequence[Tokens]`):
                Answers whose token ids were recorded, each an interaction or a sampled answer.

        Returns:
            `list[list[float]]`: Log-probability of each completion token at temperature 1, in nats.

        Raises:
            `ValueError`: if an answer was recorded without token ids.
        """
        return [self._score(answer) for answer in answers]

    @torch.inference_mode()
    def _score(self, answer: Tokens) -> list[float]:
        if answer.prompt_ids is None or answer.completion_ids is None:
            raise ValueError(f"there are no token ids of {answer!r}")
        ids = torch.tensor([answer.prompt_ids + answer.completion_ids], device=self.model.device)
        logits = self.model(ids).logits[0, len(answer.prompt_ids) - 1 : -1].float()
        chosen = ids[0, len(answer.prompt_ids) :, None]
        logprobs: list[float] = torch.log_softmax(logits, dim=-1).gather(1, chosen)[:, 0].tolist()
        return logprobs
