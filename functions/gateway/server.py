"""The HTTP server of a host: which paths there are, when it listens, how it stops.

Decides nothing about what is behind the paths (`calls.py`, `log_api.py`). A stop lets answers that
are on their way go out, ends streams (their clients come back to their place at another gateway),
and takes no new requests meanwhile. Its port is taken before anything else of the process is
started (`reserve`), so that one in use is told at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final, Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from bokilog.client.admin import ClientLog
from bokilog.errors import InvalidSettings
from bokilog.functions.gateway.calls import CallApi
from bokilog.functions.gateway.log_api import LogApi
from bokilog.functions.gateway.problems import of_request
from bokilog.functions.gateway.requests import Handler, answer_json, answer_problem, guarded
from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.functions.runtime.runner import CallRunner

_IDLE_S: Final = 75.0  # of a connection between two requests
_BACKLOG: Final = 1_024
_TELL_S: Final = 2.0  # callers whose calls were given up have so long to be told
_log = logging.getLogger(__name__)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it tells of a failure of this process; bytes that are no HTTP are the client's."""
    theirs = HttpProcessingError, web.RequestPayloadError
    return not (record.exc_info and isinstance(record.exc_info[1], theirs))


_log.addFilter(_is_ours)


def reserve(settings: GatewaySettings) -> list[socket.socket]:
    """Sockets that have the gateway's port, and do not listen yet.

    Raises:
        InvalidSettings: another process has it.
    """
    host, port = settings.http_host.strip("[]"), settings.http_port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    reserved: list[socket.socket] = []
    try:
        # A name may have an address of each family: they get one port.
        for family, kind, protocol, _, name in dict.fromkeys(found):
            try:
                bound = socket.socket(family, kind, protocol)
            except OSError:
                continue  # a family that this machine does not have
            reserved.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setblocking(False)
            bound.bind((name[0], reserved[0].getsockname()[1] or port, *name[2:]))
    except OSError as error:
        for each in reserved:
            each.close()
        raise _unusable(settings, error) from error
    return reserved


def _unusable(settings: GatewaySettings, error: OSError) -> InvalidSettings:
    problem = f"cannot be listened on ({error.strerror or error}): choose another one"
    if error.errno == errno.EADDRINUSE:
        problem = "is in use by another process: choose another one"
    return InvalidSettings("http_port", str(settings.http_port), problem)


class Gateway:
    """An HTTP server on this machine's loopback; made by `start`, ended by `aclose`."""

    def __init__(
        self, runner: web.AppRunner, calls: CallApi, stopping: asyncio.Event, drain_s: float
    ) -> None:
        self._runner = runner
        self._calls = calls
        self._stopping = stopping
        self._drain_s = drain_s

    @classmethod
    async def start(
        cls,
        runner: CallRunner,
        log: ClientLog,
        *,
        app: str,
        settings: GatewaySettings,
        reserved: Sequence[socket.socket] | None = None,
        metrics: Callable[[], bytes] | None = None,
    ) -> Self:
        """Serve from now on.

        Args:
            runner: who runs calls.
            log: what `/books` and durable calls are on.
            app: name of the app.
            settings: where to listen, and every bound.
            reserved: what `reserve` gave for them; None: it is done now.
            metrics: gives the text of `/metrics`, as Prometheus reads it.

        Raises:
            InvalidSettings: another process listens there.
        """
        bound = reserve(settings) if reserved is None else reserved
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
            logger=_log,
            handler_cancellation=True,  # a client that goes has cancelled its call
            keepalive_timeout=_IDLE_S,
            shutdown_timeout=settings.drain_s + _TELL_S,
        )
        await http.setup()
        try:
            for each in bound:
                each.listen(_BACKLOG)  # uvloop would not say that another process does
                await web.SockSite(http, each, backlog=_BACKLOG).start()
        except OSError as error:  # another process has reserved it too, and listened first
            await http.cleanup()
            raise _unusable(settings, error) from error
        return cls(http, calls, stopping, settings.drain_s)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def aclose(self) -> None:
        """Answer what is on its way, end streams, and stop."""
        self._stopping.set()
        closing = asyncio.create_task(self._runner.cleanup(), name="the gateway closes")
        try:
            await asyncio.wait([closing], timeout=self._drain_s)
            self._calls.give_up()
            await closing
        finally:
            closing.cancel()


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
    methods: set[str] = set()
    for resource in request.app.router.resources():
        methods |= (await resource.resolve(request))[1]
    if allowed := ", ".join(sorted(methods - {"*"})):
        detail = f"{request.path} takes {allowed}, and not {request.method}"
        answer = answer_problem(of_request(405, detail))
        answer.headers["Allow"] = allowed
        return answer
    detail = f"nothing is at {request.method} {request.path}: GET / says what is there"
    return answer_problem(of_request(404, detail))
