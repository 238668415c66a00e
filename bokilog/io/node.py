"""The shell of every node: one core, its links, its journals, the views it loads.

Decides nothing that the core decides. It turns what happens into events, carries out effects, and
asks for newer views (`view_loader.py`): when a peer knows a newer term, when the core asks, and
every so often by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Protocol

from bokilog.effects import (
    Address,
    Commit,
    Core,
    Disconnect,
    Effect,
    EndTerm,
    Event,
    LinkClogged,
    LinkDown,
    LinkUp,
    LoadView,
    Persisted,
    PersistFailed,
    ReadOnlyChanged,
    Received,
    Send,
    SyncWritten,
    ViewInstalled,
    WrittenSynced,
)
from bokilog.errors import BokilogError, NotReady
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.clock import Clock
from bokilog.io.commits import Committer
from bokilog.io.driver import Driver
from bokilog.io.metrics import MetricsEndpoint
from bokilog.io.network import Identity, Network
from bokilog.io.view_loader import ViewLoader
from bokilog.io.view_store import ViewStore, check_versions
from bokilog.journal import Journal
from bokilog.messages import Message
from bokilog.view import View

logger = logging.getLogger(__name__)


class NodeCore(Core, Protocol):
    """The core of a process."""

    def facts(self) -> dict[str, object]:
        """For `bokilog status` and for metrics."""
        ...


class NodeShell:
    """One process's core and everything around it. Made inside a running loop."""

    def __init__(
        self,
        core: NodeCore,
        *,
        identity: Identity,
        clock: Clock,
        views: ViewStore,
        journals: Mapping[LogSpaceId, Journal],
        inline_sync: bool,
        use_headroom: bool = False,
        perform: Callable[[Effect], None],
        greet_client: Callable[[int], None],
    ) -> None:
        self._views = ViewLoader(
            views,
            installed=lambda: self._installed,
            install=self.install,
            failed=self._on_bug,
            node=(NodeId(identity.node), identity.incarnation) if identity.incarnation else None,
        )
        self._perform_own = perform
        self._greet_client = greet_client
        self._installed = Term(identity.term)
        self.network = Network(identity, self)
        self.driver = Driver(
            core,
            perform=self._perform,
            end_of_batch=self._end_of_batch,
            clock=clock,
            on_bug=self._on_bug,
        )
        self._committers = {
            space: self._committer(space, journal, inline=inline_sync, use_headroom=use_headroom)
            for space, journal in journals.items()
        }
        self._journals = journals
        self._facts = core.facts
        self._metrics: MetricsEndpoint | None = None
        self._stopped: asyncio.Event = asyncio.Event()
        self._bug: BaseException | None = None

    def deliver(self, event: Event) -> None:
        self.driver.deliver(event)

    def install(self, view: View) -> None:
        """A view that the node starts with, or that was read from the store; one that this version
        cannot take part in ends the process (P25)."""
        try:
            check_versions(view)
        except BokilogError as error:
            self._on_bug(error)
            return
        self._installed = view.term
        self.network.identity.term = view.term
        self.deliver(ViewInstalled(view))

    def load_views(self) -> None:
        """Installs every stored view that is newer than the last one, in order (P15); at once, or
        as soon as a remote store has told it."""
        self._views.load()

    async def run(self, stop: asyncio.Event, *, poll_s: float) -> None:
        """Until `stop` or a bug; the view store is asked for newer terms meanwhile.

        Raises:
            BaseException: what the core raised: a bug.
        """
        self._views.start(poll_s)
        while not stop.is_set() and self._bug is None:
            self.load_views()
            self._views.check_alone()
            waits = [asyncio.ensure_future(event.wait()) for event in (stop, self._stopped)]
            await asyncio.wait(waits, timeout=poll_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        if self._bug is not None:
            raise self._bug

    async def serve_metrics(self, address: str) -> None:
        """Let Prometheus read the core's facts at an address; an empty one: nowhere."""
        if address:
            self._metrics = await MetricsEndpoint.start(address, facts=self._facts)

    async def drained(self) -> None:
        """Until what was committed is durable and the core was told; at once on a full disk."""
        for committer in self._committers.values():
            await committer.drained()
        await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Lets syncs end, then closes links and the view store."""
        if self._bug is None:
            await self.drained()
        self.driver.stop()
        if self._metrics is not None:
            await self._metrics.aclose()
        for committer in self._committers.values():
            committer.close()
        await self.network.aclose()
        await self._views.aclose()

    # --- what the network tells (NetworkEvents) ---------------------------------------------------

    def received(self, source: Address, message: Message) -> None:
        self.driver.deliver(Received(source, message))

    def link_up(self, peer: Address) -> None:
        logger.info("link to %s is up", peer)
        self.deliver(LinkUp(peer))

    def link_down(self, peer: Address) -> None:
        logger.info("link to %s is down", peer)
        self.deliver(LinkDown(peer))

    def link_clogged(self, peer: Address, *, clear: bool) -> None:
        self.deliver(LinkClogged(peer, clear=clear))

    def newer_term(self, term: int) -> None:
        self.load_views()

    def greet_client(self, connection: int) -> None:
        self._greet_client(connection)

    # --- effects ----------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        if type(effect) is Send:
            self.network.send(*effect)
            return
        match effect:
            case Commit(space=space, token=token):
                self._committers[LogSpaceId(space)].request(token)
            case Disconnect(peer=peer, reason=reason):
                self.network.disconnect(peer, reason)
            case SyncWritten():
                self._sync_written(effect)
            case LoadView():
                self.load_views()
            case EndTerm(reason=reason):
                self._on_bug(NotReady(f"a new term is needed: {reason}"))
            case _:
                self._perform_own(effect)

    def _end_of_batch(self) -> None:
        self.network.flush()
        for committer in self._committers.values():
            committer.flush()

    def _committer(
        self, space: int, journal: Journal, *, inline: bool, use_headroom: bool
    ) -> Committer:
        def persisted(tokens: list[Hashable]) -> None:
            for token in tokens:
                self.deliver(Persisted(_number(token)))

        def failed(tokens: list[Hashable], reason: str) -> None:
            logger.error("log space %d: %s", space, reason)
            for token in tokens:
                self.deliver(PersistFailed(_number(token), reason))

        def read_only(reason: str) -> None:
            logger.warning("log space %d: %s", space, reason or "takes bytes again")
            self.deliver(ReadOnlyChanged(space, reason))

        return Committer(
            journal,
            persisted=persisted,
            failed=failed,
            read_only=read_only,
            inline=inline,
            inline_deep=True,
            use_headroom=use_headroom,
        )

    def _sync_written(self, effect: SyncWritten) -> None:
        space, term, count = effect
        loop = asyncio.get_running_loop()

        def done(problem: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(told, problem)

        def told(problem: str) -> None:
            if problem:  # of what it has synced a journal knows nothing any more (P7)
                self._perform(EndTerm(f"log space {space}: {problem}"))
            else:
                self.deliver(WrittenSynced(space, term, count))

        self._journals[LogSpaceId(space)].sync_written(done)

    def _on_bug(self, error: BaseException) -> None:
        self._bug = error
        self._stopped.set()


def _number(token: Hashable) -> int:
    assert isinstance(token, int)
    return token
