"""
The one way into the log for everything that users say, whichever route it comes by.

Feedback usually names its interaction by our id and comes once, and then costs one write. Only what the log does not
take as it is gets a second look: an interaction may be named by the id that an upstream server gave its completion,
and a retry may name its row by the `feedback_id` alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ..store import FeedbackStore, IdempotencyConflictError, UnknownInteractionError
from ..types import ANONYMOUS, Feedback
from .client_keys import client_key
from .observation import see
from .service import Service


async def record_feedback(service: Service, rows: Sequence[Feedback]) -> list[Feedback]:
    """
    Puts feedback into the log, all rows or none, and returns it as stored once it is on disk.

    Args:
        service ([`~online_trl.serving.service.Service`]):
            What the routes stand on.
        rows (`Sequence[Feedback]`):
            What was said.

    Raises:
        [`~online_trl.store.StoreError`]: one of its kinds, if a row cannot be stored.
        [`~online_trl.serving.errors.RefusalError`]: if one of the users says too much.
    """
    service.rate_limits.count_users(row.user_id for row in rows if row.user_id != ANONYMOUS)
    try:
        stored = await _submit(service, rows)
    except (UnknownInteractionError, IdempotencyConflictError):
        known_rows = await asyncio.to_thread(_as_known, service.store, rows)
        if known_rows == list(rows):
            raise
        stored = await _submit(service, known_rows)
    see(stored)
    return stored


async def _submit(service: Service, rows: Sequence[Feedback]) -> list[Feedback]:
    # No reply leaves before this turn of the event loop is over. What the others of the turn bring is submitted in the
    # next one, close together, so that it shares a commit; else the log's writer takes up a few at a time meanwhile.
    await asyncio.sleep(0)
    return await service.arrivals.wait(service.store.submit_feedback(rows, screening=service.settings.screening))


def _as_known(store: FeedbackStore, rows: Sequence[Feedback]) -> list[Feedback]:
    """Returns the rows with the names that the log has for what they name."""
    interaction_ids = store.interaction_ids_of_upstream(name for row in rows for name in row.interaction_ids)
    # A key that the client chose may be that of another row.
    by_id = {row.feedback_id for row in rows if client_key(row) == row.feedback_id}
    stored = store.get_feedback(by_id)
    return [
        replace(
            row,
            interaction_ids=[interaction_ids.get(name, name) for name in row.interaction_ids],
            idempotency_key=stored.get(row.feedback_id, row).idempotency_key,
        )
        for row in rows
    ]
