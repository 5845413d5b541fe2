"""Errors as replies, in the shape that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..store import (
    ErasedError,
    ForeignFeedbackError,
    IdempotencyConflictError,
    NotQuarantinedError,
    StoreError,
    UnknownFeedbackError,
    UnknownInteractionError,
    UnknownUserError,
    UnstorableError,
)
from ..types import InvalidRecordError
from .engine import (
    EngineError,
    InvalidPromptError,
    PromptTooLongError,
    UnknownVersionError,
    UnsupportedParameterError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
)
from .schemas import ErrorDetail, ErrorReply

_INVALID, _SERVER = "invalid_request_error", "server_error"
_MOST_QUOTED = 200

GUARD_STATUSES = (400, 401, 403, 413, 429, 503)
"""Statuses of requests that come to no route: for what they are not, who sent them, how much, how often, or when."""


class RefusalError(HTTPException):
    """
    A request is turned away for who sent it, how often or how, and not for what it asks.

    Args:
        status_code (`int`):
            Status of the reply.
        message (`str`):
            What was wrong, and what would be accepted.
        code (`str`):
            Names the reason to programs.
        headers (`dict[str, str]`, *optional*):
            Headers of the reply.
    """

    def __init__(self, status_code: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status_code, message, headers)
        self.code = code


# The most special class that fits decides: status, type, param, code.
_REPLIES: dict[type[Exception], tuple[int, str, str | None, str | None]] = {
    UnknownVersionError: (404, _INVALID, "model", "model_not_found"),
    PromptTooLongError: (400, _INVALID, "messages", "context_length_exceeded"),
    UnsupportedParameterError: (400, _INVALID, None, "unsupported_parameter"),
    InvalidPromptError: (400, _INVALID, "messages", None),
    UpstreamTimeoutError: (504, _SERVER, None, "upstream_timeout"),
    UpstreamError: (502, _SERVER, None, "upstream_failed"),
    EngineError: (500, _SERVER, None, None),
    InvalidRecordError: (422, _INVALID, None, None),
    UnknownInteractionError: (404, _INVALID, "interaction_ids", "interaction_not_found"),
    UnknownFeedbackError: (404, _INVALID, "supersedes", "feedback_not_found"),
    ForeignFeedbackError: (403, _INVALID, "supersedes", "feedback_of_another_user"),
    ErasedError: (410, _INVALID, None, "erased"),
    UnknownUserError: (404, _INVALID, "user_id", "user_not_found"),
    NotQuarantinedError: (404, _INVALID, "feedback_ids", "feedback_not_found"),
    IdempotencyConflictError: (409, _INVALID, "idempotency_key", "idempotency_conflict"),
    UnstorableError: (422, _INVALID, None, "unstorable"),
    StoreError: (503, _SERVER, None, "store_unavailable"),
}

# Parts of an error's place that name our parsing and not the client's body.
_INTERNAL_PLACES = {"body", "one", "metric", "many"}


def error_reply(error: Exception) -> ErrorReply:
    """Returns the body that tells a client about an error of the engine, the store or the records."""
    _, kind, param, code = _describe(error)
    if isinstance(error, UnsupportedParameterError):
        param = error.name
    said = f": {error.said[:_MOST_QUOTED]!r}" if isinstance(error, UpstreamError) and error.said else ""
    return ErrorReply(error=ErrorDetail(message=f"{error}{said}", type=kind, param=param, code=code))


def error_status(error: Exception) -> int:
    """Returns the status of a reply that tells of an error of the engine, the store or the records."""
    return _describe(error)[0]


def invalid_message(problems: Iterable[Mapping[str, Any]]) -> str:
    """Returns what is wrong with a body in words, of the problems that its validation found."""
    places = ((_place(problem["loc"]), problem["msg"]) for problem in problems)
    return "; ".join(f"{place}: {reason}" if place else reason for place, reason in places)


def error_responses(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Returns what a route says in the API's description about the errors that it may reply with."""
    return {status: {"model": ErrorReply} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Makes every error of an app a reply in one shape."""
    for error_type in _REPLIES:
        app.add_exception_handler(error_type, _on_known_error)
    app.add_exception_handler(UpstreamRefusedError, _on_upstream_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(StarletteHTTPException, _on_http_error)


def error_response(error: StarletteHTTPException | StoreError) -> JSONResponse:
    """Returns the whole reply to an error, also where no route is there to raise it."""
    if isinstance(error, StoreError):
        return JSONResponse(error_reply(error).model_dump(), _describe(error)[0])
    code = error.code if isinstance(error, RefusalError) else None
    detail = ErrorDetail(message=str(error.detail), type=_INVALID, code=code)
    return JSONResponse(ErrorReply(error=detail).model_dump(), error.status_code, error.headers)


def _describe(error: Exception) -> tuple[int, str, str | None, str | None]:
    return next(_REPLIES[kind] for kind in type(error).__mro__ if kind in _REPLIES)


def _on_known_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_reply(error).model_dump(), _describe(error)[0])


def _on_upstream_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, UpstreamRefusedError)
    return Response(error.body, error.status, error.headers)


def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    detail = ErrorDetail(message=invalid_message(problems), type=_INVALID, param=_place(problems[0]["loc"]) or None)
    # OpenAI's clients know a wrong chat request by 400.
    status = 400 if request.url.path.startswith("/v1/chat/") else 422
    return JSONResponse(ErrorReply(error=detail).model_dump(), status)


def _place(location: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in location if part not in _INTERNAL_PLACES)


def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return error_response(error)
