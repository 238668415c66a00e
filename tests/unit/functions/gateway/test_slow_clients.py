"""Clients that send or read too slowly do not hold anything for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from bokilog.functions.gateway.events import ServerEvent, send_events
from bokilog.functions.gateway.settings import GatewaySettings
from tests.unit.functions.gateway.conftest import Serve

pytestmark = pytest.mark.asyncio


async def test_a_body_that_does_not_come_is_answered_408(serve: Serve) -> None:
    async with serve(body_timeout_s=0.01) as served:
        where = urlsplit(served.gateway.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = b"POST /f/price HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
        writer.write(head + b"{")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert served.runner.started == [], "the function was not troubled with it"


async def test_a_client_that_reads_nothing_of_a_stream_loses_it() -> None:
    ended = asyncio.Event()

    async def events() -> AsyncGenerator[ServerEvent, None]:
        try:
            while True:
                yield ServerEvent("x" * 100_000)
        finally:
            ended.set()

    async def follow(request: web.Request) -> web.StreamResponse:
        settings = GatewaySettings(send_timeout_s=0.01)
        return await send_events(
            request,
            events(),
            settings=settings,
            stopping=asyncio.Event(),
        )

    served = web.Application()
    served.router.add_get("/", follow)
    runner = web.AppRunner(served, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.timeout(5):
        await ended.wait()
    writer.transport.abort()
    await runner.cleanup()
