"""What the server asks of whatever generates: one interface, and the ways in which it may fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ..types import Canary
from .generation import ChatRequest, Piece

DEFAULT_MODEL = "default"
"""Alias of the version in service."""
CANARY_MODEL = "canary"
"""
Alias of the candidate that a share of the users get; where there is none, of the newest policy that no gate has
decided on yet, and else of the version in service.
"""


class EngineError(RuntimeError):
    """The engine cannot do what was asked of it."""


class UnknownVersionError(EngineError):
    """
    A policy version that the engine does not have was asked for.

    Args:
        version (`str`):
            The version asked for.
        available (`Iterable[str]`):
            The versions that there are.
    """

    def __init__(self, version: str, available: Iterable[str]) -> None:
        super().__init__(f"there is no model `{version}`; available: {', '.join(available)}")


class VersionLoadError(EngineError):
    """A policy version exists but cannot be loaded."""


class UnsupportedParameterError(EngineError):
    """
    A request asks for what this engine cannot do.

    Args:
        name (`str`):
            The request's field.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"`{name}` is nothing that the built-in engine can do: leave it out, or serve the policy with a server "
            "that can, such as vLLM, as the upstream"
        )


class UpstreamError(EngineError):
    """
    The upstream server cannot be reached, broke off, or said what is no chat completion.

    Args:
        message (`str`):
            What was wrong.
        said (`str` or `bytes`, *optional*):
            What it said. It may hold users' words, and is for the client: no part of the message, which may be logged.
    """

    def __init__(self, message: str, *, said: str | bytes = b"") -> None:
        super().__init__(message)
        self.said = said


class UpstreamTimeoutError(UpstreamError):
    """The upstream server did not answer in time."""


class UpstreamRefusedError(UpstreamError):
    """
    The upstream server refused the request; its reply is the client's.

    Args:
        status (`int`), body (`bytes`), headers (`Mapping[str, str]`):
            The reply.
    """

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        super().__init__(f"the upstream server refused the request with status {status}")


class InvalidPromptError(EngineError):
    """The messages cannot be made into a prompt for this policy."""


class PromptTooLongError(InvalidPromptError):
    """
    The prompt leaves no room for an answer in the model's context.

    Args:
        length (`int`):
            Tokens of the prompt.
        context_length (`int`):
            Tokens that prompt and answer share.
    """

    def __init__(self, length: int, context_length: int) -> None:
        super().__init__(
            f"the prompt has {length} tokens; prompt and answer share the model's context of {context_length} tokens"
        )


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A policy version that can be asked for by name, when it was made, and whether it was taken back since."""

    name: str
    created_at: datetime
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """
    How busy an engine is.

    Args:
        waiting (`int`):
            Answers that no batch has taken up yet; 0 where another server keeps the queue.
        switches (`int`, *optional*, defaults to `0`):
            How often another version was put into service.
        switch_seconds (`float`, *optional*, defaults to `0.0`):
            How long that took, all together.
    """

    waiting: int
    switches: int = 0
    switch_seconds: float = 0.0


class Engine(Protocol):
    """Answers with one of several policy versions, of which one is the default."""

    @property
    def default_version(self) -> str:
        """Version that answers when none is asked for."""
        ...

    async def versions(self) -> list[ServedVersion]:
        """Returns every version that can be asked for, oldest first."""
        ...

    async def resolve(self, model: str, *, asker: str | None = None) -> str:
        """
        Returns the version that a name stands for now: [`DEFAULT_MODEL`], [`CANARY_MODEL`], or a version's own.

        Args:
            model (`str`):
                The name.
            asker (`str`, *optional*):
                The user, or the session where there is none: a canary's candidate answers a share of them by default.
        """
        ...

    async def start(self) -> None:
        """Makes the default version ready."""
        ...

    async def stop(self) -> None:
        """Finishes what was asked for and frees what the engine holds."""
        ...

    def load(self) -> EngineLoad:
        """Returns how busy the engine is now."""
        ...

    def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """
        Yields the reply piece by piece, several answers side by side; a whole reply is one piece. To close the
        generator is to take back the request.

        Raises:
            [`EngineError`]: one of its kinds; when the request cannot be met at all, before the first piece.
        """
        ...


class SwitchableEngine(Engine, Protocol):
    """An engine whose default version can change while it answers."""

    async def switch(self, version: str) -> None:
        """
        Makes another version the default, once it is ready to answer. Requests in flight keep theirs.

        Raises:
            [`UnknownVersionError`], [`VersionLoadError`]: and the default stays as it was.
        """
        ...

    async def try_out(self, canary: Canary | None) -> None:
        """
        Answers a share of the askers with a candidate, once it is ready, in place of the candidate before; with
        `None`, the default version answers all.

        Raises:
            [`UnknownVersionError`], [`VersionLoadError`]: and the default version answers all.
        """
        ...
