"""The process of one of several sequencers: reads back what it holds, then takes part (P12, P14).

It starts as nobody's primary. What its journals hold, the promises it gave and the ceilings it
synced are read back; views that were stored since are installed in order; its controller does the
rest. Effects on the view store go through one thread of their own, in order, so that a store that
hangs holds up nothing else; promises and ceilings through another.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bokilog.effects import (
    AcquireLease,
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    PromiseStored,
    RaiseCeiling,
    ReleaseLease,
    StoreIntent,
    StorePromise,
    SwapView,
    ViewSwapped,
)
from bokilog.errors import Closed, CorruptJournal, UnavailableError, WrongTerm
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.ceiling_calls import CeilingCalls
from bokilog.io.clock import SystemClock
from bokilog.io.directory import Directory, write_synced
from bokilog.io.journal_file import JournalFile
from bokilog.io.network import Identity
from bokilog.io.node import NodeShell
from bokilog.io.open_views import open_views
from bokilog.io.view_store import ViewStore, beginning
from bokilog.sequencer.brought import bring
from bokilog.sequencer.ceilings import Ceilings
from bokilog.sequencer.controller import ControllerCore
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.member import MemberCore
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.sequencer.settings import SequencerSettings
from bokilog.view import View

logger = logging.getLogger(__name__)
PROMISE: Final = "promise.json"
HAND_OVER_S: Final = 2.0
"""How long a stopping primary waits for its successor."""
CALLS_WAITING_MAX: Final = 3
"""Calls on a view store that hangs: one about the lease, one intent, one view."""
_HAND_OVER_POLL_S: Final = 0.01


class PromiseFile:
    """The last term that this sequencer promised to leave alone (P14)."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> Term | None:
        """It, if there is one.

        Raises:
            CorruptJournal: the file is damaged; its sequencer has no say then.
        """
        if not self._file.exists():
            return None
        try:
            stored: object = json.loads(self._file.read_bytes())
        except ValueError as error:
            raise CorruptJournal(str(self._file), 0, f"it is not JSON: {error}") from None
        term = stored.get("term") if isinstance(stored, dict) else None
        if type(term) is not int or term < 0:
            raise CorruptJournal(str(self._file), 0, "it holds no term")
        return Term(term)

    def store(self, term: Term) -> None:
        """Synced when this returns."""
        write_synced(self._file, json.dumps({"term": term}).encode() + b"\n")


