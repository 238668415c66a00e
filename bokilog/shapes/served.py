"""An embedded log that other processes reach: the workers of `bokilog dev --embedded`.

Decides nothing: connections become clients of the engine core that the embedded shape has anyway.
What their appends wait for is what the embedded shape waits for: one sync of this process's disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from bokilog.effects import Address, Event, LinkClogged, LinkDown, LinkUp, Received
from bokilog.errors import BokilogError
from bokilog.io.network import Identity, Network
from bokilog.messages import Message
from bokilog.shapes.embedded import ENGINE, EmbeddedNode, EmbeddedSettings, start_node

logger = logging.getLogger(__name__)


class ServedLog:
    """A log in this process that takes clients at an address. Made by `serve_log`."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node
        view = node.view
        identity = Identity(
            role="engine",
            node=ENGINE,
            incarnation=view.term,
            cluster_id=view.cluster_id,
            history_id=view.history_id,
            term=view.term,
        )
        self._network = Network(identity, self)
        self._deliver: Callable[[Event], None] = node.serve(self)
        self.address = ""
        """Where it listens."""

    async def listen(self, address: str) -> None:
        """Take clients there."""
        self.address = await self._network.listen(address)

    @property
    def url(self) -> str:
        """For `bokilog.connect`."""
        scheme, _, rest = self.address.partition(":")
        return f"bokilog+unix://{rest}" if scheme == "unix" else f"bokilog://{rest}"

    async def aclose(self) -> None:
        """Send clients away, then close the log."""
        await self._network.aclose()
        await self._node.aclose()

    # --- what the node says (Guests) --------------------------------------------------------------

    def send(self, to: Address, message: Message) -> None:
        self._network.send(to, message)

    def flush(self) -> None:
        self._network.flush()

    def stopped(self, error: Exception) -> None:
        logger.critical("the log has stopped", exc_info=error)
        self._network.dismiss_clients(f"it has stopped: {error!r}")

    # --- what the network tells (NetworkEvents) ---------------------------------------------------

    def received(self, source: Address, message: Message) -> None:
        self._deliver(Received(source, message))

    def link_up(self, peer: Address) -> None:
        self._deliver(LinkUp(peer))

    def link_down(self, peer: Address) -> None:
        self._deliver(LinkDown(peer))

    def link_clogged(self, peer: Address, *, clear: bool) -> None:
        self._deliver(LinkClogged(peer, clear=clear))

    def newer_term(self, term: int) -> None:
        """Nobody else stores views of this log."""

    def greet_client(self, connection: int) -> None:
        self._network.welcome_client(connection, self._node.welcome())


async def serve_log(
    directory: Path | None, address: str, *, settings: EmbeddedSettings | None = None
) -> ServedLog:
    """Open an embedded log and take clients at `address`.

    Args:
        directory: where it is kept; None: in memory, gone when closed.
        address: `unix:PATH` or `tcp:HOST:PORT`.
        settings: of the log.

    Raises as `bokilog.open`; OSError when nobody may listen there.
    """
    log = ServedLog(start_node(directory, settings or EmbeddedSettings()))
    try:
        await log.listen(address)
    except (BokilogError, OSError):
        await log.aclose()
        raise
    return log
