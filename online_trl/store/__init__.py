"""The durable, append-only log of interactions and feedback, in SQLite or PostgreSQL."""

from .conversations import Turn as Turn
from .erasure import key_of_erased as key_of_erased
from .errors import ErasedError as ErasedError
from .errors import ForeignFeedbackError as ForeignFeedbackError
from .errors import IdempotencyConflictError as IdempotencyConflictError
from .errors import NotQuarantinedError as NotQuarantinedError
from .errors import StoreError as StoreError
from .errors import UnknownFeedbackError as UnknownFeedbackError
from .errors import UnknownInteractionError as UnknownInteractionError
from .errors import UnknownUserError as UnknownUserError
from .errors import UnstorableError as UnstorableError
from .keys import ApiKey as ApiKey
from .keys import ApiKeys as ApiKeys
from .keys import UnknownKeyError as UnknownKeyError
from .keys import key_digest as key_digest
from .log import FeedbackStore as FeedbackStore
from .log import StoreSummary as StoreSummary
from .opening import open_store as open_store
from .quarantine import QuarantinedFeedback as QuarantinedFeedback
from .quarantine import Screening as Screening
from .reading import LogReader as LogReader
from .remote import RemoteStore as RemoteStore
from .rows import prompt_key as prompt_key
from .tracing import Trace as Trace
