"""What those who run the server ask of it."""

from __future__ import annotations

from fastapi import APIRouter

from ..schemas import Health
from ..service import Service


def operations_router(service: Service) -> APIRouter:
    """Returns the routes that tell how the server is."""
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    def check_health() -> Health:
        """Tells that requests are answered, by which version, and how long the log is."""
        return Health(policy_version=service.engine.default_version, latest_seq=service.store.latest_seq())

    return router
