"""How a process comes to know newer views: in order, and never at the cost of its event loop (P15).

Decides when the view store is looked at. One on this machine is asked on the loop's own thread,
whenever `load` is called: that is a look at a directory. A remote one has a thread of its own, for
as long as the process runs, which asks, loads and waits for the next change; what it loads reaches
the loop in the order of terms. Calls of `load` change nothing there, since the thread waits for the
store's own word of a change.

Invariants: `install` runs on the loop, once per term, without a gap. A store that does not answer
is said once in the log, and once when it is back; until then the present view holds.

It also notices that a later start of the node was registered: this one does not count then, and is
told to stop (P3).

Does not know what a view means to the node.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from bokilog.errors import Closed, NotReady, UnavailableError
from bokilog.ids import NodeId, Term
from bokilog.io.one_identity import superseded
from bokilog.io.view_store import ViewStore
from bokilog.view import View

_JOIN_TIMEOUT_S: Final = 2.0
logger = logging.getLogger(__name__)
T = TypeVar("T")


class ViewLoader:
    """Loads what a view store has beyond the installed view.

    Args:
        store: asked from here on, and closed by `close`.
        installed: the term of the view that the node has.
        install: takes the next view, and moves `installed` with it.
        failed: gets what no waiting mends, such as a damaged view.
        node: whose start this is, with its registered incarnation; None: it has none.
    """

    def __init__(
        self,
        store: ViewStore,
        *,
        installed: Callable[[], Term],
        install: Callable[[View], None],
        failed: Callable[[BaseException], None],
        node: tuple[NodeId, int] | None = None,
    ) -> None:
        self._store = store
        self._installed = installed
        self._install = install
        self._failed = failed
        self._node = node
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._missing = Term(-1)

    @property
    def problem(self) -> str:
        """Why no newer view can be known at present; empty while the store answers."""
        return self._problem

    def load(self) -> None:
        """Install what a store on this machine has; a remote one is not asked here."""
        if self._store.remote:
            return
        for view in self._newer(self._installed()):
            self._install_next(view)

    def check_alone(self) -> None:
        """Stop the process if a later start of its node counts; a remote store is not asked here.

        A store that does not answer says nothing.
        """
        if not self._store.remote:
            try:
                self._note_later(self._later())
            except UnavailableError:
                return

    def start(self, poll_s: float) -> None:
        """Begin with a remote store, asked each `poll_s` at the latest; called on the loop."""
        if self._store.remote and self._thread is None:
            self._thread = threading.Thread(
                target=self._run,
                args=(asyncio.get_running_loop(), poll_s),
                name="bokilog-views",
                daemon=True,
            )
            self._thread.start()

    async def aclose(self) -> None:
        """End the thread and close the store."""
        self._stop.set()
        await asyncio.to_thread(self._store.close)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _JOIN_TIMEOUT_S)

    def _newer(self, known: Term) -> list[View]:
        """The views after `known`, up to the first one that is missing."""
        latest = self._store.latest_term()
        found: list[View] = []
        while latest is not None and known < latest:
            view = self._store.load(Term(known + 1))
            if view is None:
                if self._missing != known + 1:
                    logger.error("view %d is missing from %s", known + 1, self._store.where)
                self._missing = Term(known + 1)
                break
            found.append(view)
            known = view.term
        return found

    def _later(self) -> int:
        """The incarnation of a later start of this node; 0: there is none."""
        if self._node is None:
            return 0
        node, incarnation = self._node
        latest = self._store.latest_incarnation(node)
        return latest if latest > incarnation else 0

    def _note_later(self, latest: int) -> None:
        if latest and self._node is not None:
            self._failed(NotReady(superseded(*self._node, latest)))

    # --- the thread of a remote store -------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, poll_s: float) -> None:
        """The thread: what ends it before its time ends the node, which would not see views."""
        try:
            self._follow(loop, poll_s)
        except BaseException as error:
            self._post(loop, self._failed, error)

    def _follow(self, loop: asyncio.AbstractEventLoop, poll_s: float) -> None:
        sent = self._installed()
        while not self._stop.is_set():
            sent = max(sent, self._installed())
            try:
                views = self._newer(sent)
                later = self._later()
            except (UnavailableError, Closed) as error:
                self._note(str(error))
                self._stop.wait(poll_s)
                continue
            self._note("")
            if later:
                self._post(loop, self._note_later, later)
                return
            for view in views:
                self._post(loop, self._install_next, view)
                sent = view.term
            self._store.wait_changed(sent, poll_s)

    def _install_next(self, view: View) -> None:
        """Unless it is installed by now: the node may have done so by itself."""
        if view.term == self._installed() + 1:
            self._install(view)

    def _post(self, loop: asyncio.AbstractEventLoop, call: Callable[[T], None], what: T) -> None:
        try:
            loop.call_soon_threadsafe(call, what)
        except RuntimeError:  # the loop is closed: the process ends
            self._stop.set()

    def _note(self, problem: str) -> None:
        if problem and not self._problem and not self._stop.is_set():
            logger.warning("%s; the present view holds meanwhile", problem)
        elif self._problem and not problem:
            logger.info("the view store %s answers again", self._store.where)
        self._problem = problem
