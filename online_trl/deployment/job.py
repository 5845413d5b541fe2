"""A command in a process of its own that does not outlive its loop, however the loop ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

_MARK = "ONLINE_TRL_JOB"
"""Environment variable that tells the processes of a job, those that they start too."""
_PAUSE = 0.1
_TAIL = 2000
# What a trainer needs for the step under way and a checkpoint.
_STOP_SECONDS = 300.0


class JobFailedError(RuntimeError):
    """A command ended badly; the message ends with what it wrote last."""


class Job:
    """
    A command that is run, and can be stopped with all that it started.

    If the process that runs it is killed, the command goes on for a while: whoever makes the same job again ends it
    first.

    Args:
        name (`str`):
            What it is called in messages.
        command (`Sequence[str]`):
            The command line.
        folder (`Path`):
            Where its output goes, as `NAME.log`.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = folder / f"{name}.log"
        self._mark_file = folder / f"{name}.job"
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0

    def start(self) -> None:
        """Starts the command, after the end of what an earlier start may have left behind."""
        self.stop()
        mark = uuid.uuid4().hex
        # Before the command is started, so that it is found again in any case.
        self._mark_file.write_text(mark, encoding="utf-8")
        with self.log.open("ab") as output:
            self._begin = output.tell()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {_MARK: mark},
                # Ctrl-C is for the loop, which ends its jobs itself.
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Returns the exit status of the command, `None` while it runs."""
        return None if self._process is None else self._process.poll()

    def run(self, *, stopped: Callable[[], bool]) -> None:
        """
        Runs the command to its end.

        Args:
            stopped (`Callable[[], bool]`):
                Asked while it runs; ends it.

        Raises:
            [`JobFailedError`]: if the command fails.
            `KeyboardInterrupt`: if it was stopped.
        """
        self.start()
        try:
            while (status := self.poll()) is None:
                if stopped():
                    raise KeyboardInterrupt
                time.sleep(_PAUSE)
        finally:
            self.stop()
        if status != 0:
            raise JobFailedError(f"{self.name} ended with status {status}:\n{self.tail()}")

    def stop(self) -> None:
        """Asks the command and all that it started to end, and waits for it; what hangs is killed."""
        if not self._mark_file.is_file():
            return
        deadline = time.monotonic() + _STOP_SECONDS
        self._signal(signal.SIGTERM)
        while running := self._running():
            if time.monotonic() > deadline:
                for process in running:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            time.sleep(_PAUSE)
        if self._process is not None:
            self._process.wait()
        self._mark_file.unlink()

    def tail(self) -> str:
        """Returns what the command wrote last."""
        with self.log.open("rb") as log:
            log.seek(max(self._begin, log.seek(0, os.SEEK_END) - _TAIL))
            return log.read().decode(errors="replace").strip()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _running(self) -> list[psutil.Process]:
        """The processes that carry the mark of this job; a zombie is none."""
        mark = self._mark_file.read_text(encoding="utf-8")
        return [process for process in psutil.process_iter() if _mark_of(process) == mark]


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(_MARK)
    except psutil.Error:
        # Somebody else's process, or one that has just ended.
        return None
