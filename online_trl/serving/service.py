"""What the routes stand on."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..registry import ModelRegistry
from ..store import FeedbackStore
from .arrivals import Arrivals
from .engine import Engine
from .live_scores import AnswerScores
from .metrics import Metrics
from .rate_limits import RateLimits
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
        scores ([`~online_trl.serving.live_scores.AnswerScores`], *optional*):
            What answers to compare are chosen by.
        registry ([`~online_trl.registry.ModelRegistry`], *optional*):
            The versions that the dashboard tells of.
    """

    store: FeedbackStore
    engine: Engine
    settings: ServerSettings
    scores: AnswerScores | None = None
    registry: ModelRegistry | None = None
    rate_limits: RateLimits = field(init=False)
    """How often a key and a user may ask; what was asked so far is counted in it."""
    metrics: Metrics = field(init=False)
    """What the server did so far."""

    arrivals: Arrivals = field(init=False, default_factory=Arrivals)
    """Waits for what is on its way into the log."""

    def __post_init__(self) -> None:
        limits = RateLimits(
            per_key=self.settings.rate_limit_per_key,
            per_user=self.settings.rate_limit_per_user,
            comparisons_per_user=self.settings.comparison_rate_per_user,
        )
        object.__setattr__(self, "rate_limits", limits)
        object.__setattr__(self, "metrics", Metrics(self.store, self.engine))
