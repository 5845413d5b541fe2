"""
Versions of policies and reward models: publish, promote, roll back, try on some users, prune.

    policies/policy-0001/      the files of one version and its `version.json`; written once, never changed
    rewards/reward-0001/
    evaluations/policy-0001/   what was measured of it since; files are only added
    live.json                  all that changes: what is live, what became of each version, every promotion and canary

They lie in a folder or in a repository of the Hugging Face Hub, as the [`~storage.Storage`] of a registry has it; the
rules are the same, in `state.py`. A reader sees what was before a change or after it, whenever a writer dies.
"""

from .consumed import Consumed, Sources
from .errors import RegistryError
from .models import ModelRegistry
from .versions import copy_model

__all__ = ["Consumed", "ModelRegistry", "RegistryError", "Sources", "copy_model"]
