"""
Means with their intervals, of values that come from people, several from each: pure functions of numbers.

[`mean_estimate`] is right where a sample was planned and is measured once. Where people look while judgements arrive,
and act on what they see, an interval for a fixed sample misses the truth more and more often; [`confidence_sequence`]
holds at all looks together.
"""

from .bradley_terry import bradley_terry as bradley_terry
from .bradley_terry import win_rate_matrix as win_rate_matrix
from .fixed import mean_estimate as mean_estimate
from .fixed import share_estimate as share_estimate
from .sequential import confidence_sequence as confidence_sequence
from .users import clustered_mean as clustered_mean
from .users import user_totals as user_totals
