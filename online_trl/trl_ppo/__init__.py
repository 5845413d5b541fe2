"""TRL's own `PPOTrainer`, the last of which is in TRL 1.12, on live feedback.

That trainer wants prompts as token ids and a reward model as a module. It gets both here: a collator turns prompts
into ids, and a module computes the scores of whole sequences with reward functions. How it trains is left to it.
"""

import warnings

try:
    with warnings.catch_warnings():
        # TRL warns that what is experimental may change or be removed; this was, and the last release of it is pinned.
        warnings.simplefilter("ignore")
        import trl.experimental.ppo  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "trl.experimental.ppo":
        raise
    raise ImportError(
        "TRL has no `PPOTrainer` since 1.13. Use `online_trl.ppo.OnlinePPOTrainer`, which runs on the GRPO engine of "
        "any TRL, or `pip install trl==1.12.0`"
    ) from error

from .config import OnlineTRLPPOConfig
from .trainer import OnlineTRLPPOTrainer

__all__ = ["OnlineTRLPPOConfig", "OnlineTRLPPOTrainer"]
