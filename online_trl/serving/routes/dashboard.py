"""The dashboard: how the deployment is, for those who run it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, JSONResponse

from ...report import dashboard_html, plain_report
from ...types import Scope
from ..access import requires
from ..dashboard import Dashboard
from ..schemas import Text
from ..service import Service

_HEADERS = {
    # The page runs nothing and loads nothing; its form leads back to it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def dashboard_router(service: Service) -> APIRouter:
    """Returns the routes of the dashboard and of the numbers behind it."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(requires(Scope.ADMIN))])
    dashboard = Dashboard(service.store, service.registry, loop_dir=service.settings.loop_dir)

    @router.get("/dashboard")
    def show_dashboard(
        before: Text | None = None, after: Text | None = None, lineage: Text | None = None
    ) -> HTMLResponse:
        report, chosen = dashboard.report(
            service.engine.default_version, before=before, after=after, lineage_of=lineage
        )
        return HTMLResponse(dashboard_html(report, **chosen), headers=_HEADERS)

    @router.get("/dashboard.json")
    def read_dashboard(before: Text | None = None, after: Text | None = None, lineage: Text | None = None) -> Any:
        report, _ = dashboard.report(service.engine.default_version, before=before, after=after, lineage_of=lineage)
        return JSONResponse(plain_report(report), headers=_HEADERS)

    return router
