"""A server in a process of its own, for whoever needs one for a while: the demo, tests, notebooks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

_READY = re.compile(r"^Serving \S+ at (http://\S+)$", re.MULTILINE)
_TAIL = 2000
_STOP_SECONDS = 60.0


class ServerStartError(RuntimeError):
    """The server did not come up; the message ends with what it wrote last."""


class ServerProcess:
    """
    Starts a server, by default on a free loopback port, waits until it answers, and stops it in the end.

    Args:
        store_url (`str`):
            URL of the feedback log.
        log (`Path`):
            File that the server's output is appended to.
        registry_root (`str` or `Path`, *optional*), policy (`str`, *optional*), upstream (`str`, *optional*):
            What to serve, as in [`~online_trl.serving.server.serve`].
        upstream_model (`str`, *optional*), upstream_token_ids (`bool`, *optional*, defaults to `False`):
            As in [`~online_trl.serving.server.serve`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`), port (`int`, *optional*, defaults to `0`):
            Where to listen; port 0 takes a free one.
        settings (`dict[str, Any]`, *optional*):
            Fields of [`~online_trl.serving.settings.ServerSettings`].
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds to wait for the server to come up.

    Example:

    ```python
    with ServerProcess(store_url="sqlite:///feedback.db", policy="outputs/policy", log=Path("server.log")) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused")
    ```
    """

    def __init__(
        self,
        *,
        store_url: str,
        log: Path,
        registry_root: str | Path | None = None,
        policy: str | None = None,
        upstream: str | None = None,
        upstream_model: str | None = None,
        upstream_token_ids: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
    ) -> None:
        self.url = ""
        """Address of the running server."""
        self._settings = {
            "store_url": store_url,
            "registry_root": None if registry_root is None else str(registry_root),
            "policy": policy,
            "upstream": upstream,
            "upstream_model": upstream_model,
            "upstream_token_ids": upstream_token_ids,
            "host": host,
            "port": port,
            "settings": dict(settings or {}),
        }
        self._log = log
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def start(self) -> None:
        """
        Starts the server and waits until it answers.

        Raises:
            [`ServerStartError`]: if it ends, or does not come up in time.
        """
        self.stop()
        with self._log.open("ab") as output:
            begin = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "online_trl.serving", json.dumps(self._settings)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the parent, which stops the server when it has no more need of it.
                start_new_session=True,
            )
        try:
            self.url = self._wait_until_ready(begin)
            httpx.get(f"{self.url}/healthz").raise_for_status()
        except BaseException:
            self.stop()
            raise

    def poll(self) -> int | None:
        """Returns the exit status of the server, `None` while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Lets the server finish what is in flight and waits for its end; one that hangs is killed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self, begin: int) -> str:
        deadline = time.monotonic() + self._timeout
        while True:
            output = self._written_since(begin)
            if ready := _READY.search(output):
                return ready[1]
            if self.process.poll() is not None:
                raise ServerStartError(f"the server ended with status {self.process.returncode}:\n{output[-_TAIL:]}")
            if time.monotonic() > deadline:
                raise ServerStartError(f"the server is not up after {self._timeout:.0f} s:\n{output[-_TAIL:]}")
            time.sleep(0.05)

    def _written_since(self, begin: int) -> str:
        # The log holds what all earlier servers wrote, too.
        with self._log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")
