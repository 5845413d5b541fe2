"""
Rewards that a server gives: what a judge and a remote scorer share.

A server is asked about many completions at the same time, but never more than it is said to bear; again when it has no
time or cannot be reached; and once only about what was asked before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import httpx

from ..backoff import Backoff
from ..config import ConfigError, check_range

logger = logging.getLogger(__name__)

Conversation: TypeAlias = "str | list[dict[str, Any]]"
"""A prompt or a completion, as TRL passes it: plain text, or messages."""

_BACKOFF = Backoff(seconds=0.5, longest=30.0)
_NOT_NOW = (408, 429, 500, 502, 503, 504)
_KEY = re.compile(r"[!-~]+")


class RewardServerError(RuntimeError):
    """A server did not give rewards, although it was asked as often as configured."""


class _NotNowError(Exception):
    """The server answers, but with an error that may pass, or with what cannot be read."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class UnreadableReplyError(ValueError):
    """A server answered, but not as one of its kind does."""


@dataclass(kw_only=True, eq=False)
class ServerReward(ABC):
    """
    A reward function whose rewards a server gives, in TRL's signature. It is awaited, so that several servers and
    functions work at the same time. Each rank asks about its own completions.

    Args:
        url (`str`):
            Address of the server. A key does not belong into it.
        api_key_variable (`str`, *optional*):
            Environment variable that holds the key, which is sent as a bearer token.
        timeout (`float`, *optional*, defaults to `60.0`):
            Seconds that one request may take.
        retries (`int`, *optional*, defaults to `3`):
            How often a request that failed in passing is repeated, after pauses that double.
        concurrency (`int`, *optional*, defaults to `8`):
            Requests that are open at the same time.
        cache_size (`int`, *optional*, defaults to `10000`):
            Completions whose rewards are remembered, the latest used ones. `0` remembers none.

    Raises:
        [`~online_trl.config.ConfigError`]: if a value is out of bounds, the URL is none, or the environment variable
            does not hold a key.
    """

    url: str
    api_key_variable: str | None = None
    timeout: float = 60.0
    retries: int = 3
    concurrency: int = 8
    cache_size: int = 10_000

    def __post_init__(self) -> None:
        self.url = _checked_url(self.url)
        if self.timeout <= 0:
            raise ConfigError(f"`timeout` is {self.timeout}; it must be above 0")
        check_range("retries", self.retries, 0, None)
        check_range("concurrency", self.concurrency, 1, None)
        check_range("cache_size", self.cache_size, 0, None)
        self._headers = _key_header(self.api_key_variable)
        self._cache: OrderedDict[str, float | None] = OrderedDict()

    async def __call__(
        self, prompts: Sequence[Conversation], completions: Sequence[Conversation], **columns: Any
    ) -> list[float | None]:
        """Returns the reward of each completion, or `None` where the server has none to give."""
        questions = [self._question(*pair) for pair in zip(prompts, completions, strict=True)]
        keys = [_digest(question) for question in questions]
        known = {key: self._cache[key] for key in keys if key in self._cache}
        new = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        known.update(zip(new, await self._ask_all(list(new.values())), strict=True))
        self._remember(known)
        return [known[key] for key in keys]

    @abstractmethod
    def _question(self, prompt: Conversation, completion: Conversation) -> Any:
        """Returns what the server is asked about one completion, as JSON values: the same for the same reward."""

    @abstractmethod
    def _request(self, questions: list[Any]) -> tuple[str, dict[str, Any]]:
        """Returns URL and body of a request that asks all of these."""

    @abstractmethod
    def _rewards(self, reply: Any, count: int) -> list[float | None]:
        """Reads the rewards for so many completions from a reply, or raises [`UnreadableReplyError`]."""

    @property
    def _questions_per_request(self) -> int:
        return 1

    async def _ask_all(self, questions: list[Any]) -> list[float | None]:
        if not questions:
            return []
        size = self._questions_per_request
        chunks = [questions[start : start + size] for start in range(0, len(questions), size)]
        permits = asyncio.Semaphore(self.concurrency)
        # A client belongs to the event loop that it is first used in, and the next batch may come in another one.
        async with httpx.AsyncClient(headers=self._headers, timeout=None) as client:
            tasks = [asyncio.ensure_future(self._ask(client, permits, chunk)) for chunk in chunks]
            try:
                answers = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return [reward for answer in answers for reward in answer]

    async def _ask(
        self, client: httpx.AsyncClient, permits: asyncio.Semaphore, questions: list[Any]
    ) -> list[float | None]:
        url, body = self._request(questions)
        async with permits:
            for attempt in range(1, self.retries + 2):
                try:
                    response = await asyncio.wait_for(client.post(url, json=body), self.timeout)
                    return self._read(response, len(questions))
                except (httpx.RequestError, asyncio.TimeoutError, _NotNowError) as error:
                    await self._wait(error, attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _wait(self, error: Exception, attempt: int) -> None:
        reason = f"no answer within {self.timeout:g} s" if isinstance(error, asyncio.TimeoutError) else str(error)
        reason = reason or type(error).__name__
        if attempt > self.retries:
            times = "once" if attempt == 1 else f"{attempt} times"
            raise RewardServerError(f"{self.url} was asked {times} in vain: {reason}") from error
        logger.info("%s: %s; asking again", self.url, reason)
        # Ranks that were turned away together do not come back together.
        pause = _BACKOFF.pause(attempt) * random.uniform(0.5, 1.0)
        await asyncio.sleep(max(pause, error.pause) if isinstance(error, _NotNowError) else pause)

    def _read(self, response: httpx.Response, count: int) -> list[float | None]:
        if response.status_code in _NOT_NOW:
            raise _NotNowError(_reason(response), _retry_after(response))
        if response.status_code != 200:
            raise RewardServerError(f"{self.url} does not answer: {_reason(response)}")
        try:
            return self._rewards(response.json(), count)
        except ValueError as error:
            raise _NotNowError(f"its reply cannot be read: {error}: {response.text[:200]!r}") from error

    def _remember(self, rewards: dict[str, float | None]) -> None:
        for key, reward in rewards.items():
            self._cache[key] = reward
            self._cache.move_to_end(key)
        for key in list(islice(self._cache, max(len(self._cache) - self.cache_size, 0))):
            del self._cache[key]


def messages(content: Conversation, role: str) -> list[dict[str, Any]]:
    """Returns a prompt or a completion as messages; plain text becomes one message of that role."""
    return [{"role": role, "content": content}] if isinstance(content, str) else content


def _digest(question: Any) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def _checked_url(text: str) -> str:
    # What looks like a key is never repeated.
    if "@" in text:
        raise ConfigError("`url` holds a user or a key; name the variable that holds it in `api_key_variable` instead")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"`url` is {text!r}, which is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigError(f"`url` is {text!r}, which is not the URL of a server, such as https://judge.example.org/v1")
    return text.rstrip("/")


def _key_header(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"the environment variable `{variable}`, named in `api_key_variable`, is not set")
    if not _KEY.fullmatch(key):
        raise ConfigError(f"the key in the environment variable `{variable}` holds a space or what is not ASCII")
    return {"Authorization": f"Bearer {key}"}


def _retry_after(response: httpx.Response) -> float:
    seconds = response.headers.get("Retry-After", "")
    return min(float(seconds), _BACKOFF.longest) if seconds.isdecimal() else 0.0


def _reason(response: httpx.Response) -> str:
    return f"status {response.status_code} {response.reason_phrase}: {response.text[:200]!r}"
