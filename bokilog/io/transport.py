"""Connections between processes, over TCP and unix sockets: listening, dialling, dialling again.

Decides when a lost connection is dialled again. Each of these owns what it starts:

- `Link` (`link.py`): one connection, made by `dial` or accepted by a `Listener`.
- `Listener`: a bound address and the links it accepted.
- `Peer`: an outgoing connection that is dialled again, with back-off, until it is closed.

Invariants: a link that `dial` returns was up; a peer's ups and downs alternate; whatever is closed
leaves no task, no socket and no socket file behind.

Does not know: what messages mean, terms, nodes. Bulk traffic gets a link of its own by its owner
dialling twice, so that heartbeats and cuts never wait behind it (P32).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bokilog.errors import BokilogError, NodeUnreachable
from bokilog.framing import WireMessage
from bokilog.io.addresses import (
    TcpAddress,
    UnixAddress,
    connect_unix,
    file_identity,
    in_use,
    listen_unix,
    parse_address,
    remove_if_same,
)
from bokilog.io.link import (
    CLOSE_TIMEOUT_S,
    DEFAULT_SETTINGS,
    Ledger,
    Link,
    LinkCallbacks,
    LinkSettings,
    LinkStats,
    Loss,
)
from bokilog.record import Buffer

__all__ = [
    "Link",
    "LinkCallbacks",
    "LinkSettings",
    "LinkStats",
    "Listener",
    "ListenerStats",
    "Loss",
    "Peer",
    "PeerCallbacks",
    "PeerStats",
    "dial",
    "listen",
    "redial_delay_s",
]

BACKLOG: Final = 1_024
DIAL_TIMEOUT_S: Final = 5.0
_BUSY_DELAY_S: Final = 0.005  # between tries while a listener's queue is full


# --- making links ---------------------------------------------------------------------------------


async def dial(
    address: str,
    callbacks: LinkCallbacks,
    *,
    settings: LinkSettings = DEFAULT_SETTINGS,
    timeout_s: float = DIAL_TIMEOUT_S,
) -> Link:
    """A link to `address` that is up: something that speaks our version answered there.

    `on_up`, and `on_messages` for what came with the preamble, may be called before this returns.
    If cancelled, there is no connection.

    Raises:
        NodeUnreachable: nobody listens there, or nobody answered within `timeout_s`.
        RemoteProtocolError: something else than bokilog answered.
        FormatTooNew: a later version answered.
        InvalidSettings: `address` is none.
    """
    return await _dial(address, callbacks, settings=settings, timeout_s=timeout_s, ledger=Ledger())


async def _dial(
    address: str,
    callbacks: LinkCallbacks,
    *,
    settings: LinkSettings,
    timeout_s: float,
    ledger: Ledger,
) -> Link:
    parsed = parse_address(address)
    link = Link(callbacks, settings=settings, remote=address, ledger=ledger)
    try:
        async with asyncio.timeout(timeout_s):
            await _connect(parsed, link)
            if await link.wait_up():
                return link
    except TimeoutError:
        link.abort(Loss.SILENT)
        raise NodeUnreachable(address, f"no answer within {timeout_s} s") from None
    except OSError as error:
        raise NodeUnreachable(address, error.strerror or str(error)) from error
    except asyncio.CancelledError:
        link.abort()
        raise
    if isinstance(link.error, BokilogError):
        raise link.error
    raise NodeUnreachable(address, str(link.error or "it closed the connection at once"))


async def _connect(address: TcpAddress | UnixAddress, link: Link) -> None:
    try:
        await _make_connection(address, link)
    except BaseException:
        # uvloop closes a connection whose making was cancelled, and does not tell its protocol.
        link.abandon()
        raise


async def _make_connection(address: TcpAddress | UnixAddress, link: Link) -> None:
    loop = asyncio.get_running_loop()
    if isinstance(address, TcpAddress):
        await loop.create_connection(lambda: link, address.host, address.port)
        return
    connected: socket.socket | None = None
    while connected is None:  # until the deadline of `dial`
        try:
            connected = connect_unix(address.path)
        except BlockingIOError:
            # Unlike TCP, a unix socket does not report when the listener's queue has room.
            await asyncio.sleep(_BUSY_DELAY_S)
    transport, _ = await loop.create_unix_connection(lambda: link, sock=connected)
    if transport.is_closing() and not isinstance(loop, asyncio.BaseEventLoop):
        # uvloop has closed the descriptor already and forgets to say so to the socket, which would
        # close it once more when nobody refers to it: by then it may be another connection's.
        connected.detach()


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """What a listener has accepted and lost so far."""

    open_links: int
    losses: Mapping[Loss, int]
    """Ended connections by reason, including those that never came up."""


class Listener:
    """A bound address and the links accepted there. Made by `listen`."""

    __slots__ = ("_file", "_ledger", "_server", "address")

    def __init__(
        self,
        address: str,
        *,
        server: asyncio.AbstractServer,
        ledger: Ledger,
        file: tuple[str, tuple[int, int] | None] | None,
    ) -> None:
        self.address = address
        """Where to dial: the address asked for, with the real port."""
        self._server = server
        self._ledger = ledger
        self._file = file  # the socket file that is ours to remove, and its identity

    def stats(self) -> ListenerStats:
        """Counts so far; they stay after the end."""
        return ListenerStats(open_links=len(self._ledger.links), losses=dict(self._ledger.losses))

    async def aclose(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Stop accepting, close all links, remove the socket file.

        If cancelled, links that are still open are aborted.
        """
        self._ledger.closing = True
        if self._file is not None:
            remove_if_same(*self._file)
            self._file = None
        self._server.close()
        await asyncio.gather(*(link.aclose(timeout_s) for link in tuple(self._ledger.links)))
        await self._server.wait_closed()


