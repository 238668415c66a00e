"""Server-sent events: one response that goes on, whose place a client can come back to.

Decides the bytes of an event and when a client has had its time. Every event with an `id` is a
place: a client that lost its connection says it as `Last-Event-ID` (browsers do so by themselves)
and gets what follows. A comment now and then keeps proxies from ending a quiet stream, and finds
out about clients that are gone. Does not know what the events are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

from bokilog.errors import BokilogError
from bokilog.functions.gateway.problems import of_error
from bokilog.functions.gateway.requests import refuse
from bokilog.functions.gateway.settings import GatewaySettings

KEEP_ALIVE_S: Final = 15.0
_SIGN_OF_LIFE: Final = b": still here\n\n"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # a proxy that gathers would hold events back
}


class ServerEvent(NamedTuple):
    """One event; its data may have several lines."""

    data: str
    id: str = ""
    event: str = ""


def event_bytes(event: ServerEvent) -> bytes:
    """As it goes over the wire."""
    lines = []
    if event.event:
        lines.append(f"event: {event.event}")
    if event.id:
        lines.append(f"id: {event.id}")
    # A carriage return ends a line of the format too; data that has one is JSON, which escapes it.
    lines += [f"data: {line}" for line in event.data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


def wants_events(request: web.Request) -> bool:
    """Whether the client asked for a stream of events."""
    return "text/event-stream" in request.headers.get("Accept", "")


def last_event(request: web.Request) -> int | None:
    """The place a client wants to go on after; None: the beginning."""
    said = request.headers.get("Last-Event-ID")
    if said is None or said == "":
        return None
    if not said.isascii() or not said.isdigit() or len(said) > 16:
        raise refuse(400, f"Last-Event-ID {said!r} is no place in this stream")
    return int(said)


async def send_events(
    request: web.Request,
    events: AsyncGenerator[ServerEvent, None],
    *,
    settings: GatewaySettings,
    stopping: asyncio.Event,
    headers: Mapping[str, str] = _NONE,
) -> web.StreamResponse:
    """Answer with events until they end, the client goes, is too slow, or the gateway stops.

    What fails before the first event is an answer of its own; later it is an event `problem`.
    """
    async with aclosing(events):
        following = _Following(events, stopping)
        try:
            sent = await following.next()
            response = web.StreamResponse(headers={**_HEADERS, **headers})
            try:
                await response.prepare(request)
                await _send(response, sent, following, settings)
                async with asyncio.timeout(settings.send_timeout_s):
                    await response.write_eof()
            except (TimeoutError, ConnectionError):
                pass  # it does not read, or is gone: it may come back to its place
        finally:
            await following.aclose()
    return response


async def _send(
    response: web.StreamResponse,
    sent: bytes | None,
    following: _Following,
    settings: GatewaySettings,
) -> None:
    while sent is not None:
        async with asyncio.timeout(settings.send_timeout_s):
            await response.write(sent)
        try:
            sent = await following.next()
        except BokilogError as error:
            problem = of_error(error, show_traces=settings.show_traces)
            told = ServerEvent(problem.body.decode(), event="problem")
            async with asyncio.timeout(settings.send_timeout_s):
                await response.write(event_bytes(told))
            return


class _Following:
    """The bytes to send next: an event, a sign of life, or None at the end."""

    def __init__(self, events: AsyncGenerator[ServerEvent, None], stopping: asyncio.Event) -> None:
        self._events = events
        self._stop = asyncio.ensure_future(stopping.wait())
        self._asked: asyncio.Task[ServerEvent] | None = None

    async def next(self) -> bytes | None:
        asked = self._asked or asyncio.ensure_future(_next(self._events))
        self._asked = asked
        waited = {asked, self._stop}
        await asyncio.wait(waited, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            return None if self._stop.done() else _SIGN_OF_LIFE
        self._asked = None
        try:
            return event_bytes(asked.result())
        except StopAsyncIteration:
            return None

    async def aclose(self) -> None:
        self._stop.cancel()
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait({self._asked})


async def _next(events: AsyncGenerator[ServerEvent, None]) -> ServerEvent:
    return await anext(events)
