"""The few routes of the Hugging Face Hub that a registry uses, spoken to by the real `huggingface_hub`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

Files = dict[str, bytes]


class FakeHub:
    """Repositories as lists of commits, each the whole of its files."""

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, Files]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.overtake = 0
        """How many commits are to be overtaken by another one that came first."""
        self._lock = threading.Lock()

    def commit(self, repo: str, files: Files, parent: str | None) -> str:
        with self._lock:
            if self.overtake and parent is not None:
                self.overtake -= 1
                self._append(repo, {**self.files(repo), "README.md": str(self.overtake).encode()})
            if parent is not None and parent != self.repos[repo][-1][0]:
                raise HTTPException(412, "A commit has happened since. Please refresh and try again.")
            return self._append(repo, files)

    def files(self, repo: str, revision: str = "main") -> Files:
        commits = self.repos[repo]
        return commits[-1][1] if revision == "main" else dict(commits)[revision]

    def _append(self, repo: str, files: Files) -> str:
        commits = self.repos.setdefault(repo, [])
        commits.append((hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest(), files))
        return commits[-1][0]


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def fake_hub_app(hub: FakeHub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def note(request: Request, call_next):
        hub.requests.append(f"{request.method} {request.url.path}")
        return await call_next(request)

    @app.post("/api/repos/create")
    async def create(request: Request):
        body = await request.json()
        repo = f"{body['organization']}/{body['name']}"
        if repo in hub.repos:
            return JSONResponse({"url": f"{request.base_url}{repo}", "name": repo}, 409)
        hub.commit(repo, {".gitattributes": b""}, None)
        if body.get("private") or body.get("visibility") == "private":
            hub.private.add(repo)
        return {"url": f"{request.base_url}{repo}", "name": repo}

    @app.get("/api/models/{owner}/{name}")
    @app.get("/api/models/{owner}/{name}/revision/{revision}")
    def info(owner: str, name: str, revision: str = "main"):
        repo = _known(hub, owner, name)
        return {"id": repo, "sha": hub.repos[repo][-1][0] if revision == "main" else revision, "siblings": []}

    _add_files(app, hub)
    return app


def _add_files(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/api/models/{owner}/{name}/tree/{revision}")
    def tree(owner: str, name: str, revision: str):
        files = hub.files(_known(hub, owner, name), revision)
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
            for path, content in files.items()
        ]

    @app.post("/api/models/{owner}/{name}/preupload/{revision}")
    async def preupload(owner: str, name: str, revision: str, request: Request):
        files = hub.files(_known(hub, owner, name), revision)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": _blob_id(files[file["path"]]) if file["path"] in files else None,
                }
                for file in (await request.json())["files"]
            ]
        }

    @app.post("/api/models/{owner}/{name}/commit/{revision}")
    async def commit(owner: str, name: str, revision: str, request: Request):
        repo = _known(hub, owner, name)
        files, parent = dict(hub.files(repo)), None
        for line in map(json.loads, (await request.body()).splitlines()):
            match line:
                case {"key": "header", "value": {**header}}:
                    parent = header.get("parentCommit")
                case {"key": "file", "value": {"path": path, "content": content}}:
                    files[path] = base64.b64decode(content)
                case {"key": "deletedFile", "value": {"path": path}}:
                    del files[path]
        oid = hub.commit(repo, files, parent)
        return {"success": True, "commitOid": oid, "commitUrl": f"{request.base_url}{repo}/commit/{oid}"}

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(owner: str, name: str, revision: str, path: str):
        files = hub.files(_known(hub, owner, name), revision)
        if path not in files:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_blob_id(files[path])}"', "X-Repo-Commit": revision}
        return Response(files[path], headers=headers, media_type="application/octet-stream")


def _known(hub: FakeHub, owner: str, name: str) -> str:
    if (repo := f"{owner}/{name}") not in hub.repos:
        raise HTTPException(404, headers={"X-Error-Code": "RepoNotFound"})
    return repo


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """Serves it on a free loopback port, and gives the address."""
    # A client that does not read its reply to the end would keep the server for ever.
    server = uvicorn.Server(
        uvicorn.Config(
            fake_hub_app(hub),
            port=0,
            log_config=None,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
