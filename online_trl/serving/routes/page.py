"""The page at `/`, where people chat and say what they think of the answers."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from ..service import Service

_HEADERS = {
    # Nothing but the page's own files runs, and it talks to nobody but the server that it came from.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_router(service: Service) -> APIRouter:
    """Returns the routes of the page and of the files that it is made of."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(packages=[("online_trl.serving", "page")])

    @router.get("/")
    async def show_page(request: Request) -> Response:
        return await _reply(files, "index.html", request)

    @router.get("/page/{name}")
    async def load_file(name: str, request: Request) -> Response:
        return await _reply(files, name, request)

    return router


async def _reply(files: StaticFiles, name: str, request: Request) -> Response:
    response = await files.get_response(name, request.scope)
    response.headers.update(_HEADERS)
    return response
