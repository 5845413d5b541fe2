"""Reading the log: one route for each method of [`~online_trl.store.LogReader`], under the method's name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute

from ...migrations import REVISIONS
from ...store import StoreSummary, Trace
from ...store.wire import REVISION_HEADER
from ...types import Feedback, Interaction, Scope, Tombstone
from ..access import requires
from ..errors import error_responses
from ..log_schemas import (
    AdmittedInterval,
    ClosedInterval,
    Ids,
    InteractionIds,
    InteractionPage,
    Page,
    Regenerations,
    Sessions,
    TraceRequest,
)
from ..row_stream import RowStream, row_schema
from ..service import Service


class LogRoute(APIRoute):
    """A route whose replies name the revision of the log's schema, so that no client misreads them."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        answer = super().get_route_handler()

        async def answer_with_revision(request: Request) -> Response:
            response = await answer(request)
            response.headers[REVISION_HEADER] = REVISIONS[-1]
            return response

        return answer_with_revision


def log_router(service: Service) -> APIRouter:
    """Returns the routes that read the log."""
    router = APIRouter(
        prefix="/v1/log", route_class=LogRoute, dependencies=[Depends(requires(Scope.TRAIN))], tags=["log"]
    )
    _add_positions(router, service)
    _add_intervals(router, service)
    _add_related(router, service)
    _add_lookups(router, service)
    return router


def _rows(record: type[Any]) -> dict[str, Any]:
    """Returns how a route that replies with rows is described."""
    described = {
        "description": "One row a line, in the order of the log; the last line is the number of rows.",
        "content": {RowStream.media_type: {"itemSchema": {"anyOf": [row_schema(record), {"type": "integer"}]}}},
    }
    # The class that describes nothing: errors are no rows.
    return {"response_class": Response, "responses": {200: described, **error_responses(422)}}


def _add_positions(router: APIRouter, service: Service) -> None:
    @router.get("/latest-seq")
    def read_latest_seq() -> int:
        """Tells the `seq` of the last row of the log, 0 when it is empty."""
        return service.store.latest_seq()

    @router.get("/summary")
    def read_summary() -> StoreSummary:
        """Counts what is in the log."""
        return service.store.summary()


def _add_intervals(router: APIRouter, service: Service) -> None:
    @router.get("/interactions", **_rows(Interaction))
    def read_interactions(query: Annotated[InteractionPage, Query()], request: Request) -> Response:
        """Sends the interactions of an interval, a page at a time."""
        return RowStream(service.store.interactions(**dict(query)), request)

    @router.get("/feedback", **_rows(Feedback))
    def read_feedback(query: Annotated[Page, Query()], request: Request) -> Response:
        """Sends the feedback of an interval as it was written, a page at a time."""
        return RowStream(service.store.feedback(**dict(query)), request)

    @router.get("/admitted-feedback", **_rows(Feedback))
    def read_admitted_feedback(query: Annotated[AdmittedInterval, Query()], request: Request) -> Response:
        """Sends the feedback of an interval that counted at a position: without what is in quarantine."""
        return RowStream(service.store.admitted_feedback(**dict(query)), request)

    @router.get("/tombstones", **_rows(Tombstone))
    def read_tombstones(query: Annotated[ClosedInterval, Query()], request: Request) -> Response:
        """Sends what was erased in an interval."""
        return RowStream(service.store.tombstones(**dict(query)), request)


def _add_related(router: APIRouter, service: Service) -> None:
    @router.get("/related-feedback", **_rows(Feedback))
    def read_related_feedback(query: Annotated[ClosedInterval, Query()], request: Request) -> Response:
        """Sends the feedback of an interval, and the earlier feedback that bears on it."""
        return RowStream(service.store.related_feedback(**dict(query)), request)

    @router.get("/related-regenerations", **_rows(Interaction))
    def read_related_regenerations(query: Annotated[Regenerations, Query()], request: Request) -> Response:
        """Sends the answers that tell whether the regenerated ones of an interval were accepted."""
        return RowStream(service.store.related_regenerations(**dict(query)), request)


def _add_lookups(router: APIRouter, service: Service) -> None:
    @router.post("/get-interactions", **_rows(Interaction))
    def get_interactions(body: InteractionIds, request: Request) -> Response:
        """Sends the interactions of these ids; unknown ones are left out."""
        return RowStream(list(service.store.get_interactions(**dict(body)).values()), request)

    @router.post("/session-interactions", **_rows(Interaction))
    def read_session_interactions(body: Sessions, request: Request) -> Response:
        """Sends the interactions of these conversations, in the order of the log."""
        return RowStream(service.store.session_interactions(**dict(body)), request)

    @router.post("/erased-among", responses=error_responses(422))
    def read_erased_among(body: Ids) -> list[str]:
        """Tells which of these ids are those of erased rows."""
        return sorted(service.store.erased_among(body.ids))

    @router.post("/trace", **_rows(Trace))
    def read_trace(body: TraceRequest, request: Request) -> Response:
        """Tells which rows belong to a user or are an interaction, erased ones too."""
        return RowStream([service.store.trace(body.subject, body.name)], request)
