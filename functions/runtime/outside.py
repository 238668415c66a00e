"""Calls from programs outside of function nodes: `app.connect(url)`.

Decides which host is dialled: the one named, or any that the log says is there, another one when it
is lost or says that it leaves. Calls that were under way with a lost host fail as `WorkerLost`,
since nobody knows what became of them; later ones wait for the next host, within their timeout.

Invariants: nothing is sent before the host's greeting; whatever is closed leaves no task and no
socket behind. Does not know: what calls carry.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Generator
from types import TracebackType
from typing import Final, Protocol, Self

from bokilog.client.admin import ClientLog
from bokilog.client.connect import addresses_of, connect
from bokilog.errors import BokilogError, NodeUnreachable, RemoteProtocolError
from bokilog.framing import WireMessage
from bokilog.functions.runtime.caller import HostCalls
from bokilog.functions.runtime.context import Place
from bokilog.functions.runtime.membership import hosts_of, reachable
from bokilog.functions.runtime.messages import (
    CALLS_VERSION,
    CallMessage,
    Done,
    FunctionRows,
    Greeted,
    Greeting,
    Item,
    Leaving,
    decode,
    encode,
)
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.process_caller import ProcessCaller
from bokilog.io.link import Link, LinkCallbacks, Loss
from bokilog.io.transport import dial, redial_delay_s

CONNECT_TIMEOUT_S: Final = 10.0
GREETING_TIMEOUT_S: Final = 5.0


class Connectable(Protocol):
    """What this needs of an app."""

    name: str
    connection: ProcessCaller | None


class AppConnection:
    """An app's connection to its function nodes: await it, or enter it as an async context manager.

    Args:
        app: whose calls it carries from now on.
        url: of the log, which knows the hosts; None: there is none, or `$BOKILOG_URL`.
        host: the address of one host, as a URL; None: any that the log knows.
        connect_timeout_s: how long to try for a first answer.
    """

    __slots__ = (
        "_app",
        "_before",
        "_caller",
        "_errors",
        "_functions",
        "_greeted",
        "_host_url",
        "_keeper",
        "_link",
        "_log",
        "_place",
        "_timeout_s",
        "_url",
    )

    def __init__(
        self, app: Connectable, *, url: str | None, host: str | None, connect_timeout_s: float
    ) -> None:
        self._app = app
        self._url = url
        self._host_url = host
        self._timeout_s = connect_timeout_s
        self._log: ClientLog | None = None
        self._link: Link | None = None
        self._greeted: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._errors: dict[str, str] = {}
        self._functions: FunctionRows = []
        self._place: Place | None = None
        self._caller: ProcessCaller | None = None
        self._before: ProcessCaller | None = None

    @property
    def log(self) -> ClientLog:
        """The log that the hosts were found in; its own session sees what calls have done.

        Raises:
            NodeUnreachable: the connection was made by `host=` alone.
        """
        if self._log is None:
            raise NodeUnreachable("the log", "only a host was given, no url")
        return self._log

    @property
    def host(self) -> str:
        """The name of the host that calls go to now; empty while there is none."""
        return self._place.host if self._place is not None else ""

    def timeout_s_of(self, function: str) -> float | None:
        """How long a call may take, as the host has the function; None: it has no such one."""
        for name, options, *_ in self._functions:
            if name == function and isinstance(options, dict):
                return FunctionOptions.from_plain(options).timeout_s
        return None

    # --- opening and closing ---

    def __await__(self) -> Generator[object, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the connection; calls that are under way fail. Again it does nothing."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        if self._app.connection is self._caller:
            self._app.connection = self._before
        keeper.cancel()
        await asyncio.wait([keeper])
        if self._link is not None:
            await self._link.aclose()
        if self._place is not None:
            self._place.calls.lost("the app's connection was closed")
        if self._log is not None:
            await self._log.aclose()

    async def _open(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._host_url is None or self._url is not None:
            self._log = await connect(self._url, connect_timeout_s=self._timeout_s)
        calls = HostCalls(self._send, loop)
        calls.up = False
        self._place = Place(
            app=self._app.name, host="", calls=calls, loop=loop, open_log=None, log=self._log
        )
        self._caller = ProcessCaller(self._place, known=frozenset())
        self._keeper = loop.create_task(self._keep_connected(), name="app-connection")
        self._before, self._app.connection = self._app.connection, self._caller
        try:
            await calls.wait_up(self._timeout_s)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, NodeUnreachable):
                raise NodeUnreachable(f"app {self._app.name!r}", self._why()) from None
            raise
        return self

    def _why(self) -> str:
        if self._errors:
            return "; ".join(self._errors.values())
        return (
            f"no host of it is in the log: start one with `bokilog serve MODULE:{self._app.name}`"
        )

    # --- hosts ---

    async def _keep_connected(self) -> None:
        failures = 0
        callbacks = LinkCallbacks(
            on_messages=self._on_messages, on_up=self._on_up, on_lost=self._on_lost
        )
        while True:
            for address in await self._addresses():
                try:
                    link = await self._greeted_link(address, callbacks)
                except BokilogError as error:
                    self._errors[address] = str(error)
                else:
                    failures = 0
                    self._errors.clear()
                    await link.wait_gone()
                    self._errors[address] = f"{address}: the connection ended"
            await asyncio.sleep(redial_delay_s(failures, random.random()))
            failures += 1

    async def _greeted_link(self, address: str, callbacks: LinkCallbacks) -> Link:
        self._greeted = asyncio.get_running_loop().create_future()
        link = await dial(address, callbacks)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                await self._greeted
        except TimeoutError:
            link.abort(Loss.SILENT)
            problem = f"it did not greet within {GREETING_TIMEOUT_S} s"
            raise NodeUnreachable(address, problem) from None
        return link

    async def _addresses(self) -> list[str]:
        if self._host_url is not None:
            return addresses_of(self._host_url)
        assert self._log is not None
        try:
            hosts = await hosts_of(self._log, self._app.name)
        except BokilogError as error:
            self._errors["log"] = f"the log: {error}"
            return []
        self._errors.pop("log", None)
        found = [address for address in map(reachable, hosts) if address]
        # Those of this machine first; among others any, so that callers spread over hosts.
        random.shuffle(found)
        return sorted(found, key=lambda address: not address.startswith("unix:"))

    def _on_up(self, link: Link) -> None:
        self._link = link
        said = Greeting(CALLS_VERSION, "caller", f"pid {os.getpid()}", self._app.name, 0)
        link.send(*encode(said))

    def _on_messages(self, link: Link, messages: list[WireMessage]) -> None:
        assert self._place is not None
        for wire in messages:
            message = decode(wire)
            if isinstance(message, Done):
                self._place.calls.on_done(message)
            elif isinstance(message, Item):
                self._place.calls.on_item(message)
            elif isinstance(message, Greeted):
                self._on_greeted(message)
            elif isinstance(message, Leaving):
                self._place.calls.up = False  # calls wait for the next host, as after a loss
                link.send(*encode(Leaving("")))
            else:
                raise RemoteProtocolError(f"a host said {type(message).__name__} to a caller")

    def _on_greeted(self, greeted: Greeted) -> None:
        assert self._place is not None and self._caller is not None
        if greeted.app != self._app.name:
            problem = f"the host runs app {greeted.app!r}, not {self._app.name!r}"
            raise RemoteProtocolError(problem)
        self._place.host = greeted.host
        self._functions = greeted.functions
        self._caller.known = frozenset(str(row[0]) for row in greeted.functions)
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(None)
        self._place.calls.came_up()

    def _on_lost(self, link: Link, error: Exception | None) -> None:
        assert self._place is not None
        self._link = None
        reason = f"the connection to host {self._place.host!r} ended"
        self._place.calls.lost(f"{reason}: {error}" if error is not None else reason)
        self._place.calls.up = False
        if self._greeted is not None and not self._greeted.done():
            why = str(error) if error is not None else "it closed the connection"
            self._greeted.set_exception(NodeUnreachable(link.remote, why))

    def _send(self, message: CallMessage) -> bool:
        return self._link is not None and self._link.send(*encode(message))
