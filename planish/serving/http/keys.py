"""Authentication with a key in the headers of each request."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# no key needed: health checks need no secret, and on the page users enter their key
OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/", "/page/page.js", "/page/places.js", "/page/page.css"})


class KeyCheck:
    """ASGI middleware that answers 401 to requests without a valid key, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

    Args:
        app: the wrapped application.
        keys: at least one key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._has_key(Headers(scope=scope)):
            app = JSONResponse({"error": "a key is needed"}, 401, {"WWW-Authenticate": "Bearer"})
        await app(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        given = token if scheme.lower() == "bearer" else headers.get("X-API-Key", "")
        matches = [hmac.compare_digest(given.encode("latin-1"), key.encode()) for key in self._keys]  # all: no timing side channel
        return any(matches)
