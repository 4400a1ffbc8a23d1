"""Who may ask: a key in each request's headers."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# without a key: who watches a service needs no secret, and the page is where a person gives theirs
OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/", "/page/page.js", "/page/places.js", "/page/page.css"})


class KeyCheck:
    """Answers 401 to requests without one of the keys, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

    Args:
        app: what answers the others.
        keys: at least one.
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
        matches = [hmac.compare_digest(given.encode("latin-1"), key.encode()) for key in self._keys]  # all, so that time tells nothing
        return any(matches)
