"""`online-trl run` that is killed at the end of a step, before it is written down: `killed_loop.py LOOP_YAML STEP`."""

import os
import signal
import sys

from online_trl.cli import main
from online_trl.loop import LoopState


def kill_at(step: str) -> None:
    complete = LoopState.complete

    def complete_or_die(state, name, result=None):
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)
        complete(state, name, result)

    LoopState.complete = complete_or_die


if __name__ == "__main__":
    kill_at(sys.argv[2])
    sys.exit(main(["run", "--config", sys.argv[1]]))
