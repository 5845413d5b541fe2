"""What the routes stand on."""

from __future__ import annotations

from dataclasses import dataclass

from ..store import FeedbackStore
from .engine import Engine
from .settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Service:
    """
    The parts of a running server that its routes share.

    Args:
        store ([`~online_trl.store.FeedbackStore`]):
            The log.
        engine ([`~online_trl.serving.engine.Engine`]):
            Generates the answers.
        settings ([`~online_trl.serving.settings.ServerSettings`]):
            How to behave.
    """

    store: FeedbackStore
    engine: Engine
    settings: ServerSettings