async def listen(
    address: str, callbacks: LinkCallbacks, *, settings: LinkSettings = DEFAULT_SETTINGS
) -> Listener:
    """Listen at `address`; `callbacks` are those of every link accepted there.

    The file of a unix socket whose process died is replaced.

    Raises:
        OSError: the address is in use (EADDRINUSE), or this process may not listen there.
        InvalidSettings: `address` is none.
    """
    parsed = parse_address(address)
    ledger = Ledger()
    loop = asyncio.get_running_loop()

    def accept() -> Link:
        return Link(callbacks, settings=settings, remote=address, ledger=ledger)

    server: asyncio.AbstractServer
    if isinstance(parsed, UnixAddress):
        bound = listen_unix(parsed.path, backlog=BACKLOG)
        server = await loop.create_unix_server(accept, sock=bound, backlog=BACKLOG)
        file = (parsed.path, file_identity(parsed.path))
        return Listener(address, server=server, ledger=ledger, file=file)
    bound = await _listen_tcp(parsed)
    real = str(TcpAddress(parsed.host, bound.getsockname()[1]))
    server = await loop.create_server(accept, sock=bound, backlog=BACKLOG)
    return Listener(real, server=server, ledger=ledger, file=None)


async def _listen_tcp(address: TcpAddress) -> socket.socket:
    # One socket, although a name may have several addresses: with port 0 each would get its own.
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise _refused(address, error) from error
    family, kind, protocol, _, name = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        # A restarted node gets its port back although its old connections linger.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(name)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise in_use(str(address)) from error
        raise _refused(address, error) from error
    return bound


def _refused(address: TcpAddress, error: OSError) -> OSError:
    """The same error, which says where nobody may listen."""
    return type(error)(error.errno, f"{address} cannot be listened on: {error.strerror}")


# --- peers ----------------------------------------------------------------------------------------

REDIAL_DELAY_S_MIN: Final = 0.02
REDIAL_DELAY_S_MAX: Final = 1.0
STEADY_S: Final = 1.0  # a link that stood this long was no accident: the back-off starts anew


def redial_delay_s(failures: int, jitter: float) -> float:
    """How long to wait after that many failures in a row, `jitter` being in [0, 1).

    Doubles from 0.02 s to 1 s; the jitter takes away up to half, so that the clients of a restarted
    node do not all come back at once.

    >>> [redial_delay_s(failures, 0.0) for failures in (0, 1, 2, 9)]
    [0.02, 0.04, 0.08, 1.0]
    """
    doubled = REDIAL_DELAY_S_MIN * 2.0 ** min(failures, 16)
    return min(doubled, REDIAL_DELAY_S_MAX) * (1.0 - jitter / 2.0)


def _ignore_peer(peer: Peer) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCallbacks:
    """What is called about a peer; as `LinkCallbacks`. Ups and downs alternate, an up first."""

    on_messages: Callable[[Peer, list[WireMessage]], None]
    on_up: Callable[[Peer], None] = _ignore_peer
    on_down: Callable[[Peer], None] = _ignore_peer
    on_clogged: Callable[[Peer], None] = _ignore_peer
    on_clear: Callable[[Peer], None] = _ignore_peer


@dataclass(frozen=True, slots=True)
class PeerStats:
    """What became of a peer's connections so far."""

    dials: int
    dials_failed: int
    refused: int
    """Sends while there was no connection, each of which returned False."""
    losses: Mapping[Loss, int]
    """Ended connections by reason, including those that never came up."""
    last_error: str | None
    """Why the last dial failed or the last connection broke; None if it has not yet happened."""
    link: LinkStats | None
    """The current connection."""


