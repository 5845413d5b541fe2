"""Feedback in the shape of Langfuse's API: scores, alone, in lists, and as events of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from ...store import StoreError
from ...types import InvalidRecordError, Scope
from ..access import requires
from ..client_keys import client_key
from ..errors import RefusalError, error_responses, error_status, invalid_message
from ..feedback import record_feedback
from ..feedback_route import IdempotencyKey
from ..langfuse import (
    AcceptedScores,
    Batch,
    CreatedScore,
    Event,
    EventError,
    EventSuccess,
    IngestionReply,
    PartlyAcceptedScores,
    Score,
    ScoreBody,
    ScoreError,
)
from ..service import Service
from .feedback import refuse_key_of_list

_UNAVAILABLE = 503

_SCORES_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": AcceptedScores, "description": "All scores of a list are stored."},
    207: {"model": PartlyAcceptedScores, "description": "Some scores of a list are stored."},
    **error_responses(400, 404, 409, 410, 422, 503),
}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one score: the id that it is stored under, or why it is not."""

    score_id: str = ""
    status: int = 201
    message: str = ""


def langfuse_router(service: Service) -> APIRouter:
    """Returns the routes that take scores."""
    router = APIRouter(prefix="/api/public", dependencies=[Depends(requires(Scope.FEEDBACK))], tags=["langfuse"])

    @router.post("/scores", response_model=CreatedScore, responses=_SCORES_RESPONSES)
    async def create_scores(
        body: Annotated[ScoreBody, Body()], idempotency_key: IdempotencyKey = None
    ) -> CreatedScore | Response:
        """Takes one score or a list of them; of a list, each is stored or refused for itself."""
        if isinstance(body, Score):
            row = body.feedback(service.settings, idempotency_key=idempotency_key)
            (stored,) = await record_feedback(service, [row])
            return CreatedScore(id=client_key(stored))
        refuse_key_of_list(idempotency_key, "id")
        outcomes = await _record_each(service, body, Score.model_validate)
        return _list_reply(outcomes)

    @router.post(
        "/ingestion", status_code=207, response_model=IngestionReply, responses=error_responses(400, 422, 503)
    )
    async def ingest_events(body: Batch) -> IngestionReply:
        """Takes events, of which those of type `score-create` are stored; the reply tells what became of each."""
        outcomes = await _record_each(service, body.batch, lambda item: Event.model_validate(item).score())
        return _ingestion_reply(body.batch, outcomes)

    return router


async def _record_each(
    service: Service, items: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], Score]
) -> list[_Outcome]:
    recorded = await asyncio.gather(*(_record(service, item, read) for item in items), return_exceptions=True)
    outcomes = [_outcome(result) for result in recorded]
    if outcomes and all(outcome.status == _UNAVAILABLE for outcome in outcomes):
        raise StoreError(outcomes[0].message)
    return outcomes


async def _record(service: Service, item: dict[str, Any], read: Callable[[dict[str, Any]], Score]) -> str:
    """Puts one score into the log, and returns the id that it is stored under."""
    (stored,) = await record_feedback(service, [read(item).feedback(service.settings)])
    return client_key(stored)


def _outcome(recorded: str | BaseException) -> _Outcome:
    """Returns what became of a score: each is told for itself, as its neighbours may be in the log already."""
    match recorded:
        case str():
            return _Outcome(recorded)
        case ValidationError():
            return _Outcome(status=400, message=invalid_message(recorded.errors()))
        case InvalidRecordError() | StoreError():
            return _Outcome(status=error_status(recorded), message=str(recorded))
        case RefusalError():
            return _Outcome(status=recorded.status_code, message=str(recorded.detail))
        case _:
            raise recorded


def _list_reply(outcomes: Sequence[_Outcome]) -> Response:
    errors = [ScoreError(message=outcome.message) for outcome in outcomes if outcome.message]
    accepted = len(outcomes) - len(errors)
    if not errors:
        return _reply(202, AcceptedScores())
    return _reply(207, PartlyAcceptedScores(accepted=accepted, rejected=len(errors), errors=errors))


def _reply(status: int, content: BaseModel) -> Response:
    return JSONResponse(content.model_dump(), status)


def _ingestion_reply(events: Sequence[Mapping[str, Any]], outcomes: Sequence[_Outcome]) -> IngestionReply:
    reply = IngestionReply(successes=[], errors=[])
    for event, outcome in zip(events, outcomes, strict=True):
        # It may hold what made the event wrong, and no reply could.
        name = str(event.get("id", "")).encode(errors="replace").decode()
        if outcome.message:
            reply.errors.append(
                EventError(id=name, status=outcome.status, message=outcome.message, error=outcome.message)
            )
        else:
            reply.successes.append(EventSuccess(id=name))
    return reply
