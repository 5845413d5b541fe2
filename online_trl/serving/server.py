"""
The server process: checks what it was asked to do, loads the policy, answers until it is told to stop.

Everything that can be wrong with the request is found before a model is loaded. When told to stop, it takes no new
requests and finishes those in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import uvicorn

from ..config import ConfigError, check_range
from ..registry import ModelRegistry
from ..store import FeedbackStore
from .access import is_loopback
from .app import create_app
from .engine import Engine, EngineError
from .follower import follow
from .live_scores import AnswerScores, LiveScores
from .logs import start_logging
from .policy_source import PolicySource, RegistryPolicies, SinglePolicy
from .settings import ServerSettings
from .upstream_engine import API_KEY_VARIABLE, UpstreamEngine

EngineType = TypeVar("EngineType", bound=Engine)

# Clients keep connections open between requests; a server that hangs up first breaks the request that is on its way.
_KEEP_ALIVE_SECONDS = 75

SWITCH_SECONDS = 0.0005
"""The log's writer gives the interpreter away at every row; how long the event loop may keep it then."""


def serve(
    *,
    store_url: str,
    registry_root: str | Path | None = None,
    policy: str | None = None,
    upstream: str | None = None,
    upstream_model: str | None = None,
    upstream_token_ids: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: ServerSettings | None = None,
) -> None:
    """
    Serves a policy and collects feedback, until SIGINT or SIGTERM.

    Args:
        store_url (`str`):
            URL of the feedback log.
        registry_root (`str` or `Path`, *optional*):
            A registry, a folder or `hf://owner/name`; its live policy is served, and followed when another becomes
            live. Give this, `policy` or `upstream`.
        policy (`str`, *optional*):
            One model to serve: a folder or a hub id.
        upstream (`str`, *optional*):
            Base URL of an OpenAI-compatible server that answers. The environment variable
            `ONLINE_TRL_UPSTREAM_API_KEY` holds the key for it.
        upstream_model (`str`, *optional*):
            Its model that answers by default. Defaults to the first that it lists.
        upstream_token_ids (`bool`, *optional*, defaults to `False`):
            Whether to ask it for token ids and log-probabilities, as vLLM gives them.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to listen on; a loopback address unless keys are configured.
        port (`int`, *optional*, defaults to `8000`):
            Port to listen on; `0` takes a free one.
        settings ([`~online_trl.serving.settings.ServerSettings`], *optional*):
            How to behave towards those who call.

    Raises:
        [`~online_trl.config.ConfigError`]: if the policy, the host or the port cannot be used.
        [`~online_trl.store.StoreError`]: if the log cannot be opened, or is an SQLite file that has a server already.
        [`~online_trl.registry.RegistryError`]: if the registry cannot be read.
    """
    check_range("port", port, 0, 65535)
    if sum(source is not None for source in (registry_root, policy, upstream)) != 1:
        raise ConfigError("give one of a policy, a registry and an upstream server to serve")
    if upstream is None and (upstream_model is not None or upstream_token_ids):
        raise ConfigError("`upstream_model` and `upstream_token_ids` are for an upstream server; name it")
    if upstream is not None:
        engine = _upstream_engine(upstream, upstream_model, upstream_token_ids)
    else:
        engine = _local_engine(_policy_source(registry_root, policy))
    sys.setswitchinterval(SWITCH_SECONDS)
    with FeedbackStore(store_url) as store, store.claimed():
        _check_host(host, store)
        with contextlib.closing(_listen(host, port)) as listener:
            asyncio.run(_serve(store, engine, listener, settings or ServerSettings(), registry_root))


def _check_host(host: str, store: FeedbackStore) -> None:
    if store.keys.in_force():
        return
    if not is_loopback(host):
        raise ConfigError(
            f"the host {host} is not a loopback address and no key is configured, so that anybody could ask: make a "
            "key with `online-trl keys create`, or use 127.0.0.1"
        )
    print("No key is configured: this machine may ask, and no other. `online-trl keys create` makes one.", flush=True)


def _policy_source(registry_root: str | Path | None, policy: str | None) -> PolicySource:
    if policy is not None:
        return SinglePolicy(policy)
    assert registry_root is not None
    policies = RegistryPolicies(ModelRegistry(registry_root))
    if policies.live() is None:
        raise ConfigError(f"the registry {registry_root} has no live policy; publish one and promote it first")
    return policies


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def _upstream_engine(url: str, model: str | None, token_ids: bool) -> AbstractAsyncContextManager[Engine]:
    api_key = os.environ.get(API_KEY_VARIABLE)
    return _running(UpstreamEngine(url, model=model, token_ids=token_ids, api_key=api_key))


@contextlib.asynccontextmanager
async def _local_engine(policies: PolicySource) -> AsyncIterator[Engine]:
    from .transformers_engine import TransformersEngine

    async with _running(TransformersEngine(policies)) as engine:
        follower = asyncio.create_task(follow(policies, engine))
        yield engine
        follower.cancel()


@contextlib.asynccontextmanager
async def _running(engine: EngineType) -> AsyncIterator[EngineType]:
    try:
        await engine.start()
    except EngineError as error:
        raise ConfigError(str(error)) from error
    else:
        yield engine
    finally:
        await engine.stop()


async def _serve(
    store: FeedbackStore,
    opened: AbstractAsyncContextManager[Engine],
    listener: socket.socket,
    settings: ServerSettings,
    registry_root: str | Path | None,
) -> None:
    rewards = settings.comparison_registry or registry_root
    told = registry_root or settings.comparison_registry
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(opened)
        scores = None if rewards is None else LiveScores(ModelRegistry(rewards))
        if scores is not None:
            stack.push_async_callback(scores.stop)
        registry = None if told is None else ModelRegistry(told)
        await _Server(store, engine, settings, scores, registry).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves cleanly on a signal, so that what was opened before it is closed after it."""

    def __init__(
        self,
        store: FeedbackStore,
        engine: Engine,
        settings: ServerSettings,
        scores: AnswerScores | None,
        registry: ModelRegistry | None,
    ) -> None:
        log = start_logging(log_messages=settings.log_messages)
        app = create_app(store=store, engine=engine, settings=settings, log=log, scores=scores, registry=registry)
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self._engine = engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        print(f"Serving {self._engine.default_version} at http://{address}:{port}", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The parent raises the signal again at the end, which would kill the process before the log is closed.
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
