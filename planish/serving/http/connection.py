"""A connection that limits what a client can make the server hold in memory, and for how long, before any key is checked.

uvicorn's httptools protocol has no limit on a request's head, and waits forever for a head that never begins or never ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, cast

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if sys.platform == "win32":
    from asyncio import ProactorEventLoop as EventLoop
else:
    from uvloop import Loop as EventLoop

HEAD_S = 10.0  # seconds for the whole head of a request, and for the TLS handshake before it; bodies have the application's timeout
SEND_S = 60.0  # seconds within which a client must receive what it is sent
_LAST_S = 0.5  # seconds for a request that is arriving when the service stops
MAX_HEAD = 32_768  # bytes of request line and headers; also of chunk extensions and trailers between two pieces of a body
MAX_HEADERS = 100
MAX_URL = 8_192
MAX_PIPELINED = 8  # pipelined requests that may wait on one connection
MAX_CONNECTIONS = 512


class _RefusedError(Exception):
    """Raised inside the parser to stop it."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits.

    A head that is too large is answered 431 or 414, and the connection is closed. If all connections are in use, a new one replaces the
    one whose client the server has been waiting for longest, so that slow or silent clients cannot keep others out.
    """

    _waiting: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None
    _stopping = False
    _since = 0.0  # time at which the server began to wait for this client's next request
    _unparsed = 0  # bytes received since the last piece of a body or the last complete head
    _refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_S)
        if len(self.connections) > MAX_CONNECTIONS:
            others = [one for one in self.connections if isinstance(one, Connection) and one._waits_for_client()]
            min(others, key=lambda one: one._since).transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            self._refusal = 431, f"a request's head may have {MAX_HEAD} bytes"
            self.send_400_response("")
        if self._stopping and not self._idle():
            self._close_after_answer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._refuse(414, f"a request's address may have {MAX_URL} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:  # includes trailers
            self._refuse(431, f"a request may have {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD:
            self._refuse(431, f"a request's head may have {MAX_HEAD} bytes")
        self._unparsed = 0
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self._refuse(429, f"{MAX_PIPELINED} requests may wait on a connection")

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        status, message = self._refusal or (400, msg)
        if self._idle():  # otherwise this response would be mixed into the one being sent
            content = json.dumps({"error": message}).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
        self.transport.close()
        self._wait(HEAD_S)

    def on_response_complete(self) -> None:
        self._wait(self.timeout_keep_alive + HEAD_S)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._sending = self.loop.call_later(SEND_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_timer(self._sending)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer(self._waiting)
        self._stop_timer(self._sending)

    def shutdown(self) -> None:
        self._stopping = True
        if self._idle():
            self._wait(_LAST_S)
        else:
            self._close_after_answer()

    def _close_after_answer(self) -> None:
        self.cycle.keep_alive = False
        self.cycle.scope["headers"] = [*self.cycle.scope["headers"], CLOSE_HEADER]  # so that the response has "Connection: close" as well

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = status, message
        raise _RefusedError(message)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _waits_for_client(self) -> bool:
        return self._idle() or self.cycle.more_body

    def _wait(self, seconds: float) -> None:
        self._stop_timer(self._waiting)
        self._since = self.loop.time()
        self._waiting = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self.transport.is_closing() or self.transport.get_write_buffer_size():  # the client does not receive the rest
            self.transport.abort()
        elif self._idle():
            self.transport.close()

    @staticmethod
    def _stop_timer(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class Loop(EventLoop):
    """uvicorn's event loop, with a timeout for the TLS handshake: by default a client may take one minute."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HEAD_S
        return cast(asyncio.Server, await super().create_server(*args, **options))
