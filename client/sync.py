"""The blocking face: the same objects for code without an event loop.

Decides nothing that the asynchronous objects do not: each call runs theirs on a loop in a thread of
its own, one thread per log, and waits. Names, arguments, results and errors are the same; iterators
are ordinary ones, context managers too. An interrupt (Ctrl-C) ends the wait and cancels the call.

Invariants: one log, one thread, which ends with `close`; objects may be used from several threads;
a call that came before the end says itself how it ended, a later one is refused; after a fork every
call is refused, because the thread did not come along.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import wraps
from types import TracebackType
from typing import Concatenate, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from bokilog.client.admin import ClientLog
from bokilog.client.codecs import Codec, codec_for
from bokilog.client.connect import CONNECT_TIMEOUT_S_DEFAULT, connect as connect_async
from bokilog.client.logbook import ClientLogBook
from bokilog.client.node import TIMEOUT_S_DEFAULT
from bokilog.client.session import Session as ClientSession
from bokilog.errors import Closed, InvalidToken, WrongLoop
from bokilog.record import Buffer, CaughtUp, Consistency, Record

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

JOIN_TIMEOUT_S = 5.0
ENDING_S = 1.0  # what calls under way may take to end, once the log that they call has


class Bridge(Protocol):
    """Where a log's loop runs, for those who wait in another thread."""

    def call(self, work: Coroutine[object, None, R]) -> R:
        """Run a coroutine there and wait for it."""
        ...


