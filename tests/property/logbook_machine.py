"""A machine of rules that holds any `Log` to the reference, step by step, with restarts.

Reusable: `logbook_machine(make)` gives the state machine for one implementation; `make` opens it
empty. The machine calls the implementation first and feeds the reference what it may not decide,
the seqnums. Then both must have said the same: value, or error with its attributes.

A session need not have seen the newest state, so the machine keeps the reference as it was after
each change. A session's answer must be that of some state from the one it is known to have seen;
from then on it may not go back behind that one. A linearizable answer must be the newest state's.

Does not check aux data (best effort) nor holds that expire (no implementation's time is ours).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bokilog.errors import BokilogError, to_wire
from bokilog.limits import PAGE_BYTES_MAX, PAGE_RECORDS_MAX, SEQNUM_MAX
from bokilog.logbook import Log, LogBook, Session
from bokilog.record import Consistency, Entry, Page, Record, Trim, Unless, check_unit
from bokilog.reference import ReferenceBook, ReferenceLog

T = TypeVar("T")


class Driven(Protocol):
    """An implementation under test, empty when made."""

    @property
    def log(self) -> Log:
        """The log as it is open now; another object after a restart."""
        ...

    def run(self, call: Awaitable[T]) -> T:
        """Run one call to its end."""
        ...

    def restart(self) -> None:
        """Stop it, cleanly or not, and open it again: what was acknowledged has to be there."""
        ...

    def close(self) -> None:
        """Stop it for good and let go of everything it used."""
        ...


class OnALoop:
    """A `Driven` that opens a `Log` in this process, on an event loop of its own."""

    def __init__(self, open_log: Callable[[], AbstractAsyncContextManager[Log]]) -> None:
        self._open = open_log
        self._runner = asyncio.Runner()
        self._context = open_log()
        self.log = self.run(self._context.__aenter__())

    def run(self, call: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(15):
                return await call

        return self._runner.run(bounded())

    def restart(self) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self._context = self._open()
        self.log = self.run(self._context.__aenter__())

    def close(self) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self._runner.close()


class Seen:
    """A session and the first state that it can still be at."""

    def __init__(self, session: Session, position: int) -> None:
        self.session = session
        self.position = position


class Failed(NamedTuple):
    """An error as a value: its wire form."""

    parts: tuple[object, ...]


Shown: TypeAlias = tuple[int, bytes, tuple[str, ...]]  # a record, without what only one side knows

# A unit, what it tests (tag, and which seqnum to give as `after`), and its key.
Attempt: TypeAlias = tuple[list[Entry], list[tuple[str | None, str]] | None, str | None]

BOOKS = ("orders", "stock")
TAGS = ("a", "b", "c")
SESSIONS = 2
LARGE = b"L"  # stands for a record of several blocks, which would make the failing steps unreadable
DATA = st.binary(max_size=3) | st.just(LARGE)
SOME_TAGS = st.lists(st.sampled_from(TAGS), max_size=3).map(tuple)
ENTRIES = st.lists(st.builds(Entry, DATA, SOME_TAGS), min_size=1, max_size=4)
TESTED = st.none() | st.lists(
    st.tuples(st.none() | st.sampled_from(TAGS), st.sampled_from(["last", "zero", "before"])),
    min_size=1,
    max_size=2,
)
KEYS = st.none() | st.none() | st.sampled_from(["k1", "k2", "k3"])
ATTEMPT = st.tuples(ENTRIES, TESTED, KEYS)
ATTEMPTS = st.lists(ATTEMPT, min_size=1, max_size=5)
BOOK = st.sampled_from(["orders", "orders", "orders", "stock"])  # one with much in it finds more
ONE_TAG = st.none() | st.sampled_from(TAGS)
WHO = st.integers(0, SESSIONS - 1)
PLACE = st.integers(0, 999)  # which of the positions worth asking about
HOW: st.SearchStrategy[Consistency] = st.sampled_from(["session", "session", "linearizable"])


class LogBookMachine(RuleBasedStateMachine):
    """The rules; `logbook_machine` makes the class that knows what to drive."""

    make: Callable[[], Driven]

    def __init__(self) -> None:
        super().__init__()
        self.driven: Driven | None = None
        self.reference = ReferenceLog()
        self.states = [self.reference.copy()]
        self.times: dict[int, int] = {}  # seqnum -> timestamp, as first seen

    @initialize(attempts=ATTEMPTS)
    def open(self, attempts: list[Attempt]) -> None:
        self.driven = type(self).make()
        self.seen = [Seen(self.driven.log.session(), 0) for _ in range(SESSIONS)]
        self.append(0, "orders", attempts)

    def teardown(self) -> None:
        if self.driven is not None:
            self.driven.close()

    # --- changes ---

    def append(self, who: int, name: str, attempts: list[Attempt]) -> None:
        """Several at once, in issue order; one record goes through `append`."""
        book = self._book(who, name)
        asked = [(_full(unit), self._unless(name, tested), key) for unit, tested, key in attempts]
        calls = [_append(book, unit, unless, key) for unit, unless, key in asked]
        for (unit, unless, key), got in zip(asked, self._run(_together(calls)), strict=True):
            assert got == self._decided(name, unit, unless, key, got)
        self._changed(who)

    @rule(who=WHO, name=BOOK, attempts=ATTEMPTS)
    def append_several(self, who: int, name: str, attempts: list[Attempt]) -> None:
        self.append(who, name, attempts)

    @rule(who=WHO, name=BOOK, attempt=ATTEMPT)
    def append_one(self, who: int, name: str, attempt: Attempt) -> None:
        self.append(who, name, [attempt])

    @rule(who=WHO, name=BOOK, place=PLACE, tag=ONE_TAG)
    def trim(self, who: int, name: str, place: int, tag: str | None) -> None:
        self._meet_tail(name)
        until = self._position(name, place)
        got = self._try(self._book(who, name).trim(until, tag))
        wanted = _tried(lambda: self.reference.existing(name).trim(until, tag=tag))
        assert _no_less_than_one(got) == _no_less_than_one(wanted)
        self._changed(who)

    @rule(who=WHO, name=BOOK, place=PLACE, hold=st.sampled_from(["h1", "h2"]))
    def hold(self, who: int, name: str, place: int, hold: str) -> None:
        at = max(1, self._position(name, place))
        got = self._try(self._book(who, name).hold(hold, at, 3600))
        assert got == _tried(lambda: self.reference.existing(name).hold(hold, at, ttl_s=3600))
        self._changed(who)

    @precondition(lambda self: any(book.holds for book in self.reference.books.values()))
    @rule(who=WHO, name=BOOK, hold=st.sampled_from(["h1", "h2"]))
    def release(self, who: int, name: str, hold: str) -> None:
        got = self._try(self._book(who, name).release(hold))
        assert got == _tried(lambda: self.reference.existing(name).release(hold))
        self._changed(who)

    @rule(who=WHO, name=BOOK, sure=st.sampled_from([True, False, False, False]))
    def delete(self, who: int, name: str, sure: bool) -> None:
        if not sure:
            return
        got = self._try(self._log.delete_book(name))
        assert got == _tried(lambda: self.reference.delete_book(name))
        self._changed(None)

    # --- reads ---

    @rule(who=WHO, name=BOOK, tag=ONE_TAG, place=PLACE, how=HOW)
    def read_next(self, who: int, name: str, tag: str | None, place: int, how: Consistency) -> None:
        at = self._position(name, place)
        got = self._try(self._book(who, name).read_next(tag=tag, min_seqnum=at, consistency=how))
        self._match(who, name, how, got, lambda b: b.read_next(tag=tag, min_seqnum=at))

    @rule(who=WHO, name=BOOK, tag=ONE_TAG, place=PLACE | st.none(), how=HOW)
    def read_prev(
        self, who: int, name: str, tag: str | None, place: int | None, how: Consistency
    ) -> None:
        at = None if place is None else self._position(name, place)
        got = self._try(self._book(who, name).read_prev(tag=tag, max_seqnum=at, consistency=how))
        self._match(who, name, how, got, lambda b: b.read_prev(tag=tag, max_seqnum=at))

    @rule(who=WHO, name=BOOK, place=PLACE, how=HOW)
    def read(self, who: int, name: str, place: int, how: Consistency) -> None:
        at = max(1, self._position(name, place))
        got = self._try(self._book(who, name).read(at, consistency=how))
        self._match(who, name, how, got, lambda b: b.read(at))

    @rule(who=WHO, name=BOOK, place=PLACE, start=st.integers(0, 70_000), how=HOW)
    def read_bytes(self, who: int, name: str, place: int, start: int, how: Consistency) -> None:
        at = max(1, self._position(name, place))
        until = start + 70_000
        got = self._try(self._book(who, name).read_bytes(at, start, until, consistency=how))

        def cut_out(book: ReferenceBook) -> bytes | None:
            record = book.read(at)
            return None if record is None else record.data[start:until]

        self._match(who, name, how, got, cut_out)

    @rule(
        who=WHO,
        name=BOOK,
        tag=ONE_TAG,
        places=st.tuples(PLACE, PLACE | st.none()),
        limit=st.sampled_from([1, 2, 3, 100]),
        reverse=st.booleans(),
        how=HOW,
    )
    def read_range(
        self,
        who: int,
        name: str,
        tag: str | None,
        places: tuple[int, int | None],
        limit: int,
        reverse: bool,
        how: Consistency,
    ) -> None:
        low = self._position(name, places[0])
        until = None if places[1] is None else max(low, self._position(name, places[1]))
        book = self._book(who, name)
        got = self._try(
            book.read_range(
                tag=tag, min_seqnum=low, until=until, limit=limit, reverse=reverse, consistency=how
            )
        )

        def fits(state: ReferenceBook) -> bool:
            everything = _tried(
                lambda: state.read_range(
                    tag=tag,
                    min_seqnum=low,
                    until=until,
                    limit=PAGE_RECORDS_MAX,
                    max_bytes=PAGE_BYTES_MAX,
                    reverse=reverse,
                )
            )
            if isinstance(got, Failed) or isinstance(everything, Failed):
                return got == everything
            return _is_page_of(got, everything.records, low=low, limit=limit, reverse=reverse)

        self._fit(who, name, how, fits, got)
        if isinstance(got, Page):
            self._remember(got.records)

    @rule(who=WHO, name=BOOK, tag=ONE_TAG, reverse=st.booleans())
    def scan(self, who: int, name: str, tag: str | None, reverse: bool) -> None:
        """The whole of it, linearizably: what every acknowledged step left behind."""
        book = self._book(who, name)

        async def scanned() -> list[Record]:
            return [
                record
                async for record in book.scan(tag=tag, reverse=reverse, consistency="linearizable")
            ]

        got = self._try(scanned())
        state = self.reference.book(name)
        wanted = state.visible(tag, 0, state.tail)
        assert isinstance(got, list), f"{got} instead of {wanted}"
        assert _shown(got) == _shown(wanted[::-1] if reverse else wanted)
        self._remember(got)
        self.seen[who].position = len(self.states) - 1

    @rule(name=BOOK, place=PLACE)
    def seqnum_at(self, name: str, place: int) -> None:
        """Only for times that were seen already; the newest state, by the connection's session."""
        known = sorted(set(self.times.values()))
        if known and all(r.seqnum in self.times for r in self.reference.book(name).records):
            time_ms = known[place % len(known)]
            self._run(self._log.book(name).read_next(consistency="linearizable"))
            got = self._run(self._log.book(name).seqnum_at(time_ms))
            state = self.reference.book(name)
            kept = state.visible(None, 0, state.tail)
            late = [r.seqnum for r in kept if self.times[r.seqnum] >= time_ms]
            behind = state.tail if name in self.reference.books else 1
            assert got == late[0] if late else got >= behind

    # --- sessions and restarts ---

    @rule(who=WHO, other=WHO, merged=st.booleans())
    def pass_on(self, who: int, other: int, merged: bool) -> None:
        """A token makes a session that has seen as much, or is merged into one."""
        token, position = self.seen[other].session.token, self.seen[other].position
        if merged:
            self.seen[who].session.merge(token)
            self.seen[who].position = max(self.seen[who].position, position)
        else:
            self.seen[who] = Seen(self._log.session(token), position)

    @rule()
    def tail(self) -> None:
        for name in BOOKS:
            self._meet_tail(name)

    @precondition(lambda self: self.restarts)
    @rule(sure=st.sampled_from([True, False, False]))
    def restart(self, sure: bool) -> None:
        if sure:
            tokens = [seen.session.token for seen in self.seen]
            assert self.driven is not None
            self.driven.restart()
            for seen, token in zip(self.seen, tokens, strict=True):
                seen.session = self._log.session(token)

    restarts = True

    # --- how answers are compared ---

    def _decided(
        self, name: str, unit: list[Entry], unless: Unless, key: str | None, got: object
    ) -> range | Failed:
        """The reference's verdict on a unit, at the seqnums that the implementation gave it."""
        tail = self.reference.tail
        new = isinstance(got, range) and got.start >= tail
        wanted = _tried(
            lambda: self.reference.append(
                name,
                check_unit(unit),
                conditions=tuple(unless.items()),
                key=key,
                seqnum=got.start if new and isinstance(got, range) else None,
            )
        )
        if not new:  # void or known already: whether it took seqnums is the implementation's matter
            self.reference.tail = tail
        self.states.append(self.reference.copy())
        return wanted

    def _match(
        self,
        who: int,
        name: str,
        how: Consistency,
        got: object,
        read: Callable[[ReferenceBook], object],
    ) -> None:
        self._fit(who, name, how, lambda b: _shown(got) == _shown(_tried(lambda: read(b))), got)
        if isinstance(got, Record):
            self._remember([got])

    def _fit(
        self,
        who: int,
        name: str,
        how: Consistency,
        fits: Callable[[ReferenceBook], bool],
        got: object,
    ) -> None:
        """Some state that this session may be at gives this answer; the session is there now."""
        newest = len(self.states) - 1
        first = newest if how == "linearizable" else self.seen[who].position
        for position in range(first, newest + 1):
            if fits(self.states[position].book(name)):
                self.seen[who].position = position
                return
        raise AssertionError(f"{got!r} fits no state from {first} to {newest} of {name!r}")

    def _remember(self, records: list[Record]) -> None:
        """One seqnum, one timestamp, for ever; and no later seqnum has an earlier one."""
        for record in records:
            assert self.times.setdefault(record.seqnum, record.timestamp_ms) == record.timestamp_ms
        times = [time_ms for _, time_ms in sorted(self.times.items())]
        assert times == sorted(times)

    def _meet_tail(self, name: str) -> None:
        """The tail only grows, past everything acknowledged; where it stands is not ours to say."""
        tail = self._run(self._log.book(name).tail())
        assert tail >= self.reference.tail or name not in self.reference.books
        self.reference.tail = max(tail, self.reference.tail)

    def _changed(self, who: int | None) -> None:
        self.states.append(self.reference.copy())
        if who is not None:
            self.seen[who].position = len(self.states) - 1

    # --- what to ask about ---

    def _position(self, name: str, place: int) -> int:
        """0, the tail, or at, before or behind a record that was ever visible, trimmed or not."""
        book = self.reference.book(name)
        around = {r.seqnum + d for r in book.records for d in (-1, 0, 1)} | {0, book.tail}
        return sorted(around)[place % len(around)]

    def _unless(self, name: str, tested: list[tuple[str | None, str]] | None) -> Unless:
        last = self.reference.book(name).last
        back = {"last": 0, "before": 1, "zero": SEQNUM_MAX}
        return {tag: max(0, last.get(tag, 0) - back[which]) for tag, which in tested or ()}

    # --- plumbing ---

    @property
    def _log(self) -> Log:
        assert self.driven is not None
        return self.driven.log

    def _book(self, who: int, name: str) -> LogBook:
        return self._log.book(name, session=self.seen[who].session)

    def _run(self, call: Awaitable[T]) -> T:
        assert self.driven is not None
        return self.driven.run(call)

    def _try(self, call: Awaitable[T]) -> T | Failed:
        return _tried(lambda: self._run(call))


