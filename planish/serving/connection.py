"""A connection that is not held open for a client that sends nothing, and not cut off under one that has just sent a request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import CLOSE_HEADER

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Protocol  # httptools' where it is installed

HEAD_S = 10.0  # for the whole head of a request; bodies are timed by the application
_LAST_S = 0.5  # for a request that is on its way when the service stops


class Connection(Protocol):
    """uvicorn's, which would wait for ever for a head that never begins or never ends."""

    _waiting: asyncio.TimerHandle | None = None
    _stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_S)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._stopping and not self._idle():
            self._close_after_answer()

    def on_response_complete(self) -> None:
        self._wait(self.timeout_keep_alive + HEAD_S)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._waiting is not None:
            self._waiting.cancel()

    def shutdown(self) -> None:
        self._stopping = True
        if self._idle():
            self._wait(_LAST_S)
        else:
            self._close_after_answer()

    def _close_after_answer(self) -> None:
        self.cycle.keep_alive = False
        self.cycle.scope["headers"] = [*self.cycle.scope["headers"], CLOSE_HEADER]  # which makes the answer say it, too

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self, seconds: float) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self.transport.is_closing():
            return
        self._waiting = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self._idle():
            self.timeout_keep_alive_handler()
