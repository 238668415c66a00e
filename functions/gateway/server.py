"""The HTTP server of a host: which paths there are, when it listens, how it stops.

Decides nothing about what is behind the paths (`calls.py`, `log_api.py`). A stop lets answers that
are on their way go out, ends streams (their clients come back to their place at another gateway),
and takes no new requests meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, Self

from aiohttp import web

from bokilog.client.admin import ClientLog
from bokilog.errors import InvalidSettings
from bokilog.functions.gateway.calls import CallApi
from bokilog.functions.gateway.log_api import LogApi
from bokilog.functions.gateway.problems import of_request
from bokilog.functions.gateway.requests import Handler, answer_json, answer_problem, guarded
from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.functions.runtime.runner import CallRunner

_IDLE_S: Final = 75.0  # of a connection between two requests


class Gateway:
    """An HTTP server on this machine's loopback; made by `start`, ended by `aclose`."""

    def __init__(self, runner: web.AppRunner, stopping: asyncio.Event) -> None:
        self._runner = runner
        self._stopping = stopping

    @classmethod
    async def start(
        cls,
        runner: CallRunner,
        log: ClientLog,
        *,
        app: str,
        settings: GatewaySettings,
        metrics: Callable[[], bytes] | None = None,
    ) -> Self:
        """Serve from now on.

        Args:
            runner: who runs calls.
            log: what `/books` and durable calls are on.
            app: name of the app.
            settings: where to listen, and every bound.
            metrics: gives the text of `/metrics`, as Prometheus reads it.

        Raises:
            InvalidSettings: another process listens there.
        """
        stopping = asyncio.Event()
        served = web.Application(client_max_size=settings.body_bytes_max)
        calls = CallApi(runner, log, app=app, settings=settings, stopping=stopping)
        books = LogApi(log, settings, stopping)
        own = [("GET", "/", _home(app)), ("GET", "/healthz", _healthz)]
        if metrics is not None:
            own.append(("GET", "/metrics", _metrics(metrics)))
        for method, path, handler in [*own, *calls.routes(), *books.routes()]:
            served.router.add_route(method, path, guarded(handler, settings))
        served.router.add_route("*", "/{path:.*}", guarded(_unknown, settings))
        http = web.AppRunner(
            served,
            access_log=None,
            handler_cancellation=True,  # a client that goes has cancelled its call
            keepalive_timeout=_IDLE_S,
            shutdown_timeout=settings.drain_s,
        )
        await http.setup()
        site = web.TCPSite(http, settings.http_host, settings.http_port, backlog=1_024)
        try:
            await site.start()
        except OSError as error:
            await http.cleanup()
            if error.errno != errno.EADDRINUSE:
                raise
            problem = "is in use by another process: choose another one"
            raise InvalidSettings("http_port", str(settings.http_port), problem) from error
        return cls(http, stopping)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def aclose(self) -> None:
        """Answer what is on its way, end streams, and stop."""
        self._stopping.set()
        await self._runner.cleanup()


def _home(app: str) -> Handler:
    async def home(request: web.Request) -> web.StreamResponse:
        return answer_json(
            {
                "app": app,
                "functions": "/functions",
                "call": "POST /f/{name}",
                "books": "/books",
                "docs": "docs/http.md",
            }
        )

    return home


async def _healthz(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n")


def _metrics(text: Callable[[], bytes]) -> Handler:
    async def metrics(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text(), headers=headers)

    return metrics


async def _unknown(request: web.Request) -> web.StreamResponse:
    detail = f"nothing is at {request.method} {request.path}: GET / says what is there"
    return answer_problem(of_request(404, detail))
