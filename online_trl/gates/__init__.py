"""
May this candidate replace the incumbent? Pure functions from measurements to a decision.

Every gate compares with what is in service now, on the newest evidence, and says in one sentence what decided.
"""

from .promotion import DEFAULT_BUDGETS as DEFAULT_BUDGETS
from .promotion import Budget as Budget
from .promotion import GuardMeasurement as GuardMeasurement
from .promotion import PromotionThresholds as PromotionThresholds
from .promotion import promotion_gate as promotion_gate
from .reward import AnchorComparison as AnchorComparison
from .reward import compare_anchors as compare_anchors
from .reward import is_better as is_better
from .reward import reward_gate as reward_gate
