"""Commands that end with whoever runs them, and with all that they started."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from online_trl.deployment.job import Job, JobFailedError

# Starts a child of its own and tells both process ids, then waits.
FAMILY = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(600)\n"
)


def members(job):
    deadline = time.monotonic() + 60
    while not job.log.is_file() or len(job.log.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(number) for number in job.log.read_text().split()[-2:]]


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_command_runs_to_its_end(tmp_path):
    Job("good", [sys.executable, "-c", "print('done')"], tmp_path).run(stopped=lambda: False)
    assert (tmp_path / "good.log").read_text() == "done\n"


def test_a_command_that_fails_is_named_with_its_status_and_last_words(tmp_path):
    job = Job("bad", [sys.executable, "-c", "print('first'); raise SystemExit('no such model')"], tmp_path)
    with pytest.raises(JobFailedError, match=r"^bad ended with status 1:\n(?s:.)*no such model$"):
        job.run(stopped=lambda: False)


def test_a_stop_ends_the_command_and_what_it_started(tmp_path):
    job = Job("family", [sys.executable, "-c", FAMILY], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        job.run(stopped=lambda: len((tmp_path / "family.log").read_text().split()) == 2)
    assert not any(map(is_running, members(job)))


def test_an_error_of_whoever_runs_it_ends_the_command_too(tmp_path):
    def fail():
        if len((tmp_path / "family.log").read_text().split()) == 2:
            raise OSError("no space left")
        return False

    job = Job("family", [sys.executable, "-c", FAMILY], tmp_path)
    with pytest.raises(OSError, match="no space left"):
        job.run(stopped=fail)
    assert not any(map(is_running, members(job)))


def test_what_a_killed_supervisor_left_behind_is_ended_before_the_job_is_started_again(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom online_trl.deployment.job import Job\n"
        f"Job('family', [sys.executable, '-c', {FAMILY!r}], Path(sys.argv[1])).run(stopped=lambda: False)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    job = Job("family", [sys.executable, "-c", "print('again')"], tmp_path)
    left_behind = members(job)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    assert all(map(is_running, left_behind))
    job.run(stopped=lambda: False)
    assert not any(map(is_running, left_behind))
    assert job.tail() == "again"
