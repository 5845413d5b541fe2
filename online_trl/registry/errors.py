"""What can go wrong in a registry."""

# What to do about files that are gone or damaged.
REMEDY = "restore them from a copy, or go back to an earlier version with `ModelRegistry.rollback`"


class RegistryError(RuntimeError):
    """A version cannot be found, published, verified or put into service; the message names it and the reason."""
