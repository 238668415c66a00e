"""The call that this code runs for: what it may use, and what its own calls inherit from it.

Decides what goes down with a child call (session token, depth, what is left of the time) and what
comes back from it (its token, merged). The current call is found by a context variable, so that it
follows tasks and threads; `Context` is also what functions get where a parameter is annotated so.

Invariants: a session never goes back; a child's deadline is never later than its parent's.
Does not know: how a call runs (`run_call.py`), links.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, overload

from bokilog.client.session import Session, decode_token
from bokilog.errors import NotReady, NotSupported, WrongLoop
from bokilog.functions.runtime.caller import HostCalls, OpenCall
from bokilog.record import Buffer

if TYPE_CHECKING:
    from bokilog.client.admin import ClientLog
    from bokilog.client.codecs import Codec
    from bokilog.client.logbook import ClientLogBook
    from bokilog.client.sync import LogBook as BlockingLogBook
    from bokilog.functions.runtime.tracing import Spans

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class Place:
    """The process that calls run in, as they see it."""

    app: str
    host: str
    """Of the node it is on."""
    calls: HostCalls
    """The calls that it makes itself."""
    loop: asyncio.AbstractEventLoop
    open_log: Callable[[], Awaitable[ClientLog]] | None
    """Waits for the connection to the node's engine; None: there is no log here."""
    log: ClientLog | None = None
    """That connection, once it stands."""
    spans: Spans | None = None
    """What makes spans of calls and appends; None: they are not traced."""
    before_spawn: Callable[[], Awaitable[None]] | None = None
    """What has to be there before durable calls are accepted; None: that is others' business."""

    @property
    def connecting(self) -> bool:
        """Whether there will be a log, and is none yet."""
        return self.log is None and self.open_log is not None

    async def connected_log(self) -> ClientLog | None:
        """The log, as soon as it is connected; None where there is none."""
        if self.log is None and self.open_log is not None:
            self.log = await self.open_log()
        return self.log


def session_of(token: str) -> Session:
    """The session that a token tells of, before any log is connected."""
    seen = decode_token(token)
    return Session(seen.history_id, seen.positions, seen.trims)


