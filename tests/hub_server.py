"""What the Hugging Face hub answers to somebody who uploads a folder, in a thread."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request

from served_log import served


@contextmanager
def hub_server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serves on loopback; gives the URL, and the files that have been uploaded, by their path in the repository."""
    app, files = FastAPI(), {}

    @app.post("/api/repos/create")
    async def create(request: Request) -> Any:
        body = await request.json()
        return {"url": f"{request.base_url}{body['organization']}/{body['name']}"}

    @app.post("/api/validate-yaml")
    async def validate() -> Any:
        return {"errors": [], "warnings": []}

    @app.post("/api/models/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request) -> Any:
        body = await request.json()
        plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
        return {"files": [{"path": file["path"], **plain} for file in body["files"]]}

    @app.post("/api/models/{owner}/{name}/commit/{revision}")
    async def commit(owner: str, name: str, request: Request) -> Any:
        for line in (await request.body()).decode().splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                value = operation["value"]
                files[f"{owner}/{name}/{value['path']}"] = base64.b64decode(value["content"])
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{request.base_url}{owner}/{name}/commit/0"}

    with served(app) as url:
        yield url, files
