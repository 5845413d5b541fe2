"""Who a running server lets in, from its start on: real processes, which need no model to say who may ask them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import openai
import pytest

from online_trl.store import FeedbackStore
from online_trl.types import Scope

NO_KEY = "No key is configured: this machine may ask, and no other. `online-trl keys create` makes one.\n"


def command(store_url: str, host: str) -> list[str]:
    upstream = ["--upstream", "http://127.0.0.1:9/v1", "--upstream-model", "policy"]
    options = ["--store", store_url, "--host", host, "--port", "0"]
    return [sys.executable, "-m", "online_trl.cli", "serve", *upstream, *options]


def lines_until_serving(output: IO[str]) -> Iterator[str]:
    for line in output:
        yield line
        if line.startswith("Serving"):
            return


@contextmanager
def serving(store_url: str, host: str) -> Iterator[tuple[list[str], str]]:
    """Gives what a server says when it starts, and its address on this machine."""
    with subprocess.Popen(command(store_url, host), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            *said, ready = lines_until_serving(process.stdout)
            port = re.search(r":(\d+)$", ready.strip())
            assert port is not None
            yield said, f"http://127.0.0.1:{port[1]}"
        finally:
            process.terminate()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/feedback.db"


def test_server_without_keys_says_so_and_asks_for_keys_as_soon_as_there_are_some(url: str):
    with serving(url, "127.0.0.1") as (said, address), FeedbackStore(url) as store:
        assert said == [NO_KEY]
        assert httpx.get(f"{address}/v1/models").status_code != 401
        assert httpx.get(f"{address}/v1/models", headers={"Host": "evil.example"}).status_code == 401
        key, row = store.keys.create([Scope.FEEDBACK])
        while httpx.get(f"{address}/v1/models").status_code != 401:
            pass
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
        with pytest.raises(openai.PermissionDeniedError, match="does not have the scope `chat`"):
            client.models.list()
        store.keys.revoke(row.key_id)
        while httpx.get(f"{address}/v1/models").status_code == 401:
            pass


def test_server_with_keys_listens_anywhere(url: str):
    with FeedbackStore(url) as store:
        key, _ = store.keys.create([Scope.CHAT])
        with serving(url, "0.0.0.0") as (said, address):
            assert said == []
            client = openai.OpenAI(base_url=f"{address}/v1", api_key="sk-wrong", max_retries=0)
            with pytest.raises(openai.AuthenticationError, match="not known here, or was revoked"):
                client.models.list()
            headers = {"Authorization": f"Bearer {key}", "Host": "chat.example.org"}
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code not in (401, 403)
            assert httpx.get(f"{address}/healthz", headers={"Host": "chat.example.org"}).status_code == 200


@pytest.mark.parametrize("revoked", [False, True])
def test_server_without_keys_listens_on_this_machine_only(url: str, revoked: bool):
    with FeedbackStore(url) as store:
        if revoked:
            store.keys.revoke(store.keys.create([Scope.ADMIN])[1].key_id)
        finished = subprocess.run(command(url, "0.0.0.0"), capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "0.0.0.0 is not a loopback address and no key is configured" in finished.stderr
    assert "`online-trl keys create`" in finished.stderr


def test_bad_setting_is_named_before_anything_is_opened(url: str, tmp_path: Path):
    config = tmp_path / "server.yaml"
    config.write_text("rate_limit_per_key: sometimes\n")
    finished = subprocess.run(
        [*command(url, "127.0.0.1"), "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "`rate_limit_per_key` is 'sometimes', which is not a rate such as `300/minute`" in finished.stderr
    assert not (tmp_path / "feedback.db").exists()