class LoopThread:
    """An event loop in a daemon thread, for one log."""

    __slots__ = ("_closed", "_closing", "_loop", "_process", "_thread")

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._closed = False
        self._closing = threading.RLock()
        """Held to begin a call and to end the loop: no call begins on a loop that has ended. The
        same thread may come twice: an iterator may be collected while it begins a call.
        """
        self._thread = threading.Thread(target=self._run, name="bokilog-sync", daemon=True)
        self._thread.start()

    @property
    def left_behind(self) -> bool:
        """Whether this is the child of a fork, into which the thread did not come along."""
        return os.getpid() != self._process

    def call(self, work: Coroutine[object, None, R]) -> R:
        """Run a coroutine there and wait for it."""
        problem = self._misplaced()
        if problem is not None:
            work.close()
            raise problem
        with self._closing:
            if self._closed:
                work.close()
                raise Closed("the log")
            done: Future[R] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result()
        except BaseException:
            done.cancel()  # an interrupt of this thread: nobody waits any more
            raise

    def _misplaced(self) -> WrongLoop | None:
        if self.left_behind:  # beside a hop between threads this costs nothing
            return WrongLoop("the log", "belongs to the process before a fork")
        if threading.current_thread() is self._thread:
            return WrongLoop("the blocking log", "was called from its own thread")
        return None

    def close(self) -> None:
        """End the loop and the thread."""
        if self.left_behind:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(_ended(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _ended(tasks: set[asyncio.Task[object]]) -> None:
    """Calls that are left end by themselves, as their log has: only they know how they ended."""
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=ENDING_S)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _blocking_log(
    method: Callable[Concatenate[ClientLog, P], Coroutine[object, None, R]],
) -> Callable[Concatenate[Log, P], R]:
    @wraps(method)
    def call(self: Log, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._thread.call(method(self._log, *args, **kwargs))

    return call


def _blocking_book(
    method: Callable[Concatenate[ClientLogBook[T], P], Coroutine[object, None, R]],
) -> Callable[Concatenate[LogBook[T], P], R]:
    @wraps(method)
    def call(self: LogBook[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._thread.call(method(self._book, *args, **kwargs))

    return call


class Session:
    """What a caller has seen; see `bokilog.Session`."""

    __slots__ = ("_session", "_thread")

    def __init__(self, thread: LoopThread, session: ClientSession) -> None:
        self._thread = thread
        self._session = session

    @property
    def asynchronous(self) -> ClientSession:
        """The session under it."""
        return self._session

    @property
    def token(self) -> str:
        """What was seen so far, as text for a header, a message or a child's arguments."""
        return self._thread.call(self._token())

    def merge(self, token: str) -> None:
        """Take over what the holder of `token` has seen. Raises `InvalidToken`."""
        self._thread.call(self._merge(token))

    # On the loop's thread, because that is where answers move the session on.
    async def _token(self) -> str:
        return self._session.token

    async def _merge(self, token: str) -> None:
        self._session.merge(token)


class LogBook(Generic[T]):
    """One totally ordered log of records; see `bokilog.LogBook`."""

    __slots__ = ("_book", "_thread")

    def __init__(self, thread: Bridge, book: ClientLogBook[T]) -> None:
        self._thread = thread
        self._book = book

    def __repr__(self) -> str:
        return repr(self._book)

    @property
    def name(self) -> str:
        """The name given to `Log.book`."""
        return self._book.name

    append = _blocking_book(ClientLogBook[T].append)
    append_batch = _blocking_book(ClientLogBook[T].append_batch)
    read_next = _blocking_book(ClientLogBook[T].read_next)
    read_prev = _blocking_book(ClientLogBook[T].read_prev)
    read = _blocking_book(ClientLogBook[T].read)
    read_bytes = _blocking_book(ClientLogBook[T].read_bytes)
    read_range = _blocking_book(ClientLogBook[T].read_range)
    tail = _blocking_book(ClientLogBook[T].tail)
    trim = _blocking_book(ClientLogBook[T].trim)
    hold = _blocking_book(ClientLogBook[T].hold)
    release = _blocking_book(ClientLogBook[T].release)
    set_aux = _blocking_book(ClientLogBook[T].set_aux)
    seqnum_at = _blocking_book(ClientLogBook[T].seqnum_at)
    info = _blocking_book(ClientLogBook[T].info)

    def scan(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        reverse: bool = False,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Generator[Record, None, None]:
        """Every visible record of `tag` in `[min_seqnum, until)`, then the end."""
        pages = self._book.scan_pages(
            tag=tag,
            min_seqnum=min_seqnum,
            until=until,
            reverse=reverse,
            timeout_s=timeout_s,
            consistency=consistency,
        )
        for records in _iterated(self._thread, pages):
            yield from records

    @overload
    def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: Literal[False] = False
    ) -> Generator[Record, None, None]: ...
    @overload
    def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: Literal[True]
    ) -> Generator[Record | CaughtUp, None, None]: ...
    def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: bool = False
    ) -> Generator[Record | CaughtUp, None, None]:
        """Every visible record of `tag` from `min_seqnum` on, for ever, in order, without gaps."""
        turns = self._book.follow_pages(tag=tag, min_seqnum=min_seqnum)
        for records, seqnum in _iterated(self._thread, turns):
            yield from records
            if caught_up and seqnum is not None:
                yield CaughtUp(seqnum)


def _iterated(thread: Bridge, generator: AsyncGenerator[R, None]) -> Generator[R, None, None]:
    """An asynchronous generator as an ordinary one: a hop between threads per page."""
    try:
        while (page := thread.call(_next(generator))) is not None:
            yield page
    finally:
        try:
            thread.call(_end(generator))
        except (Closed, WrongLoop):
            pass  # the log was closed first, and the generator ended with it


async def _next(generator: AsyncGenerator[R, None]) -> R | None:
    return await anext(generator, None)


async def _end(generator: AsyncGenerator[R, None]) -> None:
    await generator.aclose()


class Log:
    """A connection to a log, or an embedded one; a context manager that closes it."""

    __slots__ = ("_log", "_thread")

    def __init__(self, thread: LoopThread, log: ClientLog) -> None:
        self._thread = thread
        self._log = log

    def __repr__(self) -> str:
        return repr(self._log)

    create_book = _blocking_log(ClientLog.create_book)
    delete_book = _blocking_log(ClientLog.delete_book)
    books = _blocking_log(ClientLog.books)

    @overload
    def book(
        self, name: str, *, session: Session | None = None, system_tags: bool = False
    ) -> LogBook[Buffer]: ...
    @overload
    def book(
        self,
        name: str,
        *,
        type: type[T],
        session: Session | None = None,
        system_tags: bool = False,
    ) -> LogBook[T]: ...
    @overload
    def book(
        self,
        name: str,
        *,
        codec: Codec[T] | str,
        session: Session | None = None,
        system_tags: bool = False,
    ) -> LogBook[T]: ...
    def book(
        self,
        name: str,
        *,
        type: type[T] | None = None,
        codec: Codec[T] | str | None = None,
        session: Session | None = None,
        system_tags: bool = False,
    ) -> LogBook[T] | LogBook[Buffer]:
        """The LogBook of that name, whether it exists or not; see `bokilog.ClientLog.book`."""
        if session is not None and not isinstance(session, Session):
            raise InvalidToken(repr(session), "is of another log's session")

        async def book() -> ClientLogBook[T]:
            return self._log.typed_book(
                name,
                codec_for(type, codec),
                session=session.asynchronous if session is not None else None,
                system_tags=system_tags,
            )

        return LogBook(self._thread, self._thread.call(book()))

    def session(self, token: str | None = None) -> Session:
        """A new session that has seen what `token` says; None: all that this connection has."""

        async def session() -> ClientSession:
            return self._log.session(token)

        return Session(self._thread, self._thread.call(session()))

    def close(self) -> None:
        """Send what is on its way, then close; again it does nothing, other calls: `Closed`.

        In the child of a fork it does nothing either: the log is its parent's.
        """
        if self._thread.left_behind:
            return
        try:
            self._thread.call(self._log.aclose())
        except Closed:
            return
        finally:
            self._thread.close()

    def aclose(self) -> None:
        """`close`, under the name that the asynchronous log has for it."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    url: str | None = None,
    *,
    timeout_s: float = TIMEOUT_S_DEFAULT,
    connect_timeout_s: float = CONNECT_TIMEOUT_S_DEFAULT,
) -> Log:
    """Connect to a log, for code without an event loop; arguments as in `bokilog.connect`.

    Raises:
        InvalidSettings: the URL is none.
        NodeUnreachable: none of its seeds answered within `connect_timeout_s`.
    """

    async def connected() -> ClientLog:
        return await connect_async(url, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)

    return run_blocking(connected)


def run_blocking(opened: Callable[[], Coroutine[object, None, ClientLog]]) -> Log:
    """A log as blocking object: `opened` is run on the loop that will serve it."""
    thread = LoopThread()
    try:
        return Log(thread, thread.call(opened()))
    except BaseException:
        thread.close()
        raise


def open(
    directory: str | os.PathLike[str] | None = None, *, timeout_s: float = TIMEOUT_S_DEFAULT
) -> Log:
    """Open an embedded log in a directory, or with None in memory, for code without a loop.

    Args:
        directory: as in `bokilog.open`.
        timeout_s: of calls that name none.

    Raises as `bokilog.open` when awaited.
    """
    if directory is None:
        return connect("memory:", timeout_s=timeout_s)
    from bokilog.io.directory import path_of  # here: whoever connects needs none of it

    return connect(f"file:{path_of('directory', directory)}", timeout_s=timeout_s)
