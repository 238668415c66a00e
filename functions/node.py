"""One host process: the host, and whatever else lives in it: the HTTP gateway, durable calls.

Decides in which order they start and end. Calls from outside are taken once the app is loaded, and
not any more before anything of this process is closed: its HTTP port is taken first, since one in
use ought to be known before an app is loaded; at the end first the gateway stops taking requests,
then what runs gets its time, then workers end. Does not know what any of them does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from bokilog.errors import NotReady
from bokilog.functions.calls.node import DurableCalls
from bokilog.functions.gateway.server import Gateway, reserve
from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.functions.host_metrics import host_text
from bokilog.functions.runtime.host import Host
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.shown import Watcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionNodeSettings:
    """All of one host process."""

    host: HostSettings
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    http: bool = True
    """Whether it has a gateway."""


async def run(
    settings: FunctionNodeSettings, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """One host process, from its first listener to its graceful stop."""
    await serve(settings, ready, stop)


async def serve(
    settings: FunctionNodeSettings,
    ready: Callable[[], None],
    stop: asyncio.Event,
    *,
    watcher: Watcher | None = None,
) -> None:
    """As `run`, with somebody who watches. If cancelled, nothing that runs gets any more time.

    Raises:
        InvalidSettings: the HTTP port is in use, or the app cannot be loaded and nobody watches
            its files.
    """
    reserved = reserve(settings.gateway) if settings.http else []
    host = Host(settings.host, watcher=watcher)
    parts = _Parts(host, settings, reserved)
    in_a_hurry = False
    try:
        if not await _begun(host, stop):
            return
        tasks = [asyncio.create_task(event.wait()) for event in (stop, host.ended)]
        living = asyncio.create_task(parts.live(), name="parts of the host")
        try:
            if host.app:  # else it is being mended, and they start once it is
                await parts.settled.wait()
            if not living.done():
                ready()
                await asyncio.wait([living, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (living, *tasks):
                task.cancel()
            await asyncio.wait([living])
        if not living.cancelled():
            living.result()
        host.say_that_it_stops()
        await parts.aclose()
        await host.drain()
    except asyncio.CancelledError:
        in_a_hurry = True
        raise
    finally:
        await (parts.abandon() if in_a_hurry else parts.aclose())
        await host.aclose(at_once=in_a_hurry)
        for each in reserved:
            each.close()
    if host.bug is not None:
        raise host.bug


async def _begun(host: Host, stop: asyncio.Event) -> bool:
    """Whether the host has begun; it is told to stop meanwhile where loading the app hangs."""
    beginning = asyncio.create_task(host.begin(), name="host begins")
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([beginning, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not beginning.done():
            beginning.cancel()
            await asyncio.wait([beginning])
    if beginning.cancelled():
        return False
    beginning.result()
    return True


class _Parts:
    """What stands upon the host in its process."""

    def __init__(
        self, host: Host, settings: FunctionNodeSettings, reserved: list[socket.socket]
    ) -> None:
        self._host = host
        self._reserved = reserved
        self._settings = settings
        self._gateway: Gateway | None = None
        self._durable: DurableCalls | None = None
        self.settled = asyncio.Event()
        """They have started, or failed to."""

    async def live(self) -> None:
        """From the time when the app is loaded first, until one of them cannot go on.

        Raises:
            BokilogError: why it cannot.
        """
        try:
            await self._start()
        finally:
            self.settled.set()
        durable = self._durable
        assert durable is not None
        await durable.ended.wait()
        raise durable.error or NotReady("durable calls have ended")

    async def _start(self) -> None:
        host, settings = self._host, self._settings
        await host.joined.wait()
        assert host.log is not None
        self._durable = durable = DurableCalls(
            host.log, host.app, host.calls, settings.host.node_id
        )
        host.peers_changed = self._tell_hosts
        host.functions_changed = durable.functions_changed
        self._tell_hosts()
        await durable.start()
        if settings.http:
            self._gateway = await Gateway.start(
                host.calls,
                host.log,
                app=host.app,
                settings=settings.gateway,
                reserved=self._reserved,
                metrics=host_text(node=settings.host.node_id, app=host.app, stats=host.stats),
            )
            logger.info("HTTP at %s", self._gateway.url)

    def _tell_hosts(self) -> None:
        if self._durable is not None:
            up = [name for name, answers in self._host.peers().items() if answers]
            self._durable.set_hosts([self._settings.host.node_id, *up])

    async def aclose(self) -> None:
        """The gateway first: nothing new comes in; then durable calls are given up in order."""
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            await gateway.aclose()
        if self._durable is not None and not self._durable.ended.is_set():
            await self._durable.aclose(self._settings.host.drain_calls_s)

    async def abandon(self) -> None:
        """The same without any patience: requests over HTTP end with the process's connections."""
        if self._durable is not None:
            await self._durable.abandon()
