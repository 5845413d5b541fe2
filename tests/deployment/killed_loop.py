"""
`online-trl run` that is killed at one moment after the other, and then runs to its end:
`killed_loop.py LOOP_YAML [MOMENT ...]`. Users judge a candidate as soon as its canary begins.

A moment is a step, which is killed at its end before that is written down, or `start_canary` or `end_canary`, after
which it is killed. Each start is a process of its own, forked from one that has imported what it needs.
"""

import os
import signal
import sys
from pathlib import Path

from online_trl.cli import main
from online_trl.deployment import Supervisor  # noqa: F401, which `main` imports when it is asked to run
from online_trl.deployment.settings import read_deployment
from online_trl.loop import LoopState
from online_trl.registry import ModelRegistry
from online_trl.store import FeedbackStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from deployment.voters import thumbs


def run(config, moment=None):
    """Starts the loop; returns how it ended."""
    if (pid := os.fork()) == 0:
        let_users_judge(read_deployment(config).store)
        if moment is not None:
            kill_at(moment)
        os._exit(main(["run", "--config", config]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def let_users_judge(store_url):
    start_canary = ModelRegistry.start_canary

    def start_and_judge(registry, *arguments):
        canary = start_canary(registry, *arguments)
        with FeedbackStore(store_url) as store:
            thumbs(store, canary.version, ups=20, downs=0, canary=canary)
            thumbs(store, canary.incumbent, ups=0, downs=20, canary=canary)
        return canary

    ModelRegistry.start_canary = start_and_judge


def kill_at(moment):
    if "/" not in moment:
        change = getattr(ModelRegistry, moment)

        def change_and_die(*arguments, **options):
            change(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(ModelRegistry, moment, change_and_die)
        return
    complete = LoopState.complete

    def complete_or_die(state, name, result=None):
        if name == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        complete(state, name, result)

    LoopState.complete = complete_or_die


if __name__ == "__main__":
    for moment in sys.argv[2:]:
        assert run(sys.argv[1], moment) == -signal.SIGKILL, moment
    sys.exit(run(sys.argv[1]))
