"""Log-probabilities of answers under a reference policy, for the KL divergence of a version from the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from .types import Interaction


class ReferencePolicy:
    """
    A frozen policy that says how likely it would have been to give an answer.

    Args:
        path (`str` or `Path`):
            Folder or hub id of a causal language model.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where to compute.
    """

    def __init__(self, path: str | Path, *, device: torch.device | str = "cpu") -> None:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path)
        self.model = model.to(device).eval()

    def logprobs(self, interactions: Sequence[Interaction]) -> list[list[float]]:
        """
        Scores the very tokens that were sampled.

        Args:
            interactions (`Sequence[Interaction]`):
                Answers whose token ids were recorded.

        Returns:
            `list[list[float]]`: Log-probability of each completion token at temperature 1, in nats.

        Raises:
            `ValueError`: if an interaction was recorded without token ids.
        """
        return [self._score(interaction) for interaction in interactions]

    @torch.inference_mode()
    def _score(self, interaction: Interaction) -> list[float]:
        if interaction.prompt_ids is None or interaction.completion_ids is None:
            raise ValueError(f"the interaction {interaction.interaction_id} was recorded without its token ids")
        ids = torch.tensor([interaction.prompt_ids + interaction.completion_ids], device=self.model.device)
        logits = self.model(ids).logits[0, len(interaction.prompt_ids) - 1 : -1].float()
        chosen = ids[0, len(interaction.prompt_ids) :, None]
        logprobs: list[float] = torch.log_softmax(logits, dim=-1).gather(1, chosen)[:, 0].tolist()
        return logprobs
