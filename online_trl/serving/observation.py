"""
What becomes of each request: one line in the server's log and one sample in its metrics.

Whatever puts rows into the log lets them be seen here, so that neither the line nor the counts cost a handler more
than a reference. A line names ids, versions and times; it holds nobody's words unless the settings say so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from ..types import Feedback, Interaction
from .generation import TokenCount
from .metrics import Metrics

Row = Interaction | Feedback | TokenCount

_seen: ContextVar[list[Row] | None] = ContextVar("seen", default=None)

_NO_ROUTE = "none"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "other"


def see(rows: Sequence[Row]) -> None:
    """
    Tells that rows came into the log on behalf of the present request, or how many tokens its reply has.

    Args:
        rows (`Sequence[Interaction | Feedback | TokenCount]`):
            The rows as stored.
    """
    if (seen := _seen.get()) is not None:
        seen.extend(rows)


class Observation:
    """
    ASGI middleware that observes requests; it belongs around all others, so that it sees what they turn away.

    Args:
        app (`ASGIApp`):
            What answers.
        metrics ([`~online_trl.serving.metrics.Metrics`]):
            Where requests are counted.
        log (`FilteringBoundLogger`, *optional*):
            Where requests are logged. They are not by default.
        log_messages (`bool`, *optional*, defaults to `False`):
            Whether the log may hold what was asked, answered and said.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger | None = None,
        log_messages: bool = False,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._log_messages = log_messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rows: list[Row] = []
        _seen.set(rows)
        status = 500

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begin = time.perf_counter()
        try:
            await self._app(scope, receive, send_and_see)
        finally:
            self._conclude(scope, status, time.perf_counter() - begin, rows)
        if self._metrics.is_due:
            await asyncio.to_thread(self._metrics.settle)

    def _conclude(self, scope: Scope, status: int, seconds: float, rows: Sequence[Row]) -> None:
        route = _template(scope)
        # Anybody can make up methods, and a metric keeps each of its labels for good.
        method = scope["method"] if scope["method"] in _METHODS else _OTHER_METHOD
        self._metrics.count_request(method, route, status, seconds)
        self._metrics.count_rows(rows)
        if self._log is not None:
            entry = {"method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 6)}
            caller = scope.get("caller")
            if caller is not None and caller.key_id is not None:
                entry["key_id"] = caller.key_id
            entry |= _described(rows)
            if self._log_messages and rows:
                entry["rows"] = [_words(row) for row in rows if not isinstance(row, TokenCount)]
            (self._log.info if status < 500 else self._log.error)("request", **entry)


def _template(scope: Scope) -> str:
    """Returns the path that a route was declared with: with the ids in it, there would be no end to its values."""
    route = scope.get("route")
    return _NO_ROUTE if route is None else str(route.path_format)


def _described(rows: Sequence[Row]) -> dict[str, Any]:
    answers = [row for row in rows if isinstance(row, Interaction)]
    statements = [row for row in rows if isinstance(row, Feedback)]
    described: dict[str, Any] = {}
    if answers:
        described["policy_version"] = answers[0].policy_version
    if ids := [row.interaction_id for row in answers] or [name for row in statements for name in row.interaction_ids]:
        described["interaction_ids"] = ids
    if statements:
        described["feedback_ids"] = [row.feedback_id for row in statements]
    return described


def _words(row: Interaction | Feedback) -> dict[str, Any]:
    if isinstance(row, Interaction):
        return {"prompt": row.prompt, "completion": row.completion}
    return {"kind": row.kind.value, "value": row.value, "comment": row.comment, "tags": row.tags}
