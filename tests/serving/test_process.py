from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from online_trl.serving.process import ServerProcess, ServerStartError


def test_server_that_cannot_start_tells_why(tmp_path: Path):
    log = tmp_path / "server.log"
    log.write_text("Serving something else at http://127.0.0.1:1\n")
    server = ServerProcess(store_url="sqlite:///feedback.db", registry_root=tmp_path / "registry", log=log)
    with pytest.raises(ServerStartError, match=r"status 1:\nerror: the registry .* has no live policy"):
        server.start()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.process
    server.stop()


def test_server_that_takes_too_long_is_stopped(tmp_path: Path, policy_folders: list[Path]):
    log = tmp_path / "server.log"
    server = ServerProcess(
        store_url=f"sqlite:///{tmp_path}/feedback.db", policy=str(policy_folders[0]), log=log, timeout=0.0
    )
    with pytest.raises(ServerStartError, match="not up after 0 s"):
        server.start()


def test_server_ends_with_its_parent(tmp_path: Path, policy_folders: list[Path]):
    settings = {"store_url": f"sqlite:///{tmp_path}/feedback.db", "policy": str(policy_folders[0]), "port": 0}
    child = subprocess.Popen(
        [sys.executable, "-m", "online_trl.serving", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline().startswith("No key is configured")
        ready, url = child.stdout.readline().split(" at ")
        assert ready == "Serving first"
        models = httpx.get(f"{url.strip()}/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["default", "canary", "first"]
        child.stdin.close()
        assert child.wait() == 0
