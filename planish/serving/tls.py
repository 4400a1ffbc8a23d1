"""TLS, with a bound on the handshakes that are under way. asyncio's own server knows of a connection only when its handshake is done."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

MAX_HANDSHAKES = 128


class Handshakes:
    """Makes the protocol of each new connection. Where too many handshakes are under way, the oldest is given up for the new one.

    Args:
        loop: of the server.
        create: makes the protocol of a connection whose handshake is done.
        context: with the server's certificate.
        timeout_s: for one handshake.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, create: Callable[[], asyncio.Protocol], context: ssl.SSLContext, timeout_s: float
    ) -> None:
        self._loop, self._create, self._context, self._timeout_s = loop, create, context, timeout_s
        self._under_way: dict[asyncio.Task[None], asyncio.Transport] = {}  # the oldest first

    def __call__(self) -> asyncio.Protocol:
        return _Handshake(self._begin)

    def _begin(self, handshake: _Handshake, transport: asyncio.Transport) -> None:
        transport.pause_reading()  # until ``start_tls`` reads
        task = self._loop.create_task(self._shake(handshake, transport))
        self._under_way[task] = transport
        task.add_done_callback(self._under_way.pop)
        if len(self._under_way) > MAX_HANDSHAKES:
            next(iter(self._under_way.values())).abort()

    async def _shake(self, handshake: _Handshake, transport: asyncio.Transport) -> None:
        try:
            tls = await self._loop.start_tls(transport, handshake, self._context, server_side=True, ssl_handshake_timeout=self._timeout_s)
        except OSError:  # no TLS, given up, too slow
            transport.abort()
            return
        if tls is not None:
            protocol = self._create()
            tls.set_protocol(protocol)
            protocol.connection_made(tls)
            handshake.pass_on(protocol)


class _Handshake(asyncio.Protocol):
    """Keeps what comes right behind a handshake."""

    def __init__(self, begin: Callable[[_Handshake, asyncio.Transport], None]) -> None:
        self._begin, self._early = begin, bytearray()
        self._lost: tuple[Exception | None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._begin(self, cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = (exc,)

    def pass_on(self, protocol: asyncio.Protocol) -> None:
        """Give the connection's own protocol what has happened already."""
        if self._early:
            protocol.data_received(bytes(self._early))
        if self._lost is not None:
            protocol.connection_lost(*self._lost)
