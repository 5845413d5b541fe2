"""PPO on TRL's GRPO engine: its datasets, generation and reward functions; a critic, GAE and the clipped value loss.

The critic is saved beside the policy, never inside it: a checkpoint's policy loads in plain transformers.
"""

from .config import OnlinePPOConfig
from .trainer import OnlinePPOTrainer

__all__ = ["OnlinePPOConfig", "OnlinePPOTrainer"]
