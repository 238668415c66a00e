"""A node's connections by the name of who is at the other end.

Decides who is who: the side that dials says `Hello`, the other answers `Welcome`, and only then is
the link up for the core. A node keeps one control link and one bulk link per peer (P32); a newer
connection of the same peer replaces the older one. Clients are numbered. A peer of another cluster
is refused by name, and so is an earlier start of a peer than the last one heard of (P3); one that
knows a newer term makes this node load its view (P17).

Does not know: what messages mean beyond the greeting.
"""

from __future__ import annotations

import itertools
import logging
import random
from dataclasses import dataclass
from typing import Protocol

from bokilog.effects import Address
from bokilog.errors import RemoteProtocolError
from bokilog.framing import WireMessage
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.one_identity import Starts
from bokilog.io.transport import Listener, Peer, PeerCallbacks, listen
from bokilog.messages import Hello, Leaving, Message, Welcome
from bokilog.wire import decode, encode

logger = logging.getLogger(__name__)


class NetworkEvents(Protocol):
    """What a network tells its node."""

    def received(self, source: Address, message: Message) -> None: ...

    def link_up(self, peer: Address) -> None: ...

    def link_down(self, peer: Address) -> None: ...

    def link_clogged(self, peer: Address, *, clear: bool) -> None: ...

    def newer_term(self, term: int) -> None: ...

    def greet_client(self, connection: int) -> None:
        """A client said hello: `Network.welcome_client` is to follow."""


@dataclass(slots=True, kw_only=True)
class Identity:
    """Who this node is; `term` moves on."""

    role: str
    node: str
    incarnation: int
    cluster_id: str
    history_id: str
    term: int


