"""
Versions of policies and reward models in a folder: publish, verify, promote, roll back.

    root/policies/policy-0001/     the files of one version and its `version.json`; written once, never changed
    root/rewards/reward-0001/
    root/live.json                 all that changes: what is live, what became of each version, every promotion

A version appears by one rename of a finished folder, and `live.json` is replaced whole, so a reader in any process
sees the state before a change or after it. Writers take turns on a file lock; readers need none.
"""

from .consumed import Consumed, Sources
from .models import ModelRegistry
from .state import RegistryError
from .versions import copy_model

__all__ = ["Consumed", "ModelRegistry", "RegistryError", "Sources", "copy_model"]
