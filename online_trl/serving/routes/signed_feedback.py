"""Feedback by whoever holds a signed URL, from a web page that has no key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from ...store import FeedbackStore, UnknownInteractionError
from ...types import ANONYMOUS, Feedback, FeedbackKind, Interaction
from ..client_keys import client_key, stored_key
from ..errors import RefusalError, error_responses
from ..feedback import record_feedback
from ..feedback_route import IdempotencyKey
from ..feedback_schemas import AnyFeedbackRequest, FeedbackBody, FeedbackReceipt, MetricRequest
from ..feedback_url import PATH, FeedbackGrant, FeedbackUrls
from ..schemas import Name
from ..service import Service
from .feedback import feedback_reply, read_feedback


def signed_feedback_router(service: Service) -> APIRouter:
    """Returns the route behind the signed URLs."""
    router = APIRouter(tags=["feedback"])
    urls = FeedbackUrls(service.store.keys, service.settings)

    @router.post(
        PATH,
        status_code=201,
        response_model=FeedbackReceipt | list[FeedbackReceipt],
        responses=error_responses(400, 403, 404, 409, 410, 422, 503),
    )
    async def create_signed_feedback(
        body: FeedbackBody,
        grant: Annotated[FeedbackGrant, Depends(_grant)],
        signature: Name,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """
        Takes feedback as `/v1/feedback` does, without a key, within what an `X-Feedback-Url` allows.

        A statement that names no interaction is about those of the URL. It is by the user who got the answers.
        """
        urls.check(grant, signature)
        service.rate_limits.count_key(f"feedback URL {signature}")
        answers = await asyncio.to_thread(_answers, service.store, grant)
        rows = read_feedback(_about(grant, body), idempotency_key, service.settings)
        grant.check(rows)
        rows = await asyncio.to_thread(_by_their_user, service.store, grant, answers, rows)
        return feedback_reply(body, await record_feedback(service, rows))

    return router


async def _grant(
    interaction: Annotated[list[Name], Query(max_length=64)],
    kind: Annotated[list[FeedbackKind], Query(max_length=len(FeedbackKind))],
    expires: int,
) -> FeedbackGrant:
    return FeedbackGrant(interaction_ids=tuple(interaction), kinds=tuple(kind), expires=expires)


def _answers(store: FeedbackStore, grant: FeedbackGrant) -> dict[str, Interaction]:
    """Returns those of the grant's answers that are in the log; some may never have come, or be gone."""
    found = store.get_interactions(grant.interaction_ids, tokens=False)
    if not found:
        raise UnknownInteractionError(grant.interaction_ids, store.erased_among(grant.interaction_ids))
    return found


def _about(grant: FeedbackGrant, body: FeedbackBody) -> FeedbackBody:
    """Returns the body with the grant's interactions where a statement names none."""
    if isinstance(body, list):
        return [_about_one(grant, statement) for statement in body]
    return _about_one(grant, body)


def _about_one(grant: FeedbackGrant, statement: AnyFeedbackRequest) -> AnyFeedbackRequest:
    if isinstance(statement, MetricRequest):
        return statement.model_copy(update={"inference_id": statement.inference_id or grant.interaction_ids[0]})
    if statement.interaction_id is None and statement.interaction_ids is None:
        return statement.model_copy(update={"interaction_ids": list(grant.interaction_ids)})
    return statement


def _by_their_user(
    store: FeedbackStore, grant: FeedbackGrant, answers: Mapping[str, Interaction], rows: Sequence[Feedback]
) -> list[Feedback]:
    """Returns the rows as said by the user who got the answers, after a look at what they replace."""
    grant.check(store.get_feedback(row.supersedes for row in rows if row.supersedes is not None).values())
    (user_id,) = {answer.user_id for answer in answers.values()}
    if other := {row.user_id for row in rows} - {ANONYMOUS, user_id}:
        message = f"this feedback URL is for the user who got the answers, and not for {', '.join(sorted(other))}"
        raise RefusalError(403, message, code="feedback_url_beyond")
    return [replace(row, user_id=user_id, idempotency_key=stored_key(user_id, client_key(row))) for row in rows]
