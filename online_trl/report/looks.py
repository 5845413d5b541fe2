"""How satisfaction with each version went as the log grew."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..estimates import confidence_sequence
from ..evaluation.opinions import Opinions
from ..types import Estimate
from .record import Look

_MOST = 10


class Looks:
    """
    What was known of each version at several rows of the log. The rows are round numbers that stay the same while the
    log grows by a few, so that what was known at them is worked out once.
    """

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Estimate]] = {}
        self._times_begun = 0

    def over(self, chats: Opinions, upto: int, *, times_begun: int) -> Mapping[str, tuple[Look, ...]]:
        """
        Returns satisfaction with each version at several rows, the last one the end of the log, from those on at which
        it was being judged.

        Args:
            chats ([`~online_trl.evaluation.opinions.Opinions`]):
                What was said in chats.
            upto (`int`):
                End of the log.
            times_begun (`int`):
                How often the opinions were read from the beginning: what was known before is then outdated.
        """
        if times_begun != self._times_begun:
            self._known, self._times_begun = {}, times_begun
        rows = _round_rows(upto)
        self._known = {at: self._known[at] if at in self._known else _satisfaction(chats.at(at)) for at in rows}
        looks: dict[str, list[Look]] = {}
        for at, known in [*self._known.items(), (upto, _satisfaction(chats))]:
            for name, estimate in known.items():
                earlier = looks.setdefault(name, [])
                if not earlier or earlier[-1].estimate.n != estimate.n:
                    earlier.append(Look(at, estimate))
        return {name: tuple(found) for name, found in looks.items()}


def _round_rows(upto: int) -> range:
    """At most so many multiples of 1, 2 or 5 times a power of ten, all before the end of the log."""
    power = 10 ** max(0, math.floor(math.log10(max(1, upto) / _MOST)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * _MOST >= upto)
    return range(step, upto, step)


def _satisfaction(opinions: Opinions) -> dict[str, Estimate]:
    judged = ((name, opinions.scores(name)) for name in opinions.versions)
    return {name: confidence_sequence(scores.values, scores.users) for name, scores in judged if scores.values}
