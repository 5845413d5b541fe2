"""What can go wrong in a registry."""


class RegistryError(RuntimeError):
    """A version cannot be found, published, verified or put into service; the message names it and the reason."""
