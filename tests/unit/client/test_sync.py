"""The blocking face: the same objects from a thread without a loop."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

import pytest

import bokilog.sync
from bokilog.client import sync
from bokilog.client.admin import ClientLog
from bokilog.client.logbook import ClientLogBook
from bokilog.client.node import Client
from bokilog.client.sync import LoopThread, run_blocking
from bokilog.errors import (
    Closed,
    ConditionFailed,
    InvalidRange,
    InvalidSettings,
    InvalidToken,
    WrongLoop,
)
from bokilog.record import CaughtUp, Entry, Record
from tests.unit.client.fake_engine import FakeEngine


async def over_a_fake() -> ClientLog:
    return ClientLog(Client(FakeEngine().attach))


@pytest.fixture
def log() -> Iterator[sync.Log]:
    with run_blocking(over_a_fake) as opened:
        yield opened


@dataclass
class Order:
    id: int


def test_what_is_no_path_is_not_opened() -> None:
    for said in (5, b"x", "a\0", ""):
        with pytest.raises(InvalidSettings, match="directory="):
            sync.open(said)  # type: ignore[arg-type]


def test_opening_takes_the_timeout_of_calls_that_name_none(tmp_path: Path) -> None:
    for directory in (None, tmp_path / "shop"):
        with sync.open(directory, timeout_s=3) as log:
            assert log._log.client.timeout_s == 3
        with pytest.raises(InvalidRange, match="timeout_s=-1"):
            sync.open(directory, timeout_s=-1)


def test_every_call_of_the_asynchronous_objects_is_there() -> None:
    for blocking, asynchronous in ((sync.LogBook, ClientLogBook), (sync.Log, ClientLog)):
        names = {name for name in vars(asynchronous) if not name.startswith("_")}
        internal = {"append_for", "scan_pages", "follow_pages", "typed_book", "client"}
        assert names - internal <= set(dir(blocking))
    assert bokilog.sync.connect is sync.connect


def test_appending_and_reading(log: sync.Log) -> None:
    book = log.book("orders")
    seqnum = book.append(b"1", "t")
    span = book.append_batch([Entry(b"2", "t"), Entry(b"3", "t")])
    found = book.read(seqnum)
    assert found is not None and found.data == b"1"
    assert [record.data for record in book.scan(tag="t")] == [b"1", b"2", b"3"]
    assert [r.data for r in book.scan(tag="t", reverse=True)] == [b"3", b"2", b"1"]
    assert book.trim(span[0]).until == span[0]
    with pytest.raises(ConditionFailed):
        book.append(b"4", "t", unless={"t": 0})
    assert [info.book for info in log.books()] == ["orders"]
    assert book.name == "orders" and "orders" in repr(book)


def test_following_ends_when_the_caller_stops(log: sync.Log) -> None:
    book = log.book("orders")
    book.append(b"1")
    follow = book.follow(caught_up=True)
    first, caught = next(follow), next(follow)
    assert isinstance(first, Record) and isinstance(caught, CaughtUp)
    threading.Timer(0.02, book.append, (b"2",)).start()
    second = next(follow)
    assert isinstance(second, Record) and second.data == b"2"
    follow.close()
    assert [r.data for r in itertools.islice(book.follow(), 2)] == [b"1", b"2"]


def test_sessions_and_types(log: sync.Log) -> None:
    session = log.session()
    book = log.book("orders", type=Order, session=session)
    before = session.token
    seqnum = book.append(Order(5))
    assert session.token != before
    other = log.session(session.token)
    other.merge(before)
    found = log.book("orders", codec="json", session=other).read(seqnum)
    assert found is not None and found.value == {"id": 5}
    with pytest.raises(InvalidToken):
        log.session("x")
    with pytest.raises(InvalidToken):
        log.book("orders", session=object())  # type: ignore[call-overload]


def test_several_threads_share_one_log(log: sync.Log) -> None:
    book = log.book("orders")
    threads = [
        threading.Thread(target=lambda: [book.append(b"x") for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(book.scan())) == 80


def test_after_the_end_every_call_is_refused_and_no_thread_is_left() -> None:
    log = run_blocking(over_a_fake)
    book = log.book("orders")
    book.append(b"x")
    follow = book.follow()
    next(follow)
    log.close()
    log.aclose()
    for call in (lambda: book.append(b"x"), log.books, lambda: list(book.scan()), log.session):
        with pytest.raises(Closed):
            call()
    assert not [t for t in threading.enumerate() if t.name == "bokilog-sync"]


def test_an_interrupt_ends_a_wait(log: sync.Log) -> None:
    book = log.book("orders")
    book.append(b"x")
    main = threading.main_thread().ident
    assert main is not None
    interrupt = threading.Timer(0.03, signal.pthread_kill, (main, signal.SIGINT))
    # A shell has what it starts in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            book.read_next(tag="never", wait_s=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert book.append(b"y") > 0


def test_its_own_thread_and_the_child_of_a_fork_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread = LoopThread()

    async def from_inside() -> None:
        thread.call(nothing())

    async def nothing() -> None: ...

    with pytest.raises(WrongLoop):
        thread.call(from_inside())
    with monkeypatch.context() as patched:
        patched.setattr("bokilog.client.sync.os.getpid", lambda: -1)
        with pytest.raises(WrongLoop):
            thread.call(nothing())
    thread.close()


def test_the_child_of_a_fork_leaves_a_with_block_as_it_likes(
    log: sync.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("bokilog.client.sync.os.getpid", lambda: -1)
        with pytest.raises(SystemExit), log:
            raise SystemExit
    assert log.book("orders").append(b"x") > 0  # the parent's is open


def test_a_call_under_way_at_the_end_says_itself_how_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sync, "ENDING_S", 0.01)
    thread, ended = LoopThread(), []
    begun = [threading.Event(), threading.Event()]
    stopped, stop = asyncio.Event(), thread._loop.stop

    def stop_and_tell() -> None:
        stopped.set()
        stop()

    monkeypatch.setattr(thread._loop, "stop", stop_and_tell)

    async def some_turns() -> str:
        begun[0].set()
        await stopped.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        return "its result"

    async def forever() -> str:
        begun[1].set()
        await asyncio.Event().wait()
        return "never"

    def call(work: Callable[[], Coroutine[object, None, str]]) -> None:
        try:
            ended.append(thread.call(work()))
        except CancelledError:
            ended.append("cancelled")

    callers = [threading.Thread(target=call, args=(work,)) for work in (some_turns, forever)]
    for caller in callers:
        caller.start()
    for event in begun:
        event.wait(5)
    thread.close()
    for caller in callers:
        caller.join(5)
    assert ended == ["its result", "cancelled"]


def test_a_log_that_cannot_be_opened_leaves_no_thread() -> None:
    with pytest.raises(InvalidSettings):
        bokilog.sync.connect("nonsense")
    assert not [t for t in threading.enumerate() if t.name == "bokilog-sync"]
