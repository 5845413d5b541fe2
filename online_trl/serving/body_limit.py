"""How much a request may send, whether or not it says so beforehand."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import RefusalError, error_response


class BodyLimit:
    """
    ASGI middleware that refuses a request whose body is too large, before or while it is read.

    Args:
        app (`ASGIApp`):
            What answers the others.
        max_bytes (`int`):
            Largest body that is read.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._announced(scope) > self._max_bytes:
            await error_response(self._refusal())(scope, receive, send)
        else:
            await self._app(scope, self._counting(receive), send)

    def _announced(self, scope: Scope) -> int:
        length = Headers(scope=scope).get("content-length", "")
        return int(length) if length.isdecimal() else 0

    def _counting(self, receive: Receive) -> Receive:
        read = 0

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise self._refusal()
            return message

        return receive_counted

    def _refusal(self) -> RefusalError:
        return RefusalError(
            413,
            f"the body is larger than {self._max_bytes} bytes; send less at once",
            code="body_too_large",
            # What the client still sends is not waited for.
            headers={"Connection": "close"},
        )