class Context:
    """One call of a function, for the code it runs: put `ctx: bokilog.Context` first in its
    parameters and it gets its own. Callers never pass it."""

    __slots__ = (
        "_cancelled",
        "_given",
        "_logger",
        "_place",
        "_session",
        "attempt",
        "call",
        "call_id",
        "children",
        "deadline_s",
        "depth",
        "function",
        "trace",
    )

    def __init__(
        self,
        place: Place,
        *,
        function: str,
        call_id: str,
        deadline_s: float,
        attempt: int = 0,
        depth: int = 0,
        token: str = "",
        trace: str = "",
        call: int = 0,
    ) -> None:
        self.call = call
        """Its number on the link to its host."""
        self._place = place
        self._given = token
        self._session: Session | None = None
        self._cancelled = False
        self._logger: logging.Logger | None = None
        self.function = function
        """Its name."""
        self.call_id = call_id
        """What people and records call this call by; the same for every attempt."""
        self.attempt = attempt
        """0, then one more each time it is started again."""
        self.depth = depth
        """0 for a call from outside; one more for each call within a call."""
        self.deadline_s = deadline_s
        """When it has to be over, by `time.monotonic()`."""
        self.trace = trace
        """A W3C traceparent; empty: not traced."""
        self.children: set[OpenCall] = set()
        """Calls it made that are not over."""

    def __repr__(self) -> str:
        return f"<Context {self.function} {self.call_id}>"

    # --- for functions ---

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the result any more. Async functions are told so, sync ones ask."""
        return self._cancelled

    @property
    def left_s(self) -> float:
        """Seconds until its deadline; at most 0 once that has passed."""
        return self.deadline_s - time.monotonic()

    @property
    def logger(self) -> logging.Logger:
        """Of the function; what it says is kept with the call's output."""
        if self._logger is None:
            self._logger = logging.getLogger(f"{self._place.app}.{self.function}")
        return self._logger

    @property
    def log(self) -> ClientLog:
        """The log, through this node's engine; prefer `book`, which keeps to the call's session."""
        if self._place.log is None:
            if self._place.open_log is None:
                raise NotSupported("ctx.log", "these functions were started without a log")
            raise NotReady("the engine of this node is not connected yet")
        return self._place.log

    @property
    def session(self) -> Session:
        """What this call has seen of the log: its caller's past, its own, and its calls'."""
        if self._session is None:
            self._session = self.log.session(self._given or None)
        return self._session

    @property
    def sync(self) -> BlockingContext:
        """For sync functions, which run in threads: the same with blocking calls."""
        return BlockingContext(self)

    @overload
    def book(self, name: str, *, system_tags: bool = False) -> ClientLogBook[Buffer]: ...
    @overload
    def book(self, name: str, *, type: type[T], system_tags: bool = False) -> ClientLogBook[T]: ...
    @overload
    def book(
        self, name: str, *, codec: Codec[T], system_tags: bool = False
    ) -> ClientLogBook[T]: ...
    @overload
    def book(
        self, name: str, *, codec: str, system_tags: bool = False
    ) -> ClientLogBook[object]: ...
    def book(
        self,
        name: str,
        *,
        type: type[T] | None = None,
        codec: Codec[T] | str | None = None,
        system_tags: bool = False,
    ) -> ClientLogBook[T] | ClientLogBook[Buffer] | ClientLogBook[object]:
        """A LogBook seen through the call's session: it reads what its caller has written.

        Args:
            name: 1 to 128 bytes of UTF-8, not starting with `$`.
            type: of what is appended, as in `bokilog.ClientLog.book`.
            codec: instead of a type.
            system_tags: whether tags may start with `$`.
        """
        from bokilog.client.codecs import codec_for

        found = codec_for(type, codec)
        if self._place.spans is not None:
            return self.log.typed_book(
                name,
                found,
                session=self.session,
                system_tags=system_tags,
                kind=self._place.spans.book_kind,
            )
        return self.log.typed_book(name, found, session=self.session, system_tags=system_tags)

    # --- as a caller of other functions ---

    @property
    def place(self) -> Place:
        """The process it runs in."""
        return self._place

    @property
    def calls(self) -> HostCalls:
        """Where its own calls go."""
        return self._place.calls

    @property
    def child_depth(self) -> int:
        """Of the calls that it makes."""
        return self.depth + 1

    @property
    def host(self) -> str:
        """Of the node it runs on."""
        return self._place.host

    async def connected_log(self) -> ClientLog | None:
        """The log, once it is connected; None where there is none."""
        return await self._place.connected_log()

    def token(self) -> str:
        """What its calls have to see: all that it has seen."""
        return self._session.token if self._session is not None else self._given

    def seen(self) -> str:
        """What its caller has not seen: empty if it touched no log."""
        return self._session.token if self._session is not None else ""

    def merge(self, token: str) -> None:
        """One of its calls came back with what it has seen.

        Raises:
            HistoryChanged: the log was restored meanwhile.
        """
        if not token:
            return
        if self._session is None:
            self._session = session_of(self._given or token)
        self._session.merge(token)

    def session_for(self, log: ClientLog) -> Session:
        """The session, for payloads by reference."""
        if self._session is None:
            self._session = log.session(self._given or None)
        return self._session

    def cancel(self) -> None:
        """Nobody wants its result any more: nor those of its calls."""
        self._cancelled = True
        for opened in tuple(self.children):
            self.calls.cancel(opened, "its caller was cancelled")


class BlockingContext:
    """A context for sync functions: the calls of `ctx`, blocking."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    @overload
    def book(self, name: str, *, system_tags: bool = False) -> BlockingLogBook[Buffer]: ...
    @overload
    def book(
        self, name: str, *, type: type[T], system_tags: bool = False
    ) -> BlockingLogBook[T]: ...
    @overload
    def book(
        self, name: str, *, codec: Codec[T] | str, system_tags: bool = False
    ) -> BlockingLogBook[T]: ...
    def book(
        self,
        name: str,
        *,
        type: type[T] | None = None,
        codec: Codec[T] | str | None = None,
        system_tags: bool = False,
    ) -> BlockingLogBook[T] | BlockingLogBook[Buffer]:
        """As `Context.book`, with blocking calls."""
        from bokilog.client.codecs import codec_for
        from bokilog.client.sync import LogBook

        context, found = self._context, codec_for(type, codec)

        async def book() -> ClientLogBook[T]:
            return context.log.typed_book(
                name, found, session=context.session, system_tags=system_tags
            )

        bridge = LoopBridge(context.place.loop)
        return LogBook(bridge, bridge.call(book()))


class LoopBridge:
    """The loop of this process, for its threads."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, work: Coroutine[object, None, R]) -> R:
        """Run a coroutine on the loop, in the context of this thread, and wait for it."""
        if _running_loop() is not None:
            work.close()
            raise WrongLoop("a blocking call", "would stop this event loop")
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result()
        except BaseException:
            done.cancel()
            raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


current: ContextVar[Context | None] = ContextVar("bokilog_call", default=None)
"""The call that this code runs for; None outside of calls."""


def current_call() -> int:
    """The number of the call that this code runs for; 0: none."""
    context = current.get()
    return context.call if context is not None else 0
