"""A gateway on a free port of the loopback, over a log in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

import bokilog
from bokilog.client.admin import ClientLog
from bokilog.functions.gateway.server import Gateway
from bokilog.functions.gateway.settings import GatewaySettings
from tests.unit.functions.gateway.fake_runner import Answer, FakeRunner


class Served:
    """What a test of the gateway has at hand."""

    def __init__(
        self, gateway: Gateway, http: aiohttp.ClientSession, log: ClientLog, runner: FakeRunner
    ) -> None:
        self.gateway = gateway
        self.http = http
        self.log = log
        self.runner = runner


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def serve_gateway(
    answers: dict[str, Answer] | None = None, **settings: float
) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(bokilog.open())
        runner = FakeRunner(answers or {})
        gateway = await Gateway.start(
            runner,
            log,
            app="shop",
            settings=GatewaySettings(http_port=0, **settings),  # type: ignore[arg-type]
        )
        stack.push_async_callback(gateway.aclose)
        http = await stack.enter_async_context(aiohttp.ClientSession(gateway.url))
        yield Served(gateway, http, log, runner)


@pytest.fixture
def serve() -> Serve:
    return serve_gateway
