"""
The server as the child of another process: [`~online_trl.serving.process.ServerProcess`] starts it.

Its one argument is JSON, the arguments of [`~online_trl.serving.server.serve`], with the settings as a mapping. It
stops when its standard input ends, so that it does not outlive a parent that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from ..config import ConfigError
from ..registry import RegistryError
from ..store import StoreError
from .server import serve
from .settings import read_settings


def main() -> None:
    """Serves until told to stop."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        arguments = json.loads(sys.argv[1])
        serve(**arguments | {"settings": read_settings(arguments.get("settings", {}), where="the arguments")})
    except (ConfigError, StoreError, RegistryError) as error:
        sys.exit(f"error: {error}")


def _stop_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
