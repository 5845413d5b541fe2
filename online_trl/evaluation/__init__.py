"""
What a policy version is worth: what users say of it, and what can be measured of its answers without asking them.

Everything here takes the log, numbers or callables, never a trainer.
"""

from ..estimates import mean_estimate as mean_estimate
from ..estimates import share_estimate as share_estimate
from .alignment import answer_length as answer_length
from .judgements import canary_feedback as canary_feedback
from .judgements import satisfaction as satisfaction
from .judgements import satisfaction_of as satisfaction_of
from .judgements import satisfaction_reports as satisfaction_reports
from .judgements import win_rate as win_rate
from .judgements import win_rate_of as win_rate_of
