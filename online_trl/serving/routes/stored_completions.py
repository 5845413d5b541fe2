"""Answers in the log as OpenAI's stored completions: to look at, to say something about, to erase."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from ...types import Scope
from ..access import Caller, requires
from ..errors import error_responses
from ..rendering import stored_reply
from ..schemas import ChatCompletion, Name
from ..service import Service
from ..stored_completions import CompletionUpdate, DeletedCompletion, find_interaction, update_completion

CompletionId = Annotated[Name, Path(description="An `interaction_id`, or the id of an upstream's completion.")]


def stored_completions_router(service: Service) -> APIRouter:
    """Returns the routes of stored completions."""
    router = APIRouter(prefix="/v1/chat/completions", tags=["stored completions"])

    @router.get(
        "/{completion_id}",
        dependencies=[Depends(requires(Scope.CHAT))],
        responses=error_responses(400, 404, 503),
    )
    async def retrieve_chat_completion(completion_id: CompletionId) -> ChatCompletion:
        """Returns an answer as it stands in the log."""
        return stored_reply(await find_interaction(service, completion_id))

    @router.post("/{completion_id}", responses=error_responses(400, 403, 404, 409, 410, 422, 503))
    async def update_chat_completion(
        completion_id: CompletionId,
        body: CompletionUpdate,
        caller: Annotated[Caller, Depends(requires(Scope.FEEDBACK))],
    ) -> ChatCompletion:
        """
        Sets what a user thinks of an answer, as `metadata`. The reply holds the answer's text if the key has the scope
        `chat` too.
        """
        interaction = await find_interaction(service, completion_id)
        await update_completion(service, interaction, body.metadata)
        return stored_reply(interaction, with_text=caller.may(Scope.CHAT), metadata=body.metadata)

    @router.delete(
        "/{completion_id}",
        dependencies=[Depends(requires(Scope.ADMIN))],
        responses=error_responses(400, 404, 503),
    )
    async def delete_chat_completion(completion_id: CompletionId) -> DeletedCompletion:
        """
        Erases all answers of a completion, what quotes them, and all that was said about them, for good. That takes
        the scope `admin`, here as under `/v1/interactions`. Twice is as good as once.
        """
        await asyncio.to_thread(service.store.erase_completion, completion_id)
        return DeletedCompletion(id=completion_id)

    return router
