"""What those who answer for the log do to it: look through the quarantine, and erase."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from ...types import Scope
from ..access import requires
from ..errors import error_responses
from ..schemas import Name, Seq
from ..service import Service
from ..trust_schemas import QuarantinedRow, Release, ReleaseRequest, TombstoneReply


def trust_router(service: Service) -> APIRouter:
    """Returns the routes that list and release what is quarantined, and that erase."""
    router = APIRouter(dependencies=[Depends(requires(Scope.ADMIN))], tags=["trust"])
    store = service.store

    @router.get("/v1/quarantine", responses=error_responses(422))
    def list_quarantined(
        after: Annotated[Seq, Query(description="`seq` after which to read")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[QuarantinedRow]:
        """Lists the feedback that waits in quarantine, in the order of the log."""
        return [QuarantinedRow.of(row) for row in store.quarantined(after=after, limit=limit)]

    @router.post("/v1/quarantine/release", responses=error_responses(404, 422))
    def release_quarantined(body: ReleaseRequest) -> list[Release]:
        """Lets feedback out of quarantine; it counts from now on. Released before, it stays as it is."""
        return [Release(feedback_id=row.feedback_id, seq=row.seq or 0) for row in store.release(body.feedback_ids)]

    @router.delete("/v1/users/{user_id:path}", responses=error_responses(404, 422))
    def erase_user(user_id: Annotated[Name, Path()]) -> TombstoneReply:
        """Erases what a user asked and said, and what was said about the user's answers. Twice is as good as once."""
        return TombstoneReply.of(store.erase_user(user_id))

    @router.delete("/v1/interactions/{interaction_id}", responses=error_responses(404, 422))
    def erase_interaction(interaction_id: Annotated[Name, Path()]) -> TombstoneReply:
        """Erases an answer, what quotes it, and what was said about them. Twice is as good as once."""
        return TombstoneReply.of(store.erase_interaction(interaction_id))

    return router
