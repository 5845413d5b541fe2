"""Feedback on what was answered."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json

from ...types import Feedback, Scope
from ..access import requires
from ..errors import GUARD_STATUSES, error_responses
from ..feedback import record_feedback
from ..feedback_route import FeedbackRoute, IdempotencyKey
from ..feedback_schemas import FEEDBACK_EXAMPLES, FeedbackBody, FeedbackReceipt, receipt_of
from ..service import Service
from ..settings import ServerSettings


def add_feedback_route(router: APIRouter, service: Service) -> None:
    """
    Adds the route that takes feedback.

    Args:
        router (`APIRouter`):
            That of the app itself: FastAPI looks twice for a route of a router that the app includes.
        service ([`~online_trl.serving.service.Service`]):
            What the route stands on.
    """

    async def create_feedback(body: FeedbackBody, idempotency_key: IdempotencyKey = None) -> Response:
        """Takes one statement or a list of them, all or none, in the shape of this API or of TensorZero's."""
        rows = read_feedback(body, idempotency_key, service.settings)
        return feedback_reply(body, await record_feedback(service, rows))

    router.add_api_route(
        "/v1/feedback",
        create_feedback,
        methods=["POST"],
        status_code=201,
        response_model=FeedbackReceipt | list[FeedbackReceipt],
        responses=error_responses(*GUARD_STATUSES, 404, 409, 410, 422),
        openapi_extra={"requestBody": {"content": {"application/json": {"examples": FEEDBACK_EXAMPLES}}}},
        dependencies=[Depends(requires(Scope.FEEDBACK))],
        tags=["feedback"],
        route_class_override=FeedbackRoute,
    )


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
    refuse_key_of_list(idempotency_key, "idempotency_key")
    return [request.feedback(settings) for request in body]


def refuse_key_of_list(idempotency_key: str | None, field: str) -> None:
    """
    Refuses a key in the header that came with a list.

    Args:
        idempotency_key (`str`, *optional*):
            The key.
        field (`str`):
            Where each of the list may have its own.

    Raises:
        `RequestValidationError`: if there is one.
    """
    if idempotency_key is not None:
        reason = f"the header is for a single statement; give each of a list its own `{field}`"
        raise RequestValidationError([{"loc": ("Idempotency-Key",), "msg": reason, "type": "value_error"}])


def feedback_reply(body: FeedbackBody, stored: list[Feedback]) -> Response:
    """Returns the receipts of stored rows, one or a list like the request's body."""
    receipts = [receipt_of(row) for row in stored]
    # FastAPI would check what is right by construction: that costs as much as all else together.
    content = to_json(receipts if isinstance(body, list) else receipts[0])
    return Response(content, status_code=201, media_type="application/json")
