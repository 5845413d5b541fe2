"""
The log of another machine, read through the server before it.

Reads change nothing and are of closed intervals, so that one which failed can be repeated: once the server has
answered, a reader waits for one that is being restarted, and gets what it would have got.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from time import monotonic, sleep
from types import TracebackType
from typing import Any, TypeVar

import httpx

from ..backoff import Backoff
from ..migrations import REVISIONS
from ..types import ErasedSubject, Feedback, Interaction, Purpose, Tombstone
from .errors import StoreError
from .log import StoreSummary
from .tracing import Trace
from .wire import LOOKUP_NAMES, PAGE_ROWS, REVISION_HEADER, CutOffError, Row, read_lines

logger = logging.getLogger(__name__)

KEY_VARIABLE = "ONLINE_TRL_API_KEY"
"""Environment variable that the key is taken from."""
PATIENCE = 300.0
"""Seconds to wait for a server by default: less than the ranks of a training run wait for the one that reads."""

# Reading takes the server a while before the first row comes where an interval is long.
_TIMEOUT = httpx.Timeout(30.0, connect=10.0, read=120.0)
_LIMITS = httpx.Limits(keepalive_expiry=60.0)
_BACKOFF = Backoff(seconds=0.1, longest=5.0)
_KEY = re.compile(r"[!-~]+")
_NOT_NOW = (429, 502, 503, 504)
# How much of the log is read at once where the number of rows cannot be bounded otherwise.
_SPAN = 10_000

Answer = TypeVar("Answer")
Record = TypeVar("Record", Interaction, Feedback)


class _NotNowError(Exception):
    """The server answers, but cannot serve yet."""

    def __init__(self, reason: str, pause: float) -> None:
        super().__init__(reason)
        self.pause = pause


def is_server_url(url: str) -> bool:
    """Returns whether a URL is that of a server, and not of a database."""
    return url.lower().startswith(("http://", "https://"))


class RemoteStore:
    """
    The log behind a server, for reading. It has the reading methods of [`FeedbackStore`], and they return the same.

    The server is asked when something is read. The first read fails at once if the server cannot be reached; from then
    on a read waits for a server that has gone away, or has no time. One store may be used by several threads, and by
    forked processes.

    Args:
        url (`str`):
            Address of the server: `https://chat.example.org`. A key does not belong into it.
        key (`str`, *optional*):
            A key with the scope `train`. Defaults to the environment variable `ONLINE_TRL_API_KEY`; a server on this
            machine that has no keys needs none.
        patience (`float`, *optional*, defaults to `300.0`):
            Seconds that a read may wait for the server.
        transport (`httpx.BaseTransport`, *optional*):
            What carries the requests. Defaults to the network.

    Raises:
        [`StoreError`]: if the URL or the key is none.

    Example:

    ```python
    >>> with RemoteStore("https://chat.example.org") as store:
    ...     store.feedback(after=0, upto=store.latest_seq())

    ```
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        patience: float = PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = _checked_url(url)
        self.patience = patience
        self._headers = _key_header(key or os.environ.get(KEY_VARIABLE))
        self._transport = transport
        self._was_reached = False
        self._process = os.getpid()
        self._client = self._new_client()

    def __enter__(self) -> RemoteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the server."""
        self._client.close()

    def latest_seq(self) -> int:
        """Returns the `seq` of the last row of the log, see [`FeedbackStore.latest_seq`]."""
        return int(self._json("GET", "latest-seq"))

    def summary(self) -> StoreSummary:
        """Counts what is in the log, see [`FeedbackStore.summary`]."""
        return StoreSummary(**self._json("GET", "summary"))

    def interactions(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        purpose: Purpose | None = None,
        policy_version: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        tokens: bool = True,
    ) -> list[Interaction]:
        """Returns the interactions of an interval, see [`FeedbackStore.interactions`]."""
        chosen = {"purpose": purpose and purpose.value, "policy_version": policy_version}
        if not tokens:
            chosen["tokens"] = "false"
        return self._pages(
            Interaction, "interactions", after=after, upto=upto, limit=limit, newest_first=newest_first, chosen=chosen
        )

    def feedback(self, *, after: int = 0, upto: int | None = None, limit: int | None = None) -> list[Feedback]:
        """Returns the feedback rows of an interval, see [`FeedbackStore.feedback`]."""
        return self._pages(Feedback, "feedback", after=after, upto=upto, limit=limit)

    def admitted_feedback(self, *, after: int = 0, upto: int | None = None, at: int | None = None) -> list[Feedback]:
        """Returns the feedback of an interval that counts, see [`FeedbackStore.admitted_feedback`]."""
        end = self.latest_seq() if upto is None else upto
        at = end if at is None else at
        starts = range(after, end, _SPAN)
        spans = [{"after": start, "upto": min(start + _SPAN, end), "at": at} for start in starts]
        return [row for span in spans for row in self._rows(Feedback, "admitted-feedback", params=span)]

    def tombstones(self, *, after: int = 0, upto: int | None = None) -> list[Tombstone]:
        """Returns what was erased in an interval, see [`FeedbackStore.tombstones`]."""
        end = self.latest_seq() if upto is None else upto
        return self._rows(Tombstone, "tombstones", params={"after": after, "upto": end})

    def related_feedback(self, *, after: int, upto: int) -> list[Feedback]:
        """Returns the feedback that bears on an interval, see [`FeedbackStore.related_feedback`]."""
        return self._rows(Feedback, "related-feedback", params={"after": after, "upto": upto})

    def related_regenerations(self, *, after: int, upto: int, tokens: bool = True) -> list[Interaction]:
        """Returns the regenerations that bear on an interval, see [`FeedbackStore.related_regenerations`]."""
        query = {"after": after, "upto": upto, "tokens": tokens}
        return self._rows(Interaction, "related-regenerations", params=query)

    def get_interactions(self, ids: Iterable[str], *, tokens: bool = True) -> dict[str, Interaction]:
        """Returns the interactions of these ids, see [`FeedbackStore.get_interactions`]."""
        bodies = [{"ids": names, "tokens": tokens} for names in _chunks(ids)]
        rows = [row for body in bodies for row in self._rows(Interaction, "get-interactions", json=body)]
        return {row.interaction_id: row for row in rows}

    def session_interactions(self, session_ids: Iterable[str], *, upto: int, tokens: bool = True) -> list[Interaction]:
        """Returns the interactions of sessions, see [`FeedbackStore.session_interactions`]."""
        bodies = [{"session_ids": names, "upto": upto, "tokens": tokens} for names in _chunks(session_ids)]
        rows = [row for body in bodies for row in self._rows(Interaction, "session-interactions", json=body)]
        return sorted(rows, key=_seq)

    def erased_among(self, ids: Iterable[str]) -> set[str]:
        """Returns which of these ids are those of erased rows, see [`FeedbackStore.erased_among`]."""
        return {name for chunk in _chunks(ids) for name in self._json("POST", "erased-among", json={"ids": chunk})}

    def trace(self, subject: ErasedSubject, name: str) -> Trace:
        """Returns the rows of a user or an interaction, see [`FeedbackStore.trace`]."""
        (found,) = self._rows(Trace, "trace", json={"subject": subject.value, "name": name})
        return found

    def _pages(
        self,
        record: type[Record],
        path: str,
        *,
        after: int,
        upto: int | None,
        limit: int | None,
        newest_first: bool = False,
        chosen: dict[str, str | None] | None = None,
    ) -> list[Record]:
        # The end is fixed first, so that all pages are of one interval.
        end = self.latest_seq() if upto is None else upto
        options = {name: value for name, value in (chosen or {}).items() if value is not None}
        if newest_first:
            options["newest_first"] = "true"
        rows: list[Record] = []
        while True:
            size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows))
            if size == 0:
                return rows
            page = self._rows(record, path, params={"after": after, "upto": end, "limit": size, **options})
            rows += page
            if len(page) < size:
                return rows
            after, end = (after, _seq(page[-1]) - 1) if newest_first else (_seq(page[-1]), end)

    def _json(self, method: str, path: str, **request: Any) -> Any:
        return self._ask(method, path, lambda response: _read(response).json(), **request)

    def _rows(self, record: type[Row], path: str, **request: Any) -> list[Row]:
        method = "POST" if "json" in request else "GET"
        return self._ask(method, path, lambda response: read_lines(record, response.iter_lines()), **request)

    def _ask(self, method: str, path: str, read: Callable[[httpx.Response], Answer], **request: Any) -> Answer:
        give_up_at = monotonic() + (self.patience if self._was_reached else 0.0)
        for attempt in count(1):
            try:
                with self._connected().stream(method, f"v1/log/{path}", **request) as response:
                    self._check(response)
                    answer = read(response)
            except (httpx.RequestError, CutOffError, _NotNowError) as error:
                self._wait(error, _BACKOFF.pause(attempt), give_up_at)
            else:
                self._was_reached = True
                return answer
        raise AssertionError("the attempts never end")

    def _wait(self, error: Exception, pause: float, give_up_at: float) -> None:
        reason = str(error) or type(error).__name__
        pause = max(pause, error.pause) if isinstance(error, _NotNowError) else pause
        left = give_up_at - monotonic()
        if pause > left:
            raise StoreError(f"{self.url} cannot be read: {reason}") from error
        logger.warning("%s cannot be read: %s; going on to try for %.0f s", self.url, reason, left)
        sleep(pause)

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in _NOT_NOW:
            raise _NotNowError(_reason(response), _retry_after(response))
        if status in (401, 403):
            raise StoreError(
                f"{self.url} does not open its log: {_reason(response)}. Reading takes a key with the scope `train`, "
                f"in the environment variable {KEY_VARIABLE}; `online-trl keys create --scope train` makes one where "
                "the server's log is"
            )
        if status != 200:
            raise StoreError(f"{self.url} does not give what was asked for: {_reason(response)}")
        revision = response.headers.get(REVISION_HEADER)
        if revision is None:
            raise StoreError(f"{self.url} answers, but not as an online-trl server; is the address right?")
        if revision != REVISIONS[-1]:
            raise StoreError(
                f"{self.url} has a log of revision {revision}, and this online-trl reads {REVISIONS[-1]}: install the "
                "same release on both sides"
            )

    def _connected(self) -> httpx.Client:
        # A forked process (a data loader's worker) must not talk over the connections of its parent.
        if self._process != os.getpid():
            self._process = os.getpid()
            self._client = self._new_client()
        return self._client

    def _new_client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers=self._headers,
            timeout=_TIMEOUT,
            limits=_LIMITS,
            transport=self._transport,
        )


def _checked_url(text: str) -> str:
    # What looks like a key is never repeated.
    if "@" in text:
        raise StoreError(f"the URL of a server holds a user or a key; pass the key in {KEY_VARIABLE} instead")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise StoreError(f"{text!r} is not the URL of a server: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise StoreError(f"{text!r} is not the URL of a server, such as https://chat.example.org")
    return text.rstrip("/")


def _key_header(key: str | None) -> dict[str, str]:
    if not key:
        return {}
    if not _KEY.fullmatch(key):
        raise StoreError(f"the key in {KEY_VARIABLE}, or given as `key`, holds a space or what is not ASCII")
    return {"Authorization": f"Bearer {key}"}


def _retry_after(response: httpx.Response) -> float:
    seconds = response.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else 0.0


def _read(response: httpx.Response) -> httpx.Response:
    response.read()
    return response


def _reason(response: httpx.Response) -> str:
    """What a server says about an error, in the shape of ours or of somebody else's."""
    try:
        return f"{_read(response).json()['error']['message']} (status {response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code} {response.reason_phrase}"


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(dict.fromkeys(names))
    while chunk := list(islice(remaining, LOOKUP_NAMES)):
        yield chunk


def _seq(row: Interaction | Feedback) -> int:
    assert row.seq is not None, "a stored row has its place in the log"
    return row.seq