class Peer:
    """An outgoing connection that is dialled again until `aclose`.

    Every connection is a new one: what was sent on an earlier one may be lost, so whoever sends
    resumes by protocol at `on_up`.

    Args:
        jitter: gives floats in [0, 1), `random.random` in a process; spreads the redials.
    """

    __slots__ = (
        "_callbacks",
        "_closing",
        "_dial_timeout_s",
        "_dials",
        "_dials_failed",
        "_jitter",
        "_last_error",
        "_ledger",
        "_link",
        "_link_callbacks",
        "_refused",
        "_settings",
        "_task",
        "address",
    )

    def __init__(
        self,
        address: str,
        callbacks: PeerCallbacks,
        *,
        jitter: Callable[[], float],
        settings: LinkSettings = DEFAULT_SETTINGS,
        dial_timeout_s: float = DIAL_TIMEOUT_S,
    ) -> None:
        parse_address(address)
        self.address = address
        self._callbacks = callbacks
        self._jitter = jitter
        self._settings = settings
        self._dial_timeout_s = dial_timeout_s
        self._link_callbacks = LinkCallbacks(
            on_messages=lambda _, messages: callbacks.on_messages(self, messages),
            on_up=self._on_up,
            on_lost=self._on_lost,
            on_clogged=lambda _: callbacks.on_clogged(self),
            on_clear=lambda _: callbacks.on_clear(self),
        )
        self._ledger = Ledger()
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._dials = self._dials_failed = self._refused = 0
        self._last_error: str | None = None
        self._closing = False

    def __repr__(self) -> str:
        return f"<Peer {self.address} {'up' if self.up else 'down'}>"

    @property
    def up(self) -> bool:
        """Whether a connection stands."""
        return self._link is not None

    @property
    def clogged(self) -> bool:
        """Whether the peer reads more slowly than it is sent to."""
        return self._link is not None and self._link.clogged

    def start(self) -> None:
        """Begin to dial."""
        assert self._task is None, "a peer is started once"
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    def send(self, kind: int, head: Buffer, attachments: Sequence[Buffer] = ()) -> bool:
        """As `Link.send`; False, and counted, while there is no connection."""
        if self._link is None:
            self._refused += 1
            return False
        return self._link.send(kind, head, attachments)

    def queue(self, kind: int, head: Buffer, attachments: Sequence[Buffer] = ()) -> bool:
        """As `Link.queue`; False, and counted, while there is no connection."""
        if self._link is None:
            self._refused += 1
            return False
        return self._link.queue(kind, head, attachments)

    def flush(self) -> None:
        """As `Link.flush`."""
        if self._link is not None:
            self._link.flush()

    def pause_reading(self) -> None:
        """As `Link.pause_reading`; a new connection starts unpaused."""
        if self._link is not None:
            self._link.pause_reading()

    def resume_reading(self) -> None:
        """As `Link.resume_reading`."""
        if self._link is not None:
            self._link.resume_reading()

    def abort(self, error: Exception | None = None) -> None:
        """End the present connection at once, as garbage if it sent any; it is dialled again."""
        if self._link is not None:
            self._link.abort(Loss.CLOSED if error is None else Loss.GARBAGE, error)

    async def aclose(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, close, dial no more.

        If cancelled, the connection is aborted.
        """
        self._closing = True
        task, self._task = self._task, None
        if task is None:
            return
        try:
            # Before the task, which aborts a link that it is still about to hand over.
            if self._link is not None:
                await self._link.aclose(timeout_s)
        finally:
            task.cancel()
        await asyncio.wait([task])
        for link in tuple(self._ledger.links):
            await link.aclose(timeout_s)
        if not task.cancelled():
            task.result()  # a bug in a callback is not to be lost

    def stats(self) -> PeerStats:
        """Counts so far; they stay after the end."""
        return PeerStats(
            dials=self._dials,
            dials_failed=self._dials_failed,
            refused=self._refused,
            losses=dict(self._ledger.losses),
            last_error=self._last_error,
            link=self._link.stats() if self._link is not None else None,
        )

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._closing:
            self._dials += 1
            started_s = loop.time()
            try:
                link = await _dial(
                    self.address,
                    self._link_callbacks,
                    settings=self._settings,
                    timeout_s=self._dial_timeout_s,
                    ledger=self._ledger,
                )
            except BokilogError as error:
                self._dials_failed += 1
                self._last_error = str(error)
            else:
                await link.wait_gone()
                if loop.time() - started_s >= STEADY_S:
                    failures = 0
            await asyncio.sleep(redial_delay_s(failures, self._jitter()))
            failures += 1

    def _on_up(self, link: Link) -> None:
        self._link = link
        self._callbacks.on_up(self)

    def _on_lost(self, link: Link, error: Exception | None) -> None:
        self._link = None
        if error is not None:
            self._last_error = str(error)
        self._callbacks.on_down(self)
