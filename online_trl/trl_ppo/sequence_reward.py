"""A reward function as the module that TRL's `PPOTrainer` wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput


class SequenceReward(nn.Module):
    """
    A function in the shape of a reward model as `PPOTrainer` calls it: a backbone whose hidden states a `score` layer
    reads. The reward stands at each position of its sequence, and so at the one that the trainer picks.

    Args:
        function (`Callable[[torch.Tensor, torch.Tensor], torch.Tensor]`):
            Called with token ids and their attention mask, each of shape `(B, T)`; returns rewards of shape `(B,)`.
        config (`PreTrainedConfig`):
            That of the policy, of which DeepSpeed asks the size.
    """

    base_model_prefix = "backbone"

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], config: Any) -> None:
        super().__init__()
        self.config = config
        self.backbone = _FunctionBackbone(function)
        self.score = nn.Identity()
        # DeepSpeed refuses a module without any weights.
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)


class _FunctionBackbone(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        rewards = self.function(input_ids, attention_mask)
        return BaseModelOutput(hidden_states=(rewards.view(-1, 1, 1).expand(*input_ids.shape, 1),))
