"""A process of its own that follows the log and refreshes the reward model."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..distributed import broadcast_from_main
from .schedule import RefreshSchedule


def follow_log(
    schedule: RefreshSchedule, *, stopped: Callable[[], bool], pause: float = 5.0, max_refreshes: int = 0
) -> int:
    """
    Refreshes the reward model whenever it is due, and a first time as soon as there is enough to learn from. Every
    rank calls it.

    Args:
        schedule ([`~online_trl.rewards.schedule.RefreshSchedule`]):
            What refreshes the model.
        stopped (`Callable[[], bool]`):
            Asked on the main process; ends the function between two refreshes.
        pause (`float`, *optional*, defaults to `5.0`):
            Seconds between two looks at the log.
        max_refreshes (`int`, *optional*, defaults to `0`):
            Ends it after so many refreshes; 0 goes on until stopped.

    Returns:
        `int`: How many refreshes there were.
    """
    schedule.begin(learn=False)
    done = 0
    while not broadcast_from_main(stopped):
        if schedule.run_if_due():
            done += 1
            if done == max_refreshes:
                break
        else:
            time.sleep(pause)
    return done
