"""One frozen base model under several adapters: a tree of modules for each, on the very same parameters.

Each tree has an adapter and gradient checkpointing of its own. Nothing is switched on one model that another one still
needs: an adapter that is exchanged before the backward pass would recompute the wrong activations.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel


def on_shared_base(policy: Any) -> PreTrainedModel:
    """
    Makes a second tree of the modules of a frozen base model.

    Args:
        policy ([`~peft.PeftModel`]):
            A model trained by a LoRA adapter.

    Returns:
        `PreTrainedModel`: The base without the adapter. Its parameters and buffers are those of the policy, and not
        copies: they count once in memory, in an optimiser and under DeepSpeed.
    """
    base: PreTrainedModel = _shared_copy(policy).unload()
    return base


def classifier_on(base: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """
    Makes a sequence classification model on the parameters of another model.

    Args:
        base (`PreTrainedModel`):
            A causal language model.
        config (`PretrainedConfig`):
            That of the classifier, which says how many labels it has.

    Returns:
        `PreTrainedModel`: The classifier, with a new head.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=base.dtype)
    setattr(model, model.base_model_prefix, _shared_copy(base).base_model)
    head = model.score
    model.score = nn.Linear(
        head.in_features, head.out_features, bias=head.bias is not None, dtype=base.dtype, device=base.device
    )
    return model


def has_lora(model: Any) -> bool:
    """Says whether a model is trained by a LoRA adapter, under which its base can be shared."""
    return is_peft_model(model) and bool(model.active_peft_config.peft_type == "LORA")


def _shared_copy(model: Any) -> Any:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
