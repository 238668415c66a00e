"""The other end of a round trip: a process that answers each message at once.

Two kinds: blocking sockets over TCP, as in the reference figures of other systems, and an event
loop over a unix socket, which is the least that a client and a node of ours could cost.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from bokilog.bench.orders import Order, Outcome
from bokilog.bench.serve import Handler, serve

REQUEST_BYTES: Final = 100
_BACKLOG: Final = 8


class Answer(asyncio.Protocol):
    """Answers each request, of `REQUEST_BYTES`, with so many bytes."""

    def __init__(self, size_bytes: int) -> None:
        self._answer = bytes(size_bytes)
        self._transport: asyncio.Transport | None = None
        self._left_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        # uvloop's transports have the methods of `asyncio.Transport` without deriving from it.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        count, self._left_bytes = divmod(self._left_bytes + len(data), REQUEST_BYTES)
        assert self._transport is not None
        self._transport.write(self._answer * count)


def handlers(stack: AsyncExitStack) -> Mapping[str, Handler]:
    """Start answering; the outcome's place is where."""

    async def tcp(order: Order) -> Outcome:
        listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        stack.callback(listening.close)
        threading.Thread(target=_echo, args=(listening,), daemon=True).start()
        return Outcome(place=str(listening.getsockname()[1]))

    async def unix(order: Order) -> Outcome:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Answer(order.size_bytes), order.place)
        stack.callback(server.close)
        return Outcome(place=order.place)

    return {"tcp": tcp, "unix": unix}


def _echo(listening: socket.socket) -> None:
    """One connection after the other: whatever comes goes back."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(1 << 16):
                connection.sendall(data)


if __name__ == "__main__":
    sys.exit(serve(handlers))