def logbook_machine(make: Callable[[], Driven], *, restarts: bool = True) -> type[LogBookMachine]:
    """The machine for one implementation; its `.TestCase` is what pytest runs.

    Args:
        make: opens the implementation, empty. Called once per example.
        restarts: whether what was acknowledged survives `Driven.restart`.
    """
    members = {"make": staticmethod(make), "restarts": restarts}
    return type("Machine", (LogBookMachine,), members)


async def _append(
    book: LogBook, unit: list[Entry], unless: Unless, key: str | None
) -> range | Failed:
    try:
        if len(unit) > 1:
            return await book.append_batch(unit, unless=unless, key=key)
        data, tags = unit[0]
        seqnum = await book.append(data, tags, unless=unless, key=key)
        return range(seqnum, seqnum + 1)
    except BokilogError as error:
        return _failed(error)


def _full(unit: list[Entry]) -> list[Entry]:
    return [
        entry._replace(data=LARGE * 100_000) if entry.data == LARGE else entry for entry in unit
    ]


async def _together(calls: Iterable[Awaitable[T]]) -> list[T]:
    return await asyncio.gather(*calls)


def _tried(call: Callable[[], T]) -> T | Failed:
    try:
        return call()
    except BokilogError as error:
        return _failed(error)


def _failed(error: BokilogError) -> Failed:
    return Failed(tuple(to_wire(error)))


def _shown(got: object) -> object:
    if isinstance(got, Record):
        shown: Shown = (got.seqnum, got.data, got.tags)
        return shown
    return [_shown(item) for item in got] if isinstance(got, list) else got


def _no_less_than_one(got: Trim | Failed) -> Trim | Failed:
    """Nothing trimmed yet may be called 0 or 1: no seqnum tells the two apart."""
    return Trim(max(1, got.until), got.held_by) if isinstance(got, Trim) else got


def _is_page_of(
    page: Page, everything: list[Record], *, low: int, limit: int, reverse: bool
) -> bool:
    """A beginning of the whole, within its limit, that says truly whether and where it goes on."""
    count = len(page.records)
    rest = everything[count:]
    if _shown(page.records) != _shown(everything[:count]) or count > limit:
        return False
    if page.more != bool(rest):
        return False
    behind = page.records[-1].seqnum if page.records else None
    if reverse:
        return (behind is None or page.next_seqnum <= behind) and (
            not rest or page.next_seqnum > rest[0].seqnum
        )
    return page.next_seqnum >= (low if behind is None else behind + 1) and (
        not rest or page.next_seqnum <= rest[0].seqnum
    )
