"""
How a request with feedback is read.

FastAPI describes a route by the signature of its endpoint, and takes that signature apart again for each request,
which costs more than to store what was said. This route is described in that way, and reads its requests by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import Field, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from ..types import Scope
from .access import requires
from .feedback_schemas import FeedbackBody

_KEY_HEADER = "Idempotency-Key"

_Key = Annotated[str, Field(min_length=1, max_length=256)]

IdempotencyKey = Annotated[
    _Key | None,
    Header(
        alias=_KEY_HEADER,
        description="The same key and statement of a user again have the same reply and are one row; with another "
        "statement the reply is 409. In a list, each statement has its own `idempotency_key` instead.",
    ),
]

_BODY: TypeAdapter[FeedbackBody] = TypeAdapter(FeedbackBody)
_KEY: TypeAdapter[str] = TypeAdapter(_Key)

Problem = dict[str, Any]


class FeedbackRoute(APIRoute):
    """
    A route for callers with the scope `feedback`, whose endpoint takes a `FeedbackBody` and an `IdempotencyKey`.

    Args:
        *args, **kwargs:
            As for FastAPI's own route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns what answers a request; FastAPI asks for it when the route is made."""
        check_caller = requires(Scope.FEEDBACK)

        async def handle(request: Request) -> Response:
            await check_caller(request)
            response: Response = await self.endpoint(*await read_request(request))
            return response

        return handle


async def read_request(request: Request) -> tuple[FeedbackBody, str | None]:
    """
    Returns the body of a request, and the key in its header.

    Raises:
        `RequestValidationError`: if they are not what they should be, as FastAPI would say it.
        `HTTPException`: if the body is nothing that could be read.
    """
    problems: list[Problem] = []
    key = request.headers.get(_KEY_HEADER)
    if key is not None:
        _check(_KEY, key, ("header", _KEY_HEADER), problems)
    content = _content(await _bytes(request), request.headers.get("content-type", ""))
    body: FeedbackBody = _check(_BODY, content, ("body",), problems)
    if problems:
        raise RequestValidationError(problems)
    return body, key


async def _bytes(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise _unreadable() from error


def _content(sent: bytes, content_type: str) -> Any:
    """Returns what was sent; it stays bytes if it is not said to be JSON, as a page may send those to any site."""
    if not sent or not _is_json(content_type):
        return sent or None
    try:
        return json.loads(sent)
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error"}
        raise RequestValidationError([problem]) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable() from error


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _unreadable() -> HTTPException:
    return HTTPException(400, "There was an error parsing the body")


def _check(adapter: TypeAdapter[Any], value: Any, place: tuple[str, ...], problems: list[Problem]) -> Any:
    if value is None:
        problems.append({"type": "missing", "loc": place, "msg": "Field required"})
        return None
    try:
        return adapter.validate_python(value, from_attributes=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems += [{**problem, "loc": (*place, *problem["loc"])} for problem in found]
