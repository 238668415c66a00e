"""`connect()`: URLs, the seeds behind them, and the connection that is made again when it is lost.

Decides which engine is dialled when, and what a URL means. A client has one engine at a time; when
it is lost the next seed is tried, with back-off once all of them failed. While there is another one
to try, a seed that is silent is given little time, and more in each round; an engine that falls
silent later is left as well (`silence.py`). URLs of logs in this process (`file:DIR`, `memory:`)
are opened by whoever registered for them (`opening.py`): that is a higher floor, found by name, so
that the client imports nothing of it.

Invariants: nothing is sent before a `Welcome` arrived on the same connection; whatever is closed
leaves no task and no socket behind. Does not know: what messages mean.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Sequence
from itertools import cycle
from typing import Final

from bokilog.client.admin import ClientLog
from bokilog.client.node import TIMEOUT_S_DEFAULT, Client
from bokilog.client.opening import Opening, opener_of
from bokilog.client.port import Events, Port
from bokilog.client.silence import LOOK_S, UNANSWERED_MAX, EngineSilence
from bokilog.errors import (
    BokilogError,
    InvalidSettings,
    NodeUnreachable,
    NotReady,
    RemoteProtocolError,
    from_wire,
)
from bokilog.framing import WireMessage
from bokilog.io.addresses import UnixAddress, parse_address
from bokilog.io.link import Link, LinkCallbacks, Loss
from bokilog.io.transport import STEADY_S, dial, redial_delay_s
from bokilog.limits import KIB
from bokilog.messages import AppendFrame, Hello, Message, RequestFailed, StatusRequest, Welcome
from bokilog.record import check_bound
from bokilog.wire import decode, encode

__all__ = [
    "Client",
    "ClientLog",
    "Events",
    "Opening",
    "Port",
    "addresses_of",
    "connect",
]

URL_DEFAULT: Final = "bokilog://127.0.0.1:7300"
PORT_DEFAULT: Final = 7300
CONNECT_TIMEOUT_S_DEFAULT: Final = 10.0
# How long one seed may take to answer and to greet, if it is the only one.
PATIENCE_S: Final = 5.0
# The same in the first round over several: a machine that is gone does not even refuse. Doubled in
# each round, since a cluster that is slow to start would else never get to greet anybody.
PATIENCE_S_MIN: Final = 0.5
# Payloads this small on average are joined: one copy costs less than a length and a slice for each.
JOINED_BYTES_MAX: Final = 16 * KIB


def connect(
    url: str | None = None,
    *,
    timeout_s: float = TIMEOUT_S_DEFAULT,
    connect_timeout_s: float = CONNECT_TIMEOUT_S_DEFAULT,
) -> Opening:
    """Connect to a log: `log = await connect(url)` or `async with connect(url) as log`.

    Args:
        url: `bokilog://HOST:PORT[,HOST:PORT...]`, `bokilog+unix:///PATH`, `file:DIR` or `memory:`;
            None: `$BOKILOG_URL`, else `bokilog://127.0.0.1:7300`.
        timeout_s: of calls that name none.
        connect_timeout_s: how long to try for a first answer.

    Raises, when awaited:
        InvalidSettings: the URL is none of these.
        NodeUnreachable: none of its seeds answered within `connect_timeout_s`.
    """
    check_bound("timeout_s", timeout_s)
    check_bound("connect_timeout_s", connect_timeout_s)
    chosen = url if url is not None else os.environ.get("BOKILOG_URL") or URL_DEFAULT
    return Opening(lambda: _connect(chosen, timeout_s, connect_timeout_s))


async def _connect(url: str, timeout_s: float, connect_timeout_s: float) -> ClientLog:
    if not isinstance(url, str):
        raise InvalidSettings("url", repr(url), "is not a str")
    scheme, _, rest = url.partition(":")
    if scheme in ("file", "memory"):
        return await _open_here(scheme, rest, timeout_s)
    addresses = addresses_of(url)
    port: NetworkPort | None = None

    def attach(events: Events) -> NetworkPort:
        nonlocal port
        port = NetworkPort(addresses, events)
        return port

    async def close() -> None:
        if port is not None:
            await port.aclose()

    client = Client(attach, timeout_s=timeout_s, on_close=close)
    try:
        await client.wait_up(connect_timeout_s)
    except NodeUnreachable:
        await client.aclose()
        reason = port.last_error if port is not None and port.last_error else "no answer"
        within = f"{reason}; tried for connect_timeout_s={connect_timeout_s}"
        raise NodeUnreachable(url, within) from None
    except BaseException:
        await client.aclose()
        raise
    return ClientLog(client)


async def _open_here(scheme: str, rest: str, timeout_s: float) -> ClientLog:
    directory = rest.removeprefix("//") if scheme == "file" else None
    if directory == "" or (scheme == "memory" and rest.strip("/")):
        raise InvalidSettings("url", f"{scheme}:{rest}", "is neither file:DIR nor memory:")
    opener = opener_of(scheme)
    if opener is None:
        raise InvalidSettings("url", f"{scheme}:{rest}", "has nothing installed that opens it")
    return await opener(directory, timeout_s)


def addresses_of(url: str) -> list[str]:
    """The addresses of a URL's seeds, as `bokilog/io` writes them.

    >>> addresses_of("bokilog://a:7300,b")
    ['tcp:a:7300', 'tcp:b:7300']
    >>> addresses_of("bokilog+unix:///run/bokilog.sock")
    ['unix:/run/bokilog.sock']

    Raises:
        InvalidSettings: it is no URL of bokilog.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "bokilog+unix" and rest.startswith("/"):
        return [f"unix:{rest}"]
    if scheme != "bokilog" or not separator:
        problem = "is none of bokilog://HOST:PORT, bokilog+unix:///PATH, file:DIR, memory:"
        raise InvalidSettings("url", repr(url), problem)
    return [_address(seed.strip(), url) for seed in rest.rstrip("/").split(",")]


