"""The engine process: clients on one side, storage nodes and the primary on the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from bokilog.effects import Effect, Event, LinkDown, LinkUp, Received, Send
from bokilog.errors import NotReady
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.process_settings import EngineProcessSettings
from bokilog.ids import NodeId
from bokilog.io.addresses import UnixAddress, parse_address
from bokilog.io.clock import SystemClock
from bokilog.io.network import Identity
from bokilog.io.node import NodeShell
from bokilog.io.one_identity import check_alone
from bokilog.io.open_views import open_views
from bokilog.io.shared_memory import SharedMemory
from bokilog.io.view_store import check_versions
from bokilog.messages import RequestFailed, Tail, TailRequest
from bokilog.view import LogSpace, View

logger = logging.getLogger(__name__)
LEAVE_S: Final = 3.0
"""How long a stopping engine waits for its clients: longer than a change of the primary takes."""
_LEAVE_POLL_S: Final = 0.01


class GreetingCore:
    """An engine core whose clients are greeted with the primary's tails: sessions start there.

    A client's link is up for the core from the greeting on; until then its only requests are the
    tails that the shell asks for in its name (P27).
    """

    def __init__(
        self,
        engine: EngineCore,
        *,
        spaces: tuple[LogSpace, ...],
        greeted: Callable[[int, list[list[int]]], None],
    ) -> None:
        self._engine = engine
        self._spaces = spaces
        self._greeted = greeted
        self._waiting: dict[int, dict[int, list[int]]] = {}

    def greet(self, connection: int) -> list[Event]:
        """The events that ask for the tails."""
        self._waiting[connection] = {}
        asks = [Received(connection, TailRequest(space.id, space.id)) for space in self._spaces]
        return [LinkUp(connection), *asks]

    def facts(self) -> dict[str, object]:
        """Those of the engine."""
        return self._engine.facts()

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        if isinstance(event, LinkDown) and isinstance(event.peer, int):
            self._waiting.pop(event.peer, None)
        effects = self._engine.handle(event, now_s)
        if not self._waiting:
            return effects
        return [effect for effect in effects if not self._is_greeting(effect)]

    def _is_greeting(self, effect: Effect) -> bool:
        """Takes the answers to a greeting out of what goes to clients."""
        if not isinstance(effect, Send) or not isinstance(effect.to, int):
            return False
        tails = self._waiting.get(effect.to)
        if tails is None or not isinstance(effect.message, Tail):
            return tails is not None and isinstance(effect.message, RequestFailed)
        tail = effect.message
        tails[tail.request] = [tail.space, tail.position.term, tail.position.count, tail.tail]
        if len(tails) == len(self._spaces):
            del self._waiting[effect.to]
            self._greeted(effect.to, [tails[space.id] for space in self._spaces])
        return True


async def run(
    settings: EngineProcessSettings, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """One engine, from its incarnation to its graceful stop."""
    views = open_views(settings.views_url or settings.views_dir)
    view = views.latest()
    if view is None:
        raise NotReady(f"no view is stored in {views.where}: start the cluster with bokilog up")
    check_versions(view)
    node = NodeId(settings.node_id)
    await check_alone(node, view, addresses=settings.addresses)
    incarnation = views.register_incarnation(node)

    def greeted(connection: int, positions: list[list[int]]) -> None:
        spaces: list[list[object]] = [[space.id, space.durability] for space in view.spaces]
        welcome = shell.network.welcome()._replace(positions=positions, spaces=spaces)
        shell.network.welcome_client(connection, welcome)

    def greet_client(connection: int) -> None:
        for event in core.greet(connection):
            shell.deliver(event)

    def perform(effect: Effect) -> None:
        raise AssertionError(f"an engine cannot carry out {effect}")

    memory = _shared_memory(settings, incarnation)
    shared = memory.writer if memory is not None else None
    engine = EngineCore(settings, node_id=node, incarnation=incarnation, shared=shared)
    core = GreetingCore(engine, spaces=view.spaces, greeted=greeted)
    shell = NodeShell(
        core,
        identity=Identity(
            role="engine",
            node=node,
            incarnation=incarnation,
            cluster_id=view.cluster_id,
            history_id=view.history_id,
            term=0,
        ),
        clock=SystemClock(),
        views=views,
        journals={},
        inline_sync=True,
        perform=perform,
        greet_client=greet_client,
    )
    shell.install(view)
    _dial_peers(shell, view)
    for address in settings.addresses:
        await shell.network.listen(address)
    await shell.serve_metrics(settings.metrics_address)
    ready()
    try:
        await shell.run(stop, poll_s=settings.view_poll_s)
        await _let_clients_go(shell)
    finally:
        await shell.aclose()
        if memory is not None:
            memory.close()


def _shared_memory(settings: EngineProcessSettings, incarnation: int) -> SharedMemory | None:
    """Beside the first unix socket; without one nobody could find it."""
    for address in map(parse_address, settings.addresses):
        if isinstance(address, UnixAddress) and settings.shared_bytes:
            try:
                return SharedMemory(address.path, settings.shared_bytes, incarnation)
            except OSError as error:
                logger.warning("no memory is shared with workers: %s", error)
    return None


async def _let_clients_go(shell: NodeShell) -> None:
    """What clients have under way is answered, so that nobody has to wonder what became of it."""
    shell.network.dismiss_clients("it is about to stop")
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + LEAVE_S
    while shell.network.clients_count and loop.time() < deadline_s:
        await asyncio.sleep(_LEAVE_POLL_S)
        shell.load_views()


def _dial_peers(shell: NodeShell, view: View) -> None:
    """The primaries, and each storage node twice: frames hold nothing else up (P32)."""
    for peer in view.nodes:
        if peer.role == "sequencer":
            shell.network.dial(peer.id, peer.address)
        elif peer.role == "storage":
            shell.network.dial(peer.id, peer.address)
            bulk = peer.bulk_address or peer.address
            shell.network.dial(("bulk", peer.id), bulk, bulk=True)
