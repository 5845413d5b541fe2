"""What those who run the server ask of it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ...store import StoreError
from ...types import Scope
from ..access import requires
from ..engine import EngineError
from ..errors import RefusalError, error_responses
from ..schemas import Health, Readiness
from ..service import Service

_PATIENCE_SECONDS = 5.0


def operations_router(service: Service) -> APIRouter:
    """Returns the routes that tell how the server is."""
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    async def check_health() -> Health:
        """Tells that requests are answered, and by which version."""
        return Health(policy_version=service.engine.default_version)

    @router.get("/readyz", responses=error_responses(503))
    async def check_readiness() -> Readiness:
        """Tells that a policy is loaded and the log takes what is written; otherwise the reply is 503 and why not."""
        return await _readiness(service)

    @router.get(
        "/metrics",
        dependencies=[Depends(requires(Scope.ADMIN))],
        # A class with a media type of its own would have the errors described as being of that type.
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **error_responses(503)},
    )
    async def read_metrics() -> Response:
        """Returns what the server did so far, in Prometheus's text format."""
        await asyncio.to_thread(service.metrics.settle)
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _readiness(service: Service) -> Readiness:
    try:
        version = service.engine.default_version
        # To write nothing takes all that writing takes: the thread, the connection, the lock.
        await asyncio.wait_for(service.arrivals.wait(service.store.submit_interactions([])), _PATIENCE_SECONDS)
        return Readiness(policy_version=version, latest_seq=await asyncio.to_thread(service.store.latest_seq))
    except asyncio.TimeoutError as error:
        raise _not_ready(f"the log has taken nothing for {_PATIENCE_SECONDS:g} seconds") from error
    except (EngineError, StoreError) as error:
        raise _not_ready(str(error)) from error


def _not_ready(reason: str) -> RefusalError:
    return RefusalError(503, f"not ready: {reason}", code="not_ready")
