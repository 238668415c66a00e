"""One host process: the host, and whatever else lives in it: the HTTP gateway, durable calls.

Decides in which order they start and end. Calls from outside are taken once the app is loaded, and
not any more before anything of this process is closed: first the gateway stops taking requests,
then what runs gets its time, then workers end. Does not know what any of them does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.functions.runtime.host import Host, Watcher
from bokilog.functions.runtime.process_settings import HostSettings

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
    """As `run`, with somebody who watches.

    Raises:
        InvalidSettings: the app cannot be loaded, and nobody watches its files.
    """
    host = Host(settings.host, watcher=watcher)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(host.aclose)
        await host.begin()
        ready()
        stack.push_async_callback(host.drain)
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, host.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        host.refuse_calls()
    if host.bug is not None:
        raise host.bug
