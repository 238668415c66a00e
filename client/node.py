"""The shell of a client: its loop, its timer, its tasks, and the waits of its callers.

Decides nothing that the core does not. It calls the core from the event loop it was made in,
flushes it once per tick, keeps one timer for everything, and owns the tasks that look for LogBooks.

Invariants: a call from another loop, after a fork or after the end is refused before it touches
anything; every task ends with `aclose`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from bokilog.client import routing
from bokilog.client.books import Created, Route
from bokilog.client.core import Book, ClientCore, ClientStats
from bokilog.client.port import Events, Frames, Port
from bokilog.client.requests import Query, Reply, Request
from bokilog.client.session import Session
from bokilog.client.units import NEVER, Unit
from bokilog.errors import (
    BokilogError,
    Closed,
    NodeUnreachable,
    NotReady,
    RemoteProtocolError,
    WrongLoop,
)
from bokilog.limits import KEY_HORIZON_S
from bokilog.messages import Answer, FrameOrdered, Message, Read, ReadReply, Tail, Welcome
from bokilog.record import check_bound

if TYPE_CHECKING:
    from bokilog.shared_records import SharedReader  # a log in this process needs none

TIMEOUT_S_DEFAULT: Final = 30.0
LINGER_S: Final = 5.0  # how long `aclose` waits for appends that are on their way
TICK_S_MIN: Final = 0.02  # deadlines are kept to within this, whatever their number


class Client:
    """One client of one log, in one event loop.

    Args:
        attach: given this client, whose callbacks it will use, returns the port to the engine.
        timeout_s: of calls that name none.
        on_close: awaited at the end of `aclose`, to let go of what is behind the port.
    """

    def __init__(
        self,
        attach: Callable[[Events], Port],
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        check_bound("timeout_s", timeout_s)
        loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        """Of the loop. After the end and after a fork no route lives, so that the short ways of a
        LogBook, which look no further than this, are closed too.
        """
        self.create_future: Callable[[], asyncio.Future[int]] = loop.create_future
        """For units; once per append."""
        self.core = ClientCore(timeout_s=timeout_s, wake=self._wake, find=self._find)
        self.timeout_s = timeout_s
        self.default_session = Session("")
        """Of LogBooks that name no session; set by the first `Welcome`."""
        self._loop = loop
        self._on_close = on_close
        self._refusal: Callable[[], BokilogError] | None = None
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER
        self._ticked_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained: asyncio.Event | None = None
        """Set while closing, once no append is under way."""
        self._first_up: asyncio.Future[None] = loop.create_future()
        self.link_changed: Callable[[str], None] = lambda reason: None
        """Called when the engine is gone, with why, and with an empty text when one answers."""
        self._deletions: set[int] = set()
        self._reminded: set[int] = set()
        """LogBooks with a retention whose log space was told."""
        _ALIVE.add(self)
        self.core.port = attach(self)

    # --- from the port ----------------------------------------------------------------------------

    def on_up(self, welcome: Welcome) -> None:
        """An engine answered."""
        first = self.core.welcome is None
        self.core.on_up(welcome, self._loop.time())
        if first:
            self.default_session = self.core.session(None)
        if not self._first_up.done():
            self._first_up.set_result(None)
        self._set_timer()
        self.link_changed("")

    def on_shared(self, shared: SharedReader | None) -> None:
        """Records may be read from the engine's memory, or not any more."""
        self.core.shared = shared

    def on_messages(self, messages: list[Message]) -> None:
        """Everything that arrived at once, one message or more.

        Whoever waited for an append, or with others, goes on in the loop's next turn, and what they
        ask for then leaves together at its end.
        """
        self.core.on_messages(messages, self._loop.time())
        if not self._flush_due and (len(messages) > 1 or type(messages[-1]) is FrameOrdered):
            self._flush_due = True
            self._loop.call_soon(self._flush)
        self._set_timer()
        self._look_if_drained()

    def on_down(self, reason: str, unsent: Frames = ()) -> None:
        """The engine is gone."""
        self.core.on_down(reason, unsent)
        self._look_if_drained()
        self.link_changed(reason)

    async def wait_up(self, timeout_s: float) -> None:
        """Until an engine has answered for the first time.

        Raises:
            NodeUnreachable: none did within `timeout_s`.
        """
        await asyncio.wait([self._first_up], timeout=timeout_s)
        if not self._first_up.done():
            raise NodeUnreachable("any engine", f"no answer within timeout_s={timeout_s}")

    # --- for callers ------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse a call after the end, after a fork, or from another loop."""
        if self._refusal is not None:
            raise self._refusal()
        self.check_loop()

    def check_loop(self) -> None:
        """Refuse a call from another loop."""
        if _running_loop() not in (None, self._loop):
            raise WrongLoop("the log", "belongs to another event loop")

    @property
    def refused(self) -> bool:
        """Whether every new call is; those under way may still learn where LogBooks live."""
        return self._refusal is not None

    def refuse(self, error: Callable[[], BokilogError]) -> None:
        """From now on every call raises this."""
        self._refusal = error
        self.core.forget_routes()

    def deadline(self, timeout_s: float | None, wait_s: float = 0.0) -> tuple[float, float]:
        """(when a call is over, the timeout it has)."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        return self._loop.time() + wait_s + timeout_s, timeout_s

    def new_waiter(self) -> asyncio.Future[int]:
        """For a unit."""
        return self._loop.create_future()

    def new_number(self) -> int:
        """For a query."""
        return self.core.requests.new_number()

    @property
    def spaces(self) -> Sequence[Sequence[object]]:
        """[log space, durability class] of each, as the cluster's engines say."""
        return self.core.welcome.spaces if self.core.welcome is not None else ()

    @property
    def system_session(self) -> Session:
        """What this client has seen as a whole."""
        return self.core.system

    def now_s(self) -> float:
        """The loop's time."""
        return self._loop.time()

    def append(self, book: Book, unit: Unit) -> None:
        """Any append but the usual one, which goes straight to its lane."""
        self.core.append(book, unit, self._loop.time())
        self._set_timer()

    async def append_to(self, route: Route, unit: Unit, waiter: asyncio.Future[int]) -> int:
        """Append to a LogBook that is known to live: the system's."""
        self.core.append_to(route, unit)
        self._set_timer()
        return await waiter

    def ask(
        self,
        query: Query,
        session: Session,
        *,
        deadline_s: float,
        timeout_s: float,
        wait_until_s: float = 0.0,
    ) -> asyncio.Future[Reply]:
        """Put a question to the engine; whoever stops waiting calls `forget`."""
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        request = Request(
            query,
            waiter,
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            wait_until_s=wait_until_s,
        )
        self.core.ask(request, self._loop.time())
        # With more under way, those of this turn leave together, and with its appends.
        if len(self.core.requests) == 1 and not self._flush_due:
            self._flush_port()
        self._set_timer()
        return waiter

    def forget(self, query: Query) -> None:
        """Nobody waits for the answer any more."""
        if self.core.requests.cancel(query.request, self._loop.time()):
            self._wake()

    async def answer(
        self,
        query: Query,
        session: Session,
        *,
        deadline_s: float,
        timeout_s: float,
        wait_until_s: float = 0.0,
    ) -> Reply:
        """Put a question and wait. Cancel-safe because a request without a waiter is forgotten."""
        waiter = self.ask(
            query,
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            wait_until_s=wait_until_s,
        )
        try:
            return await waiter
        except asyncio.CancelledError:
            self.forget(query)
            raise

    async def read(
        self,
        read: Read,
        session: Session,
        *,
        deadline_s: float,
        timeout_s: float,
        wait_until_s: float = 0.0,
    ) -> ReadReply:
        """`answer` for reads, which are the most: without a coroutine of its own in between."""
        waiter = self.ask(
            read,
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            wait_until_s=wait_until_s,
        )
        try:
            reply = await waiter
        except asyncio.CancelledError:
            self.forget(read)
            raise
        if not isinstance(reply, ReadReply):
            raise RemoteProtocolError(f"a read was answered by {type(reply).__name__}")
        return reply

    async def values(
        self, query: Query, session: Session, *, deadline_s: float, timeout_s: float
    ) -> list[object]:
        """`answer` for what is answered by plain values."""
        reply = await self.answer(query, session, deadline_s=deadline_s, timeout_s=timeout_s)
        if not isinstance(reply, Answer):
            raise RemoteProtocolError(
                f"{type(query).__name__} was answered by {type(reply).__name__}"
            )
        return reply.values

    async def tail(
        self, query: Query, session: Session, *, deadline_s: float, timeout_s: float
    ) -> int:
        """`answer` for a tail."""
        reply = await self.answer(query, session, deadline_s=deadline_s, timeout_s=timeout_s)
        if not isinstance(reply, Tail):
            raise RemoteProtocolError(f"a tail was answered by {type(reply).__name__}")
        return reply.tail

    def stats(self) -> ClientStats:
        """What is under way now."""
        return self.core.stats()

    # --- LogBooks ---------------------------------------------------------------------------------

    def route(self, book: Book) -> Route | None:
        """Where the LogBook lives, if that is known."""
        route = book.route or book.next_route
        return route if route is not None and route.live else None

    async def find(
        self,
        book: Book,
        session: Session,
        *,
        deadline_s: float,
        timeout_s: float,
        wait_until_s: float = 0.0,
        linearizable: bool = False,
    ) -> Route | None:
        """Where the LogBook lives; None if there is none, also after waiting for one (P5)."""
        route = self.route(book)
        if route is None:
            route = await routing.find(
                self,
                book.name,
                session,
                deadline_s=deadline_s,
                timeout_s=timeout_s,
                wait_until_s=wait_until_s,
                linearizable=linearizable,
            )
            if route is None:
                return None
            self.core.found(book, route)
            self._remind(route)
            route = self.route(book) or route
        session.observe(0, route.seen_at)
        return route

    async def lives(
        self, book: Book, route: Route, session: Session, *, deadline_s: float, timeout_s: float
    ) -> bool:
        """Whether this incarnation is still the LogBook's; if not, nothing uses it any more."""
        living = await routing.lives(
            self, route, session, deadline_s=deadline_s, timeout_s=timeout_s
        )
        if not living:
            self.core.gone(book, route)
        return living

    def deletion_met(self, number: int) -> None:
        """A deletion was read: whoever made it may not have got to telling the log space (P5)."""
        if number not in self._deletions and len(self._deletions) < 10_000:
            self._deletions.add(number)
            self._start(lambda: routing.delete_again(self, number))

    def deletion_told(self, number: int) -> None:
        """The log space of a deleted LogBook knows."""
        self._deletions.add(number)

    def _find(self, book: Book) -> None:
        self._start(lambda: self._find_or_create(book))

    async def _find_or_create(self, book: Book) -> None:
        created = Created(book.name, "sync", KEY_HORIZON_S)
        deadline_s, timeout_s = self.deadline(None)
        try:
            route = await routing.find_or_create(
                self,
                created,
                self.core.system,
                gone=book.gone,
                deadline_s=deadline_s,
                timeout_s=timeout_s,
            )
        except BokilogError as error:
            reason = f"LogBook {book.name!r}: {error}"
            definite, again = error.definite, (type(error), error.args)
            self.core.not_found(book, lambda: again[0](*again[1]) if definite else NotReady(reason))
        else:
            self.core.found(book, route)
            self._remind(route)

    def _remind(self, route: Route) -> None:
        """Once per LogBook: its log space may not know yet, or not any more, what it keeps."""
        if route.retention_s is None and route.retention_bytes is None:
            return
        if route.number not in self._reminded and len(self._reminded) < 10_000:
            self._reminded.add(route.number)
            self._start(lambda: routing.retain_again(self, route))

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        task = self._loop.create_task(_done(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the loop ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._flush_due:
            self.check_loop()
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self.core.flush(self._loop.time())
        self._flush_port()
        self._set_timer()

    def _flush_port(self) -> None:
        if self.core.port is not None:
            self.core.port.flush()

    def _set_timer(self) -> None:
        wake_s = self.core.wake_s
        if wake_s >= self._timer_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = wake_s
        self._timer = self._loop.call_at(max(wake_s, self._ticked_s + TICK_S_MIN), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at_s = None, NEVER
        self._ticked_s = self._loop.time()
        self.core.tick(self._ticked_s)
        self._set_timer()
        self._look_if_drained()

    # --- the end ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send what is on its way, then close; calls under way end with `Closed`, changes that were
        sent with `AppendUnknown`.

        If cancelled, it closes at once; what was sent is then unknown to its callers.

        Raises:
            WrongLoop: it was called from another loop; the log stays open.
        """
        if self._refusal is not None:
            return
        self.check_loop()
        self.refuse(lambda: Closed("the log"))
        self._drained = asyncio.Event()
        self._look_if_drained()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._drained.wait()
        except TimeoutError:
            pass  # `_end` tells whoever still waits
        finally:
            self._end()
            if self._on_close is not None:
                await self._on_close()

    def _look_if_drained(self) -> None:
        if self._drained is not None and (self.core.idle or not self.core.up):
            self._drained.set()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = 0.0  # so none is set any more, by a flush that is due
        self.core.fail(lambda: Closed("the log"))
        if not self._first_up.done():
            self._first_up.cancel()
        if self.core.port is not None:
            self.core.port.close()

    def forked(self) -> None:
        """This is the child of a fork: the engine, the loop and the sockets are the parent's."""
        self.refuse(lambda: WrongLoop("the log", "belongs to the process before a fork"))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """None where plain code makes a LogBook or a session, which needs no loop."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _done(work: Callable[[], Awaitable[None]]) -> None:
    """Made where it is awaited: a task that is cancelled before it begins leaves none over."""
    try:
        await work()
    except BokilogError:
        pass  # who started it was told; a deletion not repeated now is repeated by the next reader


_ALIVE: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_ALIVE):
        client.forked()


os.register_at_fork(after_in_child=_after_fork)
