"""A local server that answers as the Hugging Face Hub does to what huggingface_hub asks for when bundles are pushed and pulled."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_SecretOfTheTests"


@dataclass
class FakeHub:
    """The repositories of a server: files by revision, the newest commit last; whether they are private; and the tokens that were sent."""

    address: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    read_only: bool = False

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        commits = self.commits[repository]
        return commits[list(commits)[-1] if revision == "main" else revision]

    def sha(self, repository: str, revision: str = "main") -> str:
        return list(self.commits[repository])[-1] if revision == "main" else revision

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        commits = self.commits.setdefault(repository, {})
        sha = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[sha] = files
        return sha


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, status: int, content: Any, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _no_repository(self) -> None:
        self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        self.hub.sent.append(given)
        return given == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if not self._authorized():
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/validate-yaml":
            metadata = json.loads(body)["content"]
            wrong = [{"message": '"license" must be one of [apache-2.0, mit, ...]'}] if "license: mine" in metadata else []
            self._answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
        elif self.hub.read_only:
            self._answer(403, {"error": "You don't have the rights to write"}, X_Error_Message="You don't have the rights to write")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            self._answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": path})

    def _create(self, given: dict[str, Any]) -> None:
        name = f"{given['organization']}/{given['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.commits:
            self._answer(409, url)
            return
        self.hub.private[name] = given.get("visibility") == "private"
        self.hub.commit(name, {".gitattributes": b"*.bin filter=lfs\n"})
        self._answer(200, url)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.files(name))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.commit(name, files)
        self._answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, authorized = unquote(urlsplit(self.path).path), self._authorized()
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path)
        name, what, revision, file = found.groups() if found else ("", "", "", "")
        if name not in self.hub.commits or (self.hub.private.get(name) and not authorized):
            self._no_repository()
            return
        revision = revision or "main"
        if revision != "main" and revision not in self.hub.commits[name]:
            self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return
        files, sha = self.hub.files(name, revision), self.hub.sha(name, revision)
        if what == "tree":
            self._answer(200, [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])
        elif what == "resolve":
            self._answer(200, files[file], ETag=f'"{_oid(files[file])}"', X_Repo_Commit=sha)
        else:
            self._answer(200, {"id": name, "sha": sha, "siblings": [{"rfilename": p} for p in files]})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Run a server, and let huggingface_hub of this process talk to it, with a token that may read and write."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