def _address(seed: str, url: str) -> str:
    bare = seed.rpartition("]")[2]  # behind the brackets of an IPv6 address
    address = f"tcp:{seed}" if ":" in bare else f"tcp:{seed}:{PORT_DEFAULT}"
    try:
        parse_address(address)
    except InvalidSettings:
        problem = f"has the seed {seed!r}, which is not HOST:PORT"
        raise InvalidSettings("url", repr(url), problem) from None
    return address


class NetworkPort:
    """A port to the engines at some addresses: one connection at a time, made again when lost."""

    __slots__ = (
        "_addresses",
        "_errors",
        "_events",
        "_frames",
        "_hello",
        "_link",
        "_look",
        "_settled",
        "_silence",
        "_task",
        "_up",
    )

    def __init__(self, addresses: Sequence[str], events: Events) -> None:
        self._addresses = addresses
        self._events = events
        self._link: Link | None = None
        """The connection that stands, welcomed or not."""
        self._up = False
        """The engine has said its `Welcome` on it."""
        self._settled = asyncio.Event()
        """Whether the present connection was welcomed or lost."""
        self._errors: dict[str, str] = {}
        """By seed, why the last connection to it failed or was lost."""
        self._frames: deque[tuple[int, int, int]] = deque()
        """(how many messages were sent with it, log space, number) of frames that the operating
        system may not have yet."""
        self._hello = Hello(
            role="client",
            node="",
            incarnation=random.getrandbits(63),
            cluster_id="",
            term=0,
            bulk=False,
        )
        self._silence = EngineSilence()
        self._look: asyncio.TimerHandle | None = None
        """While the engine owes something, and there is another one to go to."""
        loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = loop.create_task(self._keep_connected())

    def send(self, message: Message) -> bool:
        """Queue a message for this turn's write; False while there is no engine."""
        link = self._link
        if link is None or not self._up:
            return False
        if (
            isinstance(message, AppendFrame)
            and len(message.payload) > 1
            and message.columns.payload_bytes <= JOINED_BYTES_MAX * len(message.payload)
        ):
            message = message._replace(payload=[b"".join(message.payload)])
        if not link.send(*encode(message)):
            return False
        if self._look is None and len(self._addresses) > 1:
            self._look_later()
        if isinstance(message, AppendFrame):
            while self._frames and self._frames[0][0] <= link.messages_written:
                self._frames.popleft()
            self._frames.append((link.messages_out, message.space, message.number))
        return True

    @property
    def last_error(self) -> str:
        """Why each seed could not be reached, or was lost; empty if none has failed yet."""
        return "; ".join(self._errors.values())

    def flush(self) -> None:
        """Write what is queued now."""
        if self._link is not None:
            self._link.flush()

    def leave(self) -> None:
        """Nothing is under way on the connection any more, so nothing is lost with it."""
        if self._link is not None:
            self._link.abort(Loss.CLOSED, NotReady("the engine is about to stop"))

    def close(self) -> None:
        """No callback follows; `aclose` ends the connection itself."""
        self._up = False
        self._look_no_more()
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Write what is queued, then end the connection and the task."""
        self.close()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task])
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()

    async def _keep_connected(self) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        callbacks = LinkCallbacks(
            on_messages=self._on_messages, on_up=self._on_link_up, on_lost=self._on_lost
        )
        seeds = len(self._addresses)
        for address in cycle(self._addresses):
            self._settled = asyncio.Event()
            patience_s = _patience_s(failures // seeds, seeds=seeds)
            try:
                link = await dial(address, callbacks, timeout_s=patience_s)
            except BokilogError as error:
                self._errors[address] = str(error)
            else:
                welcomed_s = await self._welcomed(link, loop, patience_s)
                await link.wait_gone()
                if welcomed_s is not None and loop.time() - welcomed_s >= STEADY_S:
                    failures = 0
            failures += 1
            if failures % seeds == 0:  # every seed had its turn
                await asyncio.sleep(redial_delay_s(failures // seeds - 1, random.random()))

    async def _welcomed(
        self, link: Link, loop: asyncio.AbstractEventLoop, patience_s: float
    ) -> float | None:
        """When the engine greeted us; None if it did not in time."""
        try:
            async with asyncio.timeout(patience_s):
                await self._settled.wait()
        except TimeoutError:
            why = "it stands still, or no majority of the sequencers tells it where the log ends"
            error = TimeoutError(f"it did not greet within {patience_s} s: {why}")
            link.abort(Loss.SILENT, error)
        return loop.time() if self._up else None

    def _on_link_up(self, link: Link) -> None:
        self._link = link
        self._frames.clear()
        self._silence = EngineSilence()
        link.send(*encode(self._hello))

    def _on_messages(self, link: Link, wire: list[WireMessage]) -> None:
        if self._task is None or link is not self._link:
            return
        messages = [decode(kind, head, attachments) for kind, head, attachments in wire]
        self._silence.heard(link.messages_out)
        if not self._up:
            self._greeted(messages.pop(0))
        if messages:
            self._events.on_messages(messages)

    def _greeted(self, first: Message) -> None:
        if isinstance(first, RequestFailed):
            raise RemoteProtocolError(f"the engine refused: {from_wire(first.error)}")
        if not isinstance(first, Welcome):
            raise RemoteProtocolError(f"the engine greeted by {type(first).__name__}")
        self._up = True
        self._settled.set()
        self._share(first.incarnation)
        self._events.on_up(first)

    def _share(self, incarnation: int) -> None:
        """Behind a unix socket the engine is on this machine, and may share its memory."""
        assert self._link is not None
        address = parse_address(self._link.remote)
        if isinstance(address, UnixAddress):
            from bokilog.io.shared_memory import open_shared  # other clients need none of it

            self._events.on_shared(open_shared(address.path, incarnation))

    def _on_lost(self, link: Link, error: Exception | None) -> None:
        if link is not self._link:
            return
        reason = f"{link.remote}: {error or 'it closed the connection'}"
        self._errors[link.remote] = reason
        was_up, self._up, self._link = self._up, False, None
        self._settled.set()
        self._look_no_more()
        if was_up:
            self._events.on_shared(None)
            written = link.messages_written
            unsent = [(space, number) for sent, space, number in self._frames if sent > written]
            self._events.on_down(reason, unsent)

    # --- an engine that says nothing --------------------------------------------------------------

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_at_it)

    def _look_no_more(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_at_it(self) -> None:
        link, self._look = self._link, None
        if link is None or not self._up or not self._silence.owes(link.messages_out):
            return
        self._look_later()
        match self._silence.look():
            case "ask":
                link.send(*encode(StatusRequest(0)))
            case "leave":
                silent_s = UNANSWERED_MAX * LOOK_S
                link.abort(Loss.SILENT, TimeoutError(f"it did not answer within {silent_s:g} s"))
            case "wait":
                pass


def _patience_s(rounds: int, *, seeds: int) -> float:
    """How long a seed may be silent, after so many rounds in which none greeted."""
    return PATIENCE_S if seeds == 1 else min(PATIENCE_S_MIN * 2.0 ** min(rounds, 16), PATIENCE_S)
