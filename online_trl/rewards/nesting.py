"""A trainer inside a trainer: what the inner one changes in the process is put back for the outer one.

A new set of training arguments and a new `Accelerator` replace process-wide state: the random streams, what accelerate
shares between its accelerators (the DeepSpeed plugin and gradient accumulation among it), and the DeepSpeed config by
which transformers decides whether to shard what it loads.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers.integrations import deepspeed as hf_deepspeed


@contextlib.contextmanager
def nested_trainer() -> Iterator[None]:
    """Runs a whole training run inside another one and leaves no trace of it in the process."""
    shared = {kind: dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)}
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), _deepspeed_config_kept():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        for kind, state in shared.items():
            kind._shared_state.clear()
            kind._shared_state.update(state)


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """Loads models whole: under ZeRO-3, `from_pretrained` would shard them without an engine to gather them."""
    with _deepspeed_config_kept():
        hf_deepspeed.unset_hf_deepspeed_config()
        yield


@contextlib.contextmanager
def _deepspeed_config_kept() -> Iterator[None]:
    config = hf_deepspeed._hf_deepspeed_config_weak_ref
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = config
