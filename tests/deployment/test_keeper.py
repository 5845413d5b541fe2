"""A process that is kept up."""

import os
import signal
import sys
import time

from online_trl.deployment.job import Job
from online_trl.deployment.keeper import Keeper


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_is_killed_is_started_again_and_ends_with_its_keeper(tmp_path):
    says = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    job, told = Job("server", [sys.executable, "-c", says], tmp_path), []
    with Keeper("server", job, report=lambda name, how: told.append(how)):
        wait_for(lambda: job.log.is_file() and job.log.read_text())
        os.kill(int(job.log.read_text()), signal.SIGKILL)
        wait_for(lambda: len(job.log.read_text().split()) == 2)
        wait_for(lambda: told[-1] == "up")
    assert told == ["up", "ended with status -9; started again in 1 s", "up", "stopped"]
    assert job.poll() == -signal.SIGTERM


def test_a_process_that_does_not_come_up_is_tried_again(tmp_path):
    class Late(Job):
        attempts = 0

        def start(self):
            self.attempts += 1
            if self.attempts == 1:
                raise OSError("the port is taken")
            super().start()

    job, told = Late("server", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path), []
    with Keeper("server", job, report=lambda name, how: told.append(how)):
        wait_for(lambda: told[-1:] == ["up"])
    assert told[0] == "did not come up: the port is taken; started again in 1 s"
