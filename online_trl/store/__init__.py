"""The durable, append-only log of interactions and feedback, in SQLite or PostgreSQL."""

from .errors import IdempotencyConflictError as IdempotencyConflictError
from .errors import StoreError as StoreError
from .errors import UnknownFeedbackError as UnknownFeedbackError
from .errors import UnknownInteractionError as UnknownInteractionError
from .log import FeedbackStore as FeedbackStore
from .log import StoreSummary as StoreSummary
from .rows import prompt_key as prompt_key
