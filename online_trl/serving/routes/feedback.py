"""Feedback on what was answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.exceptions import RequestValidationError

from ...types import Feedback, Scope
from ..access import requires
from ..errors import error_responses
from ..feedback_schemas import FeedbackBody, FeedbackReceipt, FeedbackRequest
from ..service import Service


def feedback_router(service: Service) -> APIRouter:
    """Returns the routes that take feedback."""
    router = APIRouter(dependencies=[Depends(requires(Scope.FEEDBACK))], tags=["feedback"])

    @router.post("/v1/feedback", status_code=201, responses=error_responses(404, 409, 422))
    def create_feedback(
        body: FeedbackBody, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=256)] = None
    ) -> FeedbackReceipt | list[FeedbackReceipt]:
        """Takes one statement or a list of them, all or none."""
        stored = service.store.add_feedback_batch(_feedback(body, idempotency_key))
        receipts = [FeedbackReceipt.of(row) for row in stored]
        return receipts if isinstance(body, list) else receipts[0]

    return router


def _feedback(body: FeedbackRequest | list[FeedbackRequest], idempotency_key: str | None) -> list[Feedback]:
    if idempotency_key is None:
        return [request.feedback() for request in (body if isinstance(body, list) else [body])]
    if isinstance(body, list):
        raise _bad_header("the header is for a single statement; give each of a list its own `idempotency_key`")
    if body.idempotency_key not in (None, idempotency_key):
        raise _bad_header("the header and the body's `idempotency_key` are not the same")
    return [body.model_copy(update={"idempotency_key": idempotency_key}).feedback()]


def _bad_header(reason: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("Idempotency-Key",), "msg": reason, "type": "value_error"}])
