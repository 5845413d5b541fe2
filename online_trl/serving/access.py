"""
Who may do what: a key comes with a request, and every route names the scope that it asks for.

Whoever sends a request is known before its body is read. While no key is configured, the server answers this machine
alone: requests from a loopback address to one, under a loopback name. The name counts because a page of any web site
can have its own name resolve to 127.0.0.1, and would then be asking this server in the browser's eyes as itself.
While it cannot be told whether there are keys, what is public is answered and everything else refused.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from ..store import ApiKey, StoreError, key_digest
from ..types import Scope
from .errors import RefusalError, error_response
from .feedback_url import PATH as SIGNED_FEEDBACK
from .key_ring import KeyRing
from .rate_limits import RateLimits

PUBLIC_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", SIGNED_FEEDBACK}
)
"""Paths that no key is asked for: the page, the probes, the API's description, and what a signature protects."""
PUBLIC_FOLDER = "/page/"
"""What the page consists of lies below it, as public as the page."""

_CHALLENGE = 'Bearer realm="online-trl"'
_DASHBOARD = "/dashboard"
# A browser asks for a password then, and sends the key as one.
_DASHBOARD_CHALLENGE = 'Basic realm="online-trl: any name, and a key with the scope admin as the password"'


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who sent a request.

    Args:
        key_id (`str`, *optional*):
            Id of the key that came with it; `None` where none is asked for.
        scopes (`frozenset[Scope]`):
            What it may do.
    """

    key_id: str | None
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Returns whether it may do what asks for this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


LOCAL = Caller(key_id=None, scopes=frozenset(Scope))
"""Whoever asks on this machine while no key is configured."""
ANYBODY = Caller(key_id=None, scopes=frozenset())
"""Whoever asks for what is public."""


class Requirement(SecurityBase):
    """
    The dependency of a route that only callers with a scope may use.

    Args:
        scope ([`~online_trl.types.Scope`]):
            What the caller must be allowed to do.
    """

    scheme_name = "key"
    model = HTTPBearer(
        description="A key made by `online-trl keys create`. It may also come as `X-Api-Key`, or as the password of "
        "HTTP Basic. No key is asked for while none is configured."
    )

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        caller: Caller = request.scope["caller"]
        if not caller.may(self.scope):
            challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{self.scope.value}"'
            raise RefusalError(
                403,
                f"this key does not have the scope `{self.scope.value}`",
                code="insufficient_scope",
                headers={"WWW-Authenticate": challenge},
            )
        return caller


def requires(scope: Scope) -> Requirement:
    """
    Returns the dependency of a route that only callers with a scope may use; its value is the [`Caller`].

    Args:
        scope ([`~online_trl.types.Scope`]):
            What the caller must be allowed to do.
    """
    return Requirement(scope)


class KeyCheck:
    """
    ASGI middleware that finds out who sends a request, and turns away those whom nothing can be found out about.

    Args:
        app (`ASGIApp`):
            What answers the others; it finds the [`Caller`] in the connection's `caller`.
        key_ring ([`~online_trl.serving.key_ring.KeyRing`]):
            The keys in force.
        rate_limits ([`~online_trl.serving.rate_limits.RateLimits`]):
            How often each key may ask.
    """

    def __init__(self, app: ASGIApp, *, key_ring: KeyRing, rate_limits: RateLimits) -> None:
        self._app = app
        self._key_ring = key_ring
        self._rate_limits = rate_limits

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope["caller"] = await self._admit(scope)
            except (RefusalError, StoreError) as error:
                if isinstance(error, RefusalError) and error.status_code == 401 and scope["path"] == _DASHBOARD:
                    error.headers = {"WWW-Authenticate": _DASHBOARD_CHALLENGE}
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Connection) -> Caller:
        headers = Headers(scope=scope)
        try:
            keys = await self._key_ring.in_force()
        except StoreError:
            if not _is_public(scope["path"]):
                raise
            return self._admit_to_public(scope, headers)
        if not keys:
            _check_is_local(scope, headers)
            return LOCAL
        if _is_public(scope["path"]):
            return ANYBODY
        caller = _holder(sent_key(headers), keys)
        assert caller.key_id is not None
        self._rate_limits.count_key(caller.key_id)
        return caller

    def _admit_to_public(self, scope: Connection, headers: Headers) -> Caller:
        # The probes and the page tell what is wrong with the log, so that they must not need it.
        if self._key_ring.is_known_empty:
            _check_is_local(scope, headers)
        return ANYBODY


def sent_key(headers: Headers) -> str | None:
    """
    Returns the key that came with a request, in whichever way: `X-Api-Key`, `Authorization: Bearer`, or the password
    of HTTP Basic, as Langfuse's clients send it.

    Args:
        headers (`Headers`):
            Headers of the request.
    """
    if (key := headers.get("x-api-key")) is not None:
        return key
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return _password(value) if scheme.lower() == "basic" else None


@lru_cache
def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine by its name: `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password(value: str) -> str | None:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def _holder(key: str | None, keys: Mapping[str, ApiKey]) -> Caller:
    if not key:
        raise _unknown("this server asks for a key: send it as `Authorization: Bearer KEY`")
    row = keys.get(key_digest(key))
    if row is None:
        raise _unknown("this key is not known here, or was revoked")
    return Caller(row.key_id, row.scopes)


def _unknown(message: str) -> RefusalError:
    return RefusalError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": _CHALLENGE})


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)


def _check_is_local(scope: Connection, headers: Headers) -> None:
    # Behind a proxy, uvicorn puts the address of the proxy's client into `client`.
    addresses = [end[0] for end in (scope["server"], scope["client"]) if end is not None]
    name = _without_port(headers.get("host", "").lower())
    if not all(map(is_loopback, [*addresses, name])):
        raise _unknown(
            "no key is configured, so that this server answers its own machine only, as localhost or 127.0.0.1; "
            "`online-trl keys create` makes a key"
        )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