class Network:
    """All links of one node."""

    def __init__(self, identity: Identity, events: NetworkEvents) -> None:
        self.identity = identity
        self.unsent_count = 0
        """Messages to peers that no link stood to."""
        self.refused: dict[str, str] = {}
        """Peers that were sent away, and why."""
        self._events = events
        self._listeners: list[Listener] = []
        self._peers: dict[Address, Peer] = {}
        self._links: dict[Address, Link | Peer] = {}
        self._names: dict[Link | Peer, Address] = {}
        self._clients = itertools.count(1)
        self._served: dict[int, Link | Peer] = {}
        """Clients whose links are up, without those who only ask for the status."""
        self._starts = Starts()
        self._dismissing = False
        self._touched: dict[Link | Peer, None] = {}
        """In the order of the first message: whom the core names first is woken first."""

    async def listen(self, address: str) -> str:
        """Accept peers and clients at an address; returns it with its real port."""
        callbacks = LinkCallbacks(
            on_messages=self._accepted_messages,
            on_lost=lambda link, _: self._lost(link),
            on_clogged=lambda link: self._clogged(link, clear=False),
            on_clear=lambda link: self._clogged(link, clear=True),
        )
        listener = await listen(address, callbacks)
        self._listeners.append(listener)
        return listener.address

    def dial(self, name: Address, address: str, *, bulk: bool = False) -> None:
        """Keep a link to a peer."""
        if name in self._peers:
            return

        def say_hello(peer: Peer) -> None:
            me = self.identity
            hello = Hello(me.role, me.node, me.incarnation, me.cluster_id, me.term, bulk)
            _send(peer, hello)

        callbacks = PeerCallbacks(
            on_messages=lambda peer, messages: self._dialled_messages(peer, name, messages),
            on_up=say_hello,
            on_down=self._lost,
            on_clogged=lambda peer: self._clogged(peer, clear=False),
            on_clear=lambda peer: self._clogged(peer, clear=True),
        )
        peer = self._peers[name] = Peer(address, callbacks, jitter=random.random)
        peer.start()

    def send(self, to: Address, message: Message) -> bool:
        """Queue a message for the next `flush`; False, and counted, if no link to the peer
        stands."""
        link = self._links.get(to)
        if link is None:
            self.unsent_count += 1
            return False
        self._touched[link] = None
        return link.queue(*encode(message))

    def flush(self) -> None:
        """Write what was queued since the last flush, without waiting for the loop's next turn."""
        for link in self._touched:
            link.flush()
        self._touched.clear()

    def welcome_client(self, connection: int, welcome: Welcome) -> None:
        """The greeting of a client is complete: its link is up."""
        link = self._links.get(connection)
        if link is not None and self._dismissing:
            link.abort()
        elif link is not None:
            self._served[connection] = link
            _send(link, welcome)
            self._events.link_up(connection)

    def dismiss_clients(self, reason: str) -> None:
        """Ask all clients to go to another engine, and take no new ones."""
        self._dismissing = True
        for link in self._served.values():
            _send(link, Leaving(reason))

    @property
    def clients_count(self) -> int:
        """How many clients are connected."""
        return len(self._served)

    def disconnect(self, peer: Address, reason: str) -> None:
        link = self._links.get(peer)
        if link is not None:
            self._refuse(link, str(peer), reason)

    async def aclose(self) -> None:
        """Writes what is queued, closes everything."""
        for peer in self._peers.values():
            await peer.aclose()
        for listener in self._listeners:
            await listener.aclose()

    # --- dialled ----------------------------------------------------------------------------------

    def _dialled_messages(self, peer: Peer, name: Address, messages: list[WireMessage]) -> None:
        if peer in self._names:
            self._deliver(name, messages)
            return
        welcome = decode(*messages[0])
        if not isinstance(welcome, Welcome):
            raise RemoteProtocolError(f"{type(welcome).__name__} before Welcome")
        if welcome.cluster_id != self.identity.cluster_id:
            self._refuse(peer, welcome.node, self._foreign(welcome.cluster_id))
            return
        if not self._counts(peer, welcome.node, welcome.incarnation):
            return
        self._up(name, peer, welcome.term)
        self._deliver(name, messages[1:])

    # --- accepted ---------------------------------------------------------------------------------

    def _accepted_messages(self, link: Link, messages: list[WireMessage]) -> None:
        name = self._names.get(link)
        if name is not None:
            self._deliver(name, messages)
            return
        hello = decode(*messages[0])
        if not isinstance(hello, Hello):
            raise RemoteProtocolError(f"{type(hello).__name__} before Hello")
        if hello.cluster_id and hello.cluster_id != self.identity.cluster_id:
            self._refuse(link, hello.node, self._foreign(hello.cluster_id))
            return
        self._greet(link, hello)
        if len(messages) > 1 and link in self._names:
            self._deliver(self._names[link], messages[1:])

    def _greet(self, link: Link, hello: Hello) -> None:
        if hello.role == "client" and self._dismissing:
            link.abort()
            return
        if hello.role in ("client", "control"):
            connection = next(self._clients)
            self._links[connection] = link
            self._names[link] = connection
            if hello.role == "client":
                self._events.greet_client(connection)
            else:
                _send(link, self.welcome())
                self._events.link_up(connection)
            return
        if not self._counts(link, hello.node, hello.incarnation):
            return
        name: Address = ("bulk", hello.node) if hello.bulk else hello.node
        _send(link, self.welcome())
        self._up(name, link, hello.term)

    def welcome(self) -> Welcome:
        me = self.identity
        return Welcome(me.node, me.incarnation, me.cluster_id, me.history_id, me.term, [], [])

    # --- both -------------------------------------------------------------------------------------

    def _counts(self, link: Link | Peer, node: str, incarnation: int) -> bool:
        """Whether the other end is the last start of its node; links of earlier ones end (P3)."""
        reason = self._starts.refusal(node, incarnation)
        if reason:
            self._refuse(link, node, reason)
            return False
        if self._starts.note(node, incarnation):
            names: tuple[Address, Address] = (node, ("bulk", node))
            for older in [self._links[name] for name in names if name in self._links]:
                self._lost(older)
                older.abort()
        return True

    def _up(self, name: Address, link: Link | Peer, term: int) -> None:
        older = self._links.get(name)
        if older is not None and older is not link:
            self._lost(older)
            older.abort()
        self._links[name] = link
        self._names[link] = name
        self.refused.pop(str(name), None)
        if term > self.identity.term:
            self._events.newer_term(term)
        self._events.link_up(name)

    def _deliver(self, name: Address, messages: list[WireMessage]) -> None:
        received = self._events.received
        for kind, head, attachments in messages:
            received(name, decode(kind, head, attachments))

    def _lost(self, link: Link | Peer) -> None:
        name = self._names.pop(link, None)
        if name is not None and self._links.get(name) is link:
            del self._links[name]
            if isinstance(name, int):
                self._served.pop(name, None)
            self._events.link_down(name)

    def _clogged(self, link: Link | Peer, *, clear: bool) -> None:
        name = self._names.get(link)
        if name is not None:
            self._events.link_clogged(name, clear=clear)

    def _refuse(self, link: Link | Peer, node: str, reason: str) -> None:
        if self.refused.get(node) != reason:
            self.refused[node] = reason
            logger.warning("refused %s: %s", node or "a client", reason)
        self._lost(link)
        link.abort()

    def _foreign(self, cluster_id: str) -> str:
        return f"it is of cluster {cluster_id!r}, this node of {self.identity.cluster_id!r}"


def _send(link: Link | Peer, message: Message) -> bool:
    kind, head, attachments = encode(message)
    return link.send(kind, head, attachments)
