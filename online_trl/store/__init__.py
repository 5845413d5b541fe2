"""The durable, append-only log of interactions and feedback, in SQLite or PostgreSQL."""

from .conversations import Turn as Turn
from .errors import ForeignFeedbackError as ForeignFeedbackError
from .errors import IdempotencyConflictError as IdempotencyConflictError
from .errors import StoreError as StoreError
from .errors import UnknownFeedbackError as UnknownFeedbackError
from .errors import UnknownInteractionError as UnknownInteractionError
from .keys import ApiKey as ApiKey
from .keys import ApiKeys as ApiKeys
from .keys import UnknownKeyError as UnknownKeyError
from .keys import key_digest as key_digest
from .log import FeedbackStore as FeedbackStore
from .log import StoreSummary as StoreSummary
from .rows import prompt_key as prompt_key
