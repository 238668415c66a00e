"""A closed loop of HTTP requests, one connection per request under way, as lean as Python allows.

Decides nothing about what is measured: the same bytes are sent again and again, and each answer has
to be a 200 of a known length. A library's client would take longer than the server it measures.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

from bokilog.bench.load import Load, summary

BODY: Final = b'{"x": 1}'
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class _Connection(asyncio.Protocol):
    """Sends the next request once the answer to the last one is here."""

    def __init__(self, request: bytes, until_s: float) -> None:
        self.latencies_s: list[float] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until_s = until_s
        self._sent_s = 0.0
        self._got = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first one."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's derive from nothing
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count the answer once it is whole."""
        self._got += data
        end = self._got.find(_END)
        if end < 0:
            return
        head = self._got[:end].lower()
        length = int(head[head.index(_LENGTH) + len(_LENGTH) :].split(b"\r\n", 1)[0])
        if len(self._got) < end + len(_END) + length:
            return
        now_s = perf_counter()
        if not head.startswith(b"http/1.1 200"):
            self._end(ValueError(self._got.decode(errors="replace")))
            return
        self._got = b""
        self.latencies_s.append(now_s - self._sent_s)
        if now_s < self._until_s:
            self._send()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Too early, if it was not over."""
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_s = perf_counter()
        self._transport.write(self._request)

    def _end(self, error: Exception | None) -> None:
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
        assert self._transport is not None
        self._transport.close()


async def http_load(port: int, path: str, *, outstanding: int, seconds: float) -> Load:
    """POST for so long, over so many connections."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    loop = asyncio.get_running_loop()
    started_s = perf_counter()
    until_s = started_s + seconds
    made = await asyncio.gather(
        *(
            loop.create_connection(lambda: _Connection(request, until_s), "127.0.0.1", port)
            for _ in range(outstanding)
        )
    )
    connections = [connection for _, connection in made]
    await asyncio.gather(*(connection.over for connection in connections))
    took_s = perf_counter() - started_s
    return summary([each for one in connections for each in one.latencies_s], took_s)
