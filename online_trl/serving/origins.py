"""
Which web pages may call the server from a browser.

Browsers say which site a page comes from. A page of another site may only write if its origin is allowed, whatever
key it sends; and only such a page may read the replies (CORS).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import RefusalError, error_response

READ_HEADERS = ("X-Comparison", "X-Feedback-Url", "X-Interaction-Id", "Retry-After")
"""Headers that a page of an allowed origin may read."""

_READING_METHODS = ("GET", "HEAD", "OPTIONS")


class OriginCheck:
    """
    ASGI middleware that refuses what a page of a foreign site wants to write.

    Args:
        app (`ASGIApp`):
            What answers the others.
        allowed_origins (`Sequence[str]`):
            Origins whose pages may write, beside the server's own.
    """

    def __init__(self, app: ASGIApp, *, allowed_origins: Sequence[str]) -> None:
        self._app = app
        self._allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _READING_METHODS:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin not in self._allowed_origins and origin != _own_origin(scope, headers):
                await error_response(_refusal(origin))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _own_origin(scope: Scope, headers: Headers) -> str:
    return f"{scope['scheme']}://{headers.get('host', '')}"


def _refusal(origin: str) -> RefusalError:
    return RefusalError(
        403,
        f"pages from {origin} may not write here; the server's setting `allowed_origins` lists those that may, and "
        "`public_url` is the server's own address if it stands behind a proxy",
        code="origin_not_allowed",
    )
