"""One frozen base model under several adapters: a tree of modules for each, on the very same parameters.

Each tree has an adapter and gradient checkpointing of its own. Nothing is switched on one model that another one still
needs: an adapter that is exchanged before the backward pass would recompute the wrong activations.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

from transformers import PreTrainedModel


def on_shared_base(policy: Any) -> PreTrainedModel:
    """
    Makes a second tree of the modules of a frozen base model.

    Args:
        policy ([`~peft.PeftModel`]):
            A model trained by an adapter, of a tuner that can be unloaded (LoRA and the like).

    Returns:
        `PreTrainedModel`: The base without the adapter. Its parameters and buffers are those of the policy, and not
        copies: they count once in memory, in an optimiser and under DeepSpeed.
    """
    tensors = itertools.chain(policy.parameters(), policy.buffers())
    replica = copy.deepcopy(policy, {id(tensor): tensor for tensor in tensors})
    base: PreTrainedModel = replica.unload()
    return base
