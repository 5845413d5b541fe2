"""
What users said, as rows to learn from: preference pairs and unpaired labels, each with the feedback behind it.

Everything here is a function of the log alone. A pair belongs to the interval of `seq` in which the last row that it
was made from was written, so over consecutive intervals every pair turns up exactly once.
"""

from ..dataset_import import DatasetFormatError as DatasetFormatError
from ..dataset_import import import_dataset as import_dataset
from .batch import PreferenceBatch as PreferenceBatch
from .batch import read_preferences as read_preferences
from .datasets import preference_dataset as preference_dataset
from .datasets import prompt_dataset as prompt_dataset
from .datasets import statement_dataset as statement_dataset
from .datasets import statement_key as statement_key
from .datasets import unpaired_dataset as unpaired_dataset
from .pairs import CLEAR_DIFFERENCE as CLEAR_DIFFERENCE
from .pairs import LOOKBACK as LOOKBACK
from .pairs import labels_from_feedback as labels_from_feedback
from .pairs import pairs_from_feedback as pairs_from_feedback
from .pairs import rankings_from_feedback as rankings_from_feedback
from .regeneration import REGENERATED_WEIGHT as REGENERATED_WEIGHT
from .rows import standing_feedback as standing_feedback
from .rows import voice_of as voice_of
from .shares import cap_user_shares as cap_user_shares