class StoreCalls:
    """A controller's effects on the view store, one after the other, as calls and their answers.

    A controller asks again for what is not answered, for as long as a store hangs: a call takes the
    place of one of its kind that still waits, so at most one of each does.

    Args:
        store: for this alone, since the lease belongs to the object that took it.
        node: whose controller it is.
        deliver: takes an answer, from any thread.
        load_views: looks for newer views, from any thread.
    """

    def __init__(
        self,
        store: ViewStore,
        *,
        node: NodeId,
        deliver: Callable[[Event], None],
        load_views: Callable[[], None],
    ) -> None:
        self._store = store
        self._node = node
        self._deliver = deliver
        self._load_views = load_views
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bokilog-store")
        self._lock = threading.Lock()
        self._waiting: dict[str, Effect] = {}
        """By kind, the last one that was asked for."""
        self._problem = ""

    def perform(self, effect: Effect) -> None:
        """Queue a call. Whoever lets the lease go does not want what it asked for before."""
        lease = isinstance(effect, AcquireLease | ReleaseLease)
        kind = "lease" if lease else type(effect).__name__
        with self._lock:
            waits = kind in self._waiting
            self._waiting[kind] = effect
            assert len(self._waiting) <= CALLS_WAITING_MAX, f"a call of another kind: {kind}"
        if not waits:
            self._thread.submit(self._run_next, kind)

    def close(self) -> None:
        """Let the lease go and end the thread; calls that wait are dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def _run_next(self, kind: str) -> None:
        with self._lock:
            effect = self._waiting.pop(kind)
        self._run(effect)

    def _run(self, effect: Effect) -> None:
        try:
            answer = self._call(effect)
            self._note("")
        except (UnavailableError, Closed) as error:
            self._note(str(error))
            answer = _failed(effect)
        except WrongTerm:
            self._load_views()  # a later view is stored: there is nothing to intend any more
            return
        except Exception:  # a bug or a damaged store: what is needed is in the log
            logger.exception("%s on %s", type(effect).__name__, self._store.where)
            answer = _failed(effect)
        if answer is not None:
            self._deliver(answer)

    def _call(self, effect: Effect) -> Event | None:
        match effect:
            case AcquireLease():
                if self._store.try_lease(self._node):
                    return LeaseHeld(self._store.intent())
                return LeaseLost(self._store.lease_holder())
            case ReleaseLease():
                self._store.release_lease(self._node)
                return None
            case StoreIntent(term=term, reason=reason):
                self._store.store_intent(term, reason)
                return IntentStored(term)
            case SwapView(expected_term=expected, view=view):
                return ViewSwapped(view.term, self._store.compare_and_swap(expected, view))
            case _:
                raise AssertionError(f"a sequencer cannot carry out {effect}")

    def _note(self, problem: str) -> None:
        """Said once, and once when it is over."""
        if problem and not self._problem:
            logger.warning("%s: no view can be changed meanwhile", problem)
        elif self._problem and not problem:
            logger.info("the view store %s answers again", self._store.where)
        self._problem = problem


def _failed(effect: Effect) -> Event | None:
    """The answer when there is none: an intent is asked for again, a swap is looked at."""
    match effect:
        case AcquireLease():
            return LeaseLost("")
        case SwapView(view=view):
            return ViewSwapped(view.term, ok=False)
        case _:
            return None


async def run_member(
    settings: SequencerSettings,
    *,
    views: ViewStore,
    latest: View,
    directory: Directory,
    journals: Mapping[LogSpaceId, JournalFile],
    ceilings: Ceilings,
    ready: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """One of several sequencers, from its claimed directory to its graceful stop."""
    loop = asyncio.get_running_loop()
    node = NodeId(settings.node_id)
    incarnation = views.register_incarnation(node)
    promise = PromiseFile(settings.data_dir / PROMISE)
    core = await _core(
        settings,
        latest=latest,
        views=views,
        directory=directory,
        journals=journals,
        ceilings=ceilings,
        promised=promise.read(),
        incarnation=incarnation,
    )
    disk = ThreadPoolExecutor(1, thread_name_prefix="bokilog-disk")

    def deliver(event: Event) -> None:
        loop.call_soon_threadsafe(shell.deliver, event)

    def load_views() -> None:
        loop.call_soon_threadsafe(shell.load_views)

    raising = CeilingCalls(disk, ceilings.raise_to, deliver=lambda event: shell.deliver(event))

    def store_promise(effect: StorePromise) -> None:
        promise.store(effect.term)
        deliver(PromiseStored(effect.term))

    def perform(effect: Effect) -> None:
        if isinstance(effect, RaiseCeiling):
            raising.perform(effect)
        elif isinstance(effect, StorePromise):
            disk.submit(_logged, store_promise, effect)
        else:
            store.perform(effect)

    shell = NodeShell(
        core,
        identity=Identity(
            role="sequencer",
            node=node,
            incarnation=incarnation,
            cluster_id=latest.cluster_id,
            history_id=latest.history_id,
            term=core.sequencer.view.term,
        ),
        clock=SystemClock(),
        views=views,
        journals=journals,
        inline_sync=not settings.sync_delay_ms,
        use_headroom=True,
        perform=perform,
        greet_client=lambda connection: shell.network.disconnect(connection, "it is no engine"),
    )
    store = StoreCalls(
        open_views(settings.views_url or settings.views_dir),
        node=node,
        deliver=deliver,
        load_views=load_views,
    )
    for term in range(core.sequencer.view.term, latest.term + 1):
        view = views.load(Term(term))
        if view is not None:
            shell.install(view)
    await shell.network.listen(settings.address)
    await shell.serve_metrics(settings.metrics_address)
    for peer in latest.nodes:
        if peer.role == "sequencer" and peer.id > node:
            shell.network.dial(peer.id, peer.address)
    ready()
    try:
        await shell.run(stop, poll_s=settings.view_poll_s)
        await _hand_over(shell, core.controller)
    finally:
        store.close()
        await shell.aclose()
        raising.close()
        disk.shutdown(wait=True)


async def _core(
    settings: SequencerSettings,
    *,
    latest: View,
    views: ViewStore,
    directory: Directory,
    journals: Mapping[LogSpaceId, JournalFile],
    ceilings: Ceilings,
    promised: Term | None,
    incarnation: int,
) -> MemberCore:
    """What the directory holds, in the view of the oldest term that a journal stands in: the ends
    of later terms are still to be applied to it (P13). With what storage nodes bring (P11)."""
    node = NodeId(settings.node_id)
    recovered = {
        space: recover_metalog(
            journal,
            beginning(views, latest.space(space)),
            ceiling=1,
            released=True,
            ended=ended_in(views, space),
            begun=latest.space(space).begun,
        )
        for space, journal in journals.items()
    }
    recovered = await bring(
        recovered,
        journals,
        view=latest,
        ended={space: ended_in(views, space) for space in journals},
    )
    reached = min((known.end.position.term for known in recovered.values()), default=Term(0))
    view = views.load(reached)
    if view is None:
        raise CorruptJournal(views.where, 0, f"the view of term {reached} is missing")
    sequencer = SequencerCore(
        node=node,
        view=view,
        recovered=recovered,
        journals=journals,
        incarnation=incarnation,
        disk_id=directory.disk_id,
        promised=promised,
        ceilings={space: ceilings.of(space) for space in journals},
        releases=not settings.keep_metalog,
    )
    controller = ControllerCore(
        settings, node=node, incarnation=incarnation, disk_id=directory.disk_id
    )
    return MemberCore(sequencer, controller)


async def _hand_over(shell: NodeShell, controller: ControllerCore) -> None:
    """A primary that stops asks for a successor first, so that nobody waits for a suspicion."""
    controller.leave()
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + HAND_OVER_S
    while not controller.may_leave and loop.time() < deadline_s:
        await asyncio.sleep(_HAND_OVER_POLL_S)
        shell.load_views()


def _logged(call: Callable[[StorePromise], None], effect: StorePromise) -> None:
    """What fails on the disk is not answered: a controller asks again (P14)."""
    try:
        call(effect)
    except OSError:
        logger.exception("%s", type(effect).__name__)
