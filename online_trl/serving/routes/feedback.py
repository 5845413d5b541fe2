"""Feedback on what was answered."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

from ...types import Feedback, Scope
from ..access import requires
from ..errors import error_responses
from ..feedback import record_feedback
from ..feedback_route import FeedbackRoute, IdempotencyKey
from ..feedback_schemas import FEEDBACK_EXAMPLES, FeedbackBody, FeedbackReceipt
from ..service import Service
from ..settings import ServerSettings

_RECEIPTS: TypeAdapter[FeedbackReceipt | list[FeedbackReceipt]] = TypeAdapter(FeedbackReceipt | list[FeedbackReceipt])


def feedback_router(service: Service) -> APIRouter:
    """Returns the routes that take feedback."""
    router = APIRouter(dependencies=[Depends(requires(Scope.FEEDBACK))], tags=["feedback"], route_class=FeedbackRoute)

    @router.post(
        "/v1/feedback",
        status_code=201,
        response_model=FeedbackReceipt | list[FeedbackReceipt],
        responses=error_responses(400, 403, 404, 409, 410, 422, 503),
        openapi_extra={"requestBody": {"content": {"application/json": {"examples": FEEDBACK_EXAMPLES}}}},
    )
    async def create_feedback(body: FeedbackBody, idempotency_key: IdempotencyKey = None) -> Response:
        """Takes one statement or a list of them, all or none, in the shape of this API or of TensorZero's."""
        rows = read_feedback(body, idempotency_key, service.settings)
        return feedback_reply(body, await record_feedback(service, rows))

    return router


def read_feedback(body: FeedbackBody, idempotency_key: str | None, settings: ServerSettings) -> list[Feedback]:
    """
    Returns the rows that a request body holds.

    Args:
        body (`FeedbackBody`):
            One statement or a list of them.
        idempotency_key (`str`, *optional*):
            The key that came in the header.
        settings ([`~online_trl.serving.settings.ServerSettings`]):
            Settings of the server.

    Raises:
        [`~online_trl.types.InvalidRecordError`]: if a statement contradicts itself.
        `RequestValidationError`: if a key in the header came with a list.
    """
    if not isinstance(body, list):
        return [body.feedback(settings, idempotency_key=idempotency_key)]
    if idempotency_key is not None:
        reason = "the header is for a single statement; give each of a list its own `idempotency_key`"
        raise RequestValidationError([{"loc": ("Idempotency-Key",), "msg": reason, "type": "value_error"}])
    return [request.feedback(settings) for request in body]


def feedback_reply(body: FeedbackBody, stored: list[Feedback]) -> Response:
    """Returns the receipts of stored rows, one or a list like the request's body."""
    receipts = [FeedbackReceipt.of(row) for row in stored]
    # FastAPI would check what is right by construction: that costs as much as all else together.
    content = _RECEIPTS.dump_json(receipts if isinstance(body, list) else receipts[0])
    return Response(content, status_code=201, media_type="application/json")
