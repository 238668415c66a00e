"""The pytest plugin: the fixture `bokilog_log`, a log in memory of its own for every test.

Decides when that log opens and closes. A log belongs to one event loop, and each way to run a
coroutine in a test brings a loop of its own: pytest-asyncio, anyio, `asyncio.run` in a plain test.
So the fixture is an ordinary one that depends on none of them, and its log opens at its first use
inside a running loop: at once, since a log in memory has nothing to wait for.

Invariants: a test that does not use its log opens none; the log closes inside its own loop, with
that loop or at the fixture's teardown, whichever comes first; no two tests share a record.
Importing this module imports neither the rest of bokilog nor asyncio: every pytest run of an
environment with bokilog in it does that, whatever it tests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    import asyncio

    from bokilog.client.admin import ClientLog


@pytest.fixture
def bokilog_log() -> Iterator[ClientLog]:
    """A log in memory for this test alone; all of `bokilog.Log`, opened in the test's event loop.

    `async def test_x(bokilog_log): await bokilog_log.book("a").append(b"x")`. `book` and `session`
    may be called before there is a loop, in ordinary fixtures for example.
    """
    log = LazyLog()
    yield cast("ClientLog", log)
    log.close()


class LazyLog:
    """A log in memory that opens when it is first used inside a running event loop."""

    __slots__ = ("_life", "_log", "_loop")

    def __init__(self) -> None:
        self._log: ClientLog | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: AsyncGenerator[ClientLog, None] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._opened(), name)

    def book(self, name: str, **options: object) -> object:
        """As `bokilog.Log.book`; without a running loop, a LogBook that waits for one."""
        return self._now_or_later("book", name, **options)

    def session(self, token: str | None = None) -> object:
        """As `bokilog.Log.session`; without a running loop, a session that waits for one."""
        return self._now_or_later("session", token)

    async def __aenter__(self) -> ClientLog:
        return self._opened()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._opened().aclose()

    def close(self) -> None:
        """Close it in its loop, unless that loop has ended, and the log with it."""
        loop, life = self._loop, self._life
        if loop is None or life is None or loop.is_closed() or loop.is_running():
            return
        loop.run_until_complete(life.aclose())

    def _now_or_later(self, method: str, *args: object, **options: object) -> object:
        def make() -> object:
            given = {name: _made(value) for name, value in options.items()}
            result: object = getattr(self._opened(), method)(*args, **given)
            return result

        return make() if self._log is not None or _running_loop() is not None else Lazy(make)

    def _opened(self) -> ClientLog:
        if self._log is None:
            self._loop = _running_loop()
            if self._loop is None:
                raise RuntimeError(
                    "bokilog_log opens in the event loop of the test, and none is running: "
                    "use it in a coroutine"
                )
            self._life = _life()
            self._log = _first(self._life)
        return self._log


class Lazy:
    """A LogBook or a session that was asked for before the log could open."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._made: object = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.made(), name)

    def made(self) -> object:
        """The real one; the log opens now if it has not."""
        if self._made is None:
            self._made = self._make()
        return self._made


def _made(value: object) -> object:
    """What the log takes as an argument: its own session, not the one that waited for it."""
    return value.made() if isinstance(value, Lazy) else value


async def _life() -> AsyncGenerator[ClientLog, None]:
    """The log's life as a generator: an event loop that ends closes those that it has begun."""
    import bokilog

    async with bokilog.open() as log:
        yield log


def _first(life: AsyncGenerator[ClientLog, None]) -> ClientLog:
    """What the generator yields first, without waiting."""
    try:
        life.__anext__().__await__().__next__()
    except StopIteration as opened:
        return cast("ClientLog", opened.value)
    raise AssertionError("opening a log in memory waited for something")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    from asyncio import get_running_loop

    try:
        return get_running_loop()
    except RuntimeError:
        return None
