"""The links of a host: who is at the other end of each, and messages to and from them.

Decides names: workers and templates go by the number that the host gave them, callers and other
hosts by one per connection, hosts dialled from here by their name. The side that dials says
`Greeting`; callers and hosts are answered by the core. Who speaks another version of the messages,
or is of another app, is refused by a sentence.

Invariants: a link is up for the core from its greeting on, and down once; all that is said to a
link in one batch leaves in one write. Does not know what messages mean beyond the greeting.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from typing import Final

from bokilog.errors import RemoteProtocolError
from bokilog.framing import WireMessage
from bokilog.functions.runtime.effects import Address, Event, LinkDown, LinkUp, Received
from bokilog.functions.runtime.messages import (
    CALLS_VERSION,
    CallMessage,
    Greeted,
    Greeting,
    Output,
    OutputsRequest,
    Pulse,
    WorkerReady,
    decode,
    encode,
)
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import Listener, Peer, PeerCallbacks, listen

_ROLES_ELSEWHERE: Final = ("caller", "host")
_ROLES_HERE: Final = ("worker", "template", *_ROLES_ELSEWHERE)
"""Workers and templates are children of this process: nobody else's word is taken for theirs."""
logger = logging.getLogger(__name__)


class Connections:
    """All links of one host.

    Args:
        name: of the host.
        deliver: takes what the core is to know.
        peers_changed: told when a host that was dialled answers, or does not any more.
        aside: takes what it need not: output, and who asks for it; also which workers are ready.
    """

    def __init__(
        self,
        name: str,
        *,
        deliver: Callable[[Event], None],
        aside: Callable[[Address, Output | OutputsRequest | Pulse | WorkerReady], None],
        peers_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.app = ""
        """By name, once it is loaded; until then hosts of any app are taken."""
        self.refused_count = 0
        self._closing = False
        self._name = name
        self._deliver = deliver
        self._aside = aside
        self._peers_changed = peers_changed
        self._numbers = itertools.count(1)
        self._listeners: list[Listener] = []
        self._peers: dict[str, Peer] = {}
        self._links: dict[Address, Link | Peer] = {}
        self._names: dict[Link | Peer, Address] = {}
        self._touched: dict[Link | Peer, None] = {}

    async def listen(self, address: str) -> str:
        """Accept workers, callers and hosts there; returns it with its real port."""
        roles = _ROLES_HERE if address.startswith("unix:") else _ROLES_ELSEWHERE
        callbacks = LinkCallbacks(
            on_messages=lambda link, messages: self._accepted(link, messages, roles),
            on_lost=lambda link, error: self._lost(link, whole=error is None),
        )
        listener = await listen(address, callbacks)
        self._listeners.append(listener)
        return listener.address

    def dial(self, name: str, address: str) -> None:
        """Keep a link to another host; to another address if that has changed."""
        known = self._peers.get(name)
        if known is not None and known.address == address:
            return
        self.hang_up(name)

        def greet(peer: Peer) -> None:
            greeting = Greeting(CALLS_VERSION, "host", self._name, self.app, 0)
            peer.send(*encode(greeting))

        callbacks = PeerCallbacks(
            on_messages=lambda peer, messages: self._dialled(peer, name, messages),
            on_up=greet,
            on_down=self._lost,
        )
        peer = self._peers[name] = Peer(address, callbacks, jitter=random.random)
        peer.start()

    def hang_up(self, name: str) -> Peer | None:
        """No link to that host any more; whoever waits for its end closes what is returned."""
        peer = self._peers.pop(name, None)
        if peer is not None:
            peer.abort()
        return peer

    @property
    def peers(self) -> dict[str, bool]:
        """Hosts that are dialled, and whether they answer."""
        return {name: ("peer", name) in self._links for name in self._peers}

    def send(self, to: Address, message: CallMessage) -> None:
        """Queue a message; nothing, and counted, if no such link stands."""
        link = self._links.get(to)
        if link is None:
            self.refused_count += 1
            return
        self._touched[link] = None
        link.send(*encode(message))

    def flush(self) -> None:
        """Write what was queued since the last flush."""
        for link in self._touched:
            link.flush()
        self._touched.clear()

    def disconnect(self, to: Address) -> None:
        """End a link at once; a host that was dialled is dialled again."""
        link = self._links.get(to)
        if link is not None:
            self._lost(link)
            link.abort()

    def take_no_callers(self) -> None:
        """Who greets as a caller or a host from now on is sent away."""
        self._closing = True

    async def close_callers(self) -> None:
        """Write what callers and hosts are still to get, then close their links."""
        here = [(name, link) for name, link in self._links.items() if name[0] in _ROLES_ELSEWHERE]
        for _, link in here:
            await link.aclose()

    async def aclose(self) -> None:
        """Writes what is queued, closes everything."""
        for peer in list(self._peers.values()):
            await peer.aclose()
        for listener in self._listeners:
            await listener.aclose()

    # --- accepted ---------------------------------------------------------------------------------

    def _accepted(self, link: Link, messages: list[WireMessage], roles: tuple[str, ...]) -> None:
        name = self._names.get(link)
        if name is None:
            name = self._greet(link, decode(messages[0]), roles)
            messages = messages[1:]
        self._received(link, name, messages)

    def _greet(self, link: Link, greeting: CallMessage, roles: tuple[str, ...]) -> Address:
        if not isinstance(greeting, Greeting):
            raise RemoteProtocolError(f"{type(greeting).__name__} before Greeting")
        if greeting.version != CALLS_VERSION:
            problem = f"its calls are of version {greeting.version}, this host's of {CALLS_VERSION}"
            raise RemoteProtocolError(problem)
        if self._closing and greeting.role in _ROLES_ELSEWHERE:
            raise RemoteProtocolError("this host is about to stop")
        if greeting.role not in roles:
            problem = f"a greeting of role {greeting.role!r}, here it is one of {', '.join(roles)}"
            raise RemoteProtocolError(problem)
        name: Address
        match greeting.role:
            case "worker":
                name = ("worker", greeting.number)
            case "template":
                name = ("template", greeting.number)
            case "caller":
                name = ("caller", next(self._numbers))
            case _:
                name = ("host", next(self._numbers))
        if greeting.role == "host" and self.app and greeting.app not in ("", self.app):
            problem = f"host {greeting.name} has the app {greeting.app!r}, this one {self.app!r}"
            raise RemoteProtocolError(problem)
        self._up(name, link)
        return name

    # --- dialled ----------------------------------------------------------------------------------

    def _dialled(self, peer: Peer, name: str, messages: list[WireMessage]) -> None:
        address: Address = ("peer", name)
        if peer not in self._names:
            greeted = decode(messages[0])
            if not isinstance(greeted, Greeted):
                raise RemoteProtocolError(f"{type(greeted).__name__} before Greeted")
            if self._peers.get(name) is not peer:
                return
            self._up(address, peer)
            messages = messages[1:]
        self._received(peer, address, messages)

    # --- both -------------------------------------------------------------------------------------

    def _received(self, link: Link | Peer, name: Address, messages: list[WireMessage]) -> None:
        deliver = self._deliver
        for wire in messages:
            if self._links.get(name) is not link:
                return  # it was disconnected by what came before
            message = decode(wire)
            if isinstance(message, (Output, OutputsRequest, Pulse, WorkerReady)):
                self._aside(name, message)
                if not isinstance(message, WorkerReady):
                    continue
            if not isinstance(message, Greeted):
                deliver(Received(name, message))

    def _up(self, name: Address, link: Link | Peer) -> None:
        older = self._links.get(name)
        if older is not None:
            self._lost(older)
            older.abort()
        self._links[name] = link
        self._names[link] = name
        self._deliver(LinkUp(name))
        if name[0] == "peer":
            self._peers_changed()

    def _lost(self, link: Link | Peer, *, whole: bool = False) -> None:
        name = self._names.pop(link, None)
        if name is not None and self._links.get(name) is link:
            del self._links[name]
            self._deliver(LinkDown(name, whole))
            if name[0] == "peer":
                self._peers_changed()
