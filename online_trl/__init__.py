"""Online RLHF on Hugging Face TRL: train a language model on what its users say about it while it is deployed.

The names below are loaded when they are first used, so that a feedback service starts without the training stack.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .grpo import OnlineGRPOConfig, OnlineGRPOTrainer
    from .ppo import OnlinePPOConfig, OnlinePPOTrainer
    from .registry import ModelRegistry
    from .rewards.scorer import LiveReward
    from .store import FeedbackStore
    from .types import Feedback, FeedbackKind, Interaction

__version__ = "0.1.0"

__all__ = [
    "Feedback",
    "FeedbackKind",
    "FeedbackStore",
    "Interaction",
    "LiveReward",
    "ModelRegistry",
    "OnlineGRPOConfig",
    "OnlineGRPOTrainer",
    "OnlinePPOConfig",
    "OnlinePPOTrainer",
]

_MODULES = {
    "Feedback": ".types",
    "FeedbackKind": ".types",
    "FeedbackStore": ".store",
    "Interaction": ".types",
    "LiveReward": ".rewards.scorer",
    "ModelRegistry": ".registry",
    "OnlineGRPOConfig": ".grpo",
    "OnlineGRPOTrainer": ".grpo",
    "OnlinePPOConfig": ".ppo",
    "OnlinePPOTrainer": ".ppo",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
