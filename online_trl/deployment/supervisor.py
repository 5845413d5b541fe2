"""Keeps the server up, drives the loop, and tells how both are."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from ..config import ConfigError
from ..loop import LOCK_FILE, PROCESSES_FILE, STATE_FILE, LoopState, OnlineLoop, PausedError, StepFailedError
from ..registry import ModelRegistry
from ..serving.process import ServerProcess
from ..stopping import StopSignal
from ..store import open_store
from .job import Job
from .keeper import Keepable, Keeper
from .settings import DeploymentSettings
from .stations import DeploymentStations, launch_command


class Supervisor:
    """
    Runs a deployment: a policy that is served, and trained on what its users say.

    Args:
        settings ([`~online_trl.deployment.settings.DeploymentSettings`]):
            What it was told.
        report (`Callable[[str], None]`, *optional*, defaults to `print`):
            Called with a line whenever something begins or goes wrong.
    """

    def __init__(self, settings: DeploymentSettings, *, report: Callable[[str], None] = print) -> None:
        self.settings = settings
        self.report = report
        self.folder = Path(settings.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._signal = StopSignal()
        self._processes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._has_told_of_time = False

    def run(self, *, once: bool = False) -> None:
        """
        Goes round until it is stopped, its budget is spent, or a step has failed too often. What it keeps up goes on
        after the latter two, until it is stopped.

        Args:
            once (`bool`, *optional*, defaults to `False`):
                Whether to do one round only, without waiting for a trigger and without keeping anything up.

        Raises:
            `KeyboardInterrupt`: if it was stopped; the next start goes on from there.
            [`~online_trl.loop.StepFailedError`]: if a step failed too often, and nothing is kept up.
            [`~online_trl.config.ConfigError`]: if another supervisor runs in the same folder.
        """
        self._signal.listen()
        try:
            with self._claimed_folder():
                self._run(once=once)
        finally:
            self._signal.restore()

    def _run(self, *, once: bool) -> None:
        state = LoopState(self.folder / STATE_FILE)
        registry = ModelRegistry(self.settings.registry)
        with open_store(self.settings.store) as store:
            stations = DeploymentStations(
                self.settings, store, registry, stopped=partial(self._is_stopped, state), now=once
            )
            last = max(1, state.round) if once else None
            loop = OnlineLoop(
                stations,
                state,
                go_on=lambda state: self._has_budget(state) and (last is None or state.round <= last),
                retry=self.settings.retry,
                on_step=lambda step: self.report(f"{step} begins"),
                wait=stations.wait,
            )
            if self.settings.trusts_proxy_alone:
                self.report(
                    "nobody but the reward model that the policy is trained on decides about promotions: describe a "
                    "`canary`, or name another judge in the `evaluate` file"
                )
            # Before there is a policy, there is nothing to serve.
            loop.begin()
            kept = [] if once else [self._keeper(name, process) for name, process in self._kept()]
            with contextlib.ExitStack() as stack:
                for keeper in kept:
                    stack.enter_context(keeper)
                self._go_round(loop, stations, is_keeping=bool(kept))

    def _go_round(self, loop: OnlineLoop, stations: DeploymentStations, *, is_keeping: bool) -> None:
        try:
            loop.run()
            reason = "the budget is spent"
        except PausedError as pause:
            self.report(str(pause))
            return
        except StepFailedError as error:
            if not is_keeping:
                raise
            reason = str(error)
        if is_keeping:
            self.report(f"paused: {reason}; serving goes on")
            loop.state.enter(loop.state.content["at"]["step"], paused=reason)
            while True:
                stations.wait(60.0)

    def _kept(self) -> Iterator[tuple[str, Keepable]]:
        serve, refresh = self.settings.serve, self.settings.refresh
        if serve is not None:
            yield (
                "server",
                ServerProcess(
                    store_url=self.settings.store,
                    registry_root=self.settings.registry,
                    log=self.folder / "server.log",
                    host=serve.host,
                    port=serve.port,
                    settings={"loop_dir": str(self.folder)} | serve.settings,
                ),
            )
        if refresh is not None:
            arguments = {"store": self.settings.store, "registry": self.settings.registry}
            yield "refresh", Job("refresh", launch_command(refresh, arguments), self.folder)

    def _keeper(self, name: str, process: Keepable) -> Keeper:
        return Keeper(name, process, report=self._note_process)

    def _note_process(self, name: str, how: str) -> None:
        self.report(f"{name}: {how}")
        with self._lock:
            self._processes[name] = how
            staged = self.folder / f".{PROCESSES_FILE}"
            staged.write_text(json.dumps(self._processes, indent=1), encoding="utf-8")
            os.replace(staged, self.folder / PROCESSES_FILE)

    def _has_budget(self, state: LoopState) -> bool:
        budget = self.settings.budget
        is_round_left = not budget.rounds or state.round <= budget.rounds
        is_time_left = not budget.train_hours or state.seconds_of("train") < 3600 * budget.train_hours
        return is_round_left and is_time_left

    def _is_stopped(self, state: LoopState) -> bool:
        # This is asked all the time, whatever the loop is at.
        try:
            state.keep_time()
        # A disk that is full for a while must end neither the training nor what is served.
        except OSError as error:
            if not self._has_told_of_time:
                self.report(f"the time that training takes cannot be recorded at the moment: {error}")
            self._has_told_of_time = True
        return self._signal.asked

    @contextlib.contextmanager
    def _claimed_folder(self) -> Iterator[None]:
        with (self.folder / LOCK_FILE).open("w") as file:
            # Whoever looks whether a loop runs holds it for a moment.
            deadline = time.monotonic() + 1.0
            while not _locks(file):
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"another `online-trl run` is at work in {self.folder}: stop it, or set another `output_dir`"
                    )
                time.sleep(0.05)
            yield


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
