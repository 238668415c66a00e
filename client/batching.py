"""Appends of one loop tick become one frame per log space; what became of them comes back here.

Decides how units are put into frames, in which order frames are sent and sent again, and what each
append's caller is told. A *unit* waits in an open *batch*; the end of the tick seals it; a sealed
batch is sent as a frame once there is room; the lane keeps it until the engine says what became of
it.

Invariants:
- Units of a log space leave in the order they were issued. A refused frame comes back with all
  later ones and they leave again in that order, before anything newer (P4).
- A keyless unit that was sent is never sent again unless the engine certainly did not take it; a
  unit with a key is, under the same key (P23).
- A caller whose unit was never sent gets a definite error, any other `AppendUnknown`.
- What is in flight on a connection is bounded in records and bytes; everything else waits here, in
  order, until its deadline.

Does not know: clocks (times come in), sockets, names of LogBooks.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from operator import add
from typing import Final, Protocol, cast

from xxhash import xxh3_64_intdigest, xxh3_128

from bokilog.client.books import Route
from bokilog.client.session import Session
from bokilog.codec import pack
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    ConditionFailed,
    KeyReused,
    Overloaded,
    TagsEnded,
    UnavailableError,
    UnitMalformed,
    from_wire,
)
from bokilog.frame import Columns, Tags, record_sum
from bokilog.ids import SYSTEM_SPACE, Position
from bokilog.limits import (
    BLOCK_BYTES,
    FRAME_BYTES_MAX,
    INFLIGHT_BYTES_MAX,
    INFLIGHT_RECORDS_MAX,
)
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
    AppendFrame,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
)
from bokilog.record import Conditions

NEVER: Final = float("inf")
# What a record costs beside its data and tag: so an empty record counts, and the records of one
# frame stay within what may be in flight.
RECORD_COST_BYTES: Final = FRAME_BYTES_MAX // INFLIGHT_RECORDS_MAX
# Frames that had to wait are joined on their way out if their deadlines are this close together.
JOIN_SLACK_S: Final = 1.0
RETRY_DELAY_S_MIN: Final = 0.01
RETRY_DELAY_S_MAX: Final = 1.0


class Waiter(Protocol):
    """Where an append's outcome goes: a future of the shell. Gets the unit's first seqnum."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: int, /) -> None:
        """The unit is visible."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """It is not, or nobody knows."""
        ...


class Settled:
    """The waiter of a unit that left its batch."""

    __slots__ = ()

    def done(self) -> bool:
        """Always: the outcome goes elsewhere."""
        return True

    def set_result(self, result: int, /) -> None:
        """Nobody waits."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Nobody waits."""


SETTLED: Final = Settled()


class Unit:
    """One unit with all that is needed to send it, and to send it again."""

    __slots__ = (
        "conditions",
        "datas",
        "deadline_s",
        "key",
        "sent_before",
        "session",
        "size_bytes",
        "tags",
        "waiter",
    )

    def __init__(
        self,
        *,
        datas: list[bytes],
        tags: list[Tags],
        conditions: Conditions,
        key: tuple[str, bytes] | None,
        session: Session,
        waiter: Waiter,
        deadline_s: float = NEVER,
        sent_before: bool = False,
    ) -> None:
        self.datas = datas
        self.tags = tags
        self.conditions = conditions
        self.key = key
        """The key and the hash of what it names."""
        self.session = session
        self.waiter = waiter
        self.deadline_s = deadline_s
        """NEVER: the connection's default, counted from when it is sealed."""
        self.sent_before = sent_before
        """An earlier attempt under the same key may have been ordered."""
        self.size_bytes = sum(map(len, datas)) + _tags_cost(tags)

    def fail(self, error: UnavailableError) -> None:
        """It ran out of time before it was sent (again)."""
        if self.waiter.done():
            return
        self.waiter.set_exception(_unknown("it was not answered") if self.sent_before else error)


class Batch:
    """Units of one log space on their way, in columns."""

    __slots__ = (
        "awaited",
        "deadline_s",
        "deadlines",
        "first_seqnum",
        "keys",
        "owners",
        "payload",
        "resent",
        "route",
        "session",
        "size_bytes",
        "tags",
        "uniform",
        "unit_records",
        "unless",
        "waiters",
    )

    def __init__(self, route: Route, session: Session) -> None:
        self.route = route
        self.session = session
        self.uniform: Route | None = route
        """`route`, while all units are single records of it and of `session`; else None."""
        self.owners: list[tuple[Route, Session]] | None = None
        """Whose each unit is, once they are not all of `route` and `session`."""
        self.tags: list[Tags] = []
        self.payload: list[bytes] = []
        self.waiters: list[Waiter] = []
        """One per unit."""
        self.size_bytes = 0
        """With what records cost beside their data; known once it is sealed."""
        self.unit_records: list[int] | None = None
        """None while every unit is a single record."""
        self.unless: dict[int, Conditions] = {}
        self.keys: dict[int, tuple[str, bytes]] = {}
        self.resent: set[int] = set()
        """Units of which an earlier attempt may have been ordered."""
        self.deadlines: dict[int, float] = {}
        """Of the units whose callers named one."""
        self.deadline_s = NEVER
        """Of all the others."""
        self.awaited: set[int] = set()
        """Units whose verdict is still to come, once the batch was sent."""
        self.first_seqnum = 0

    @property
    def records(self) -> int:
        return len(self.tags)

    @property
    def plain(self) -> bool:
        """Whether it is nothing but single records of one LogBook and session."""
        return self.uniform is not None and not self.unless and not self.keys and not self.deadlines

    def add(self, unit: Unit, route: Route) -> None:
        """Put a unit at the end."""
        index, count = len(self.waiters), len(unit.datas)
        if route is not self.route or unit.session is not self.session or self.owners is not None:
            self.mixed().append((route, unit.session))
        if count != 1 and self.unit_records is None:
            self.unit_records = [1] * index
            self.uniform = None
        if self.unit_records is not None:
            self.unit_records.append(count)
        self.tags += unit.tags
        self.payload += unit.datas
        self.waiters.append(unit.waiter)
        if unit.conditions:
            self.unless[index] = unit.conditions
        if unit.key is not None:
            self.keys[index] = unit.key
        if unit.deadline_s != NEVER:
            self.deadlines[index] = unit.deadline_s
        if unit.sent_before:
            self.resent.add(index)

    def mixed(self) -> list[tuple[Route, Session]]:
        """Whose each unit is, as a list from now on."""
        if self.owners is None:
            self.owners = [(self.route, self.session)] * len(self.waiters)
            self.uniform = None
        return self.owners

    def parts(self) -> list[Batch]:
        """Itself, or several batches in its place that each fit into a frame, or are one unit."""
        self.size_bytes = sum(map(len, self.payload)) + _tags_cost(self.tags)
        if self.size_bytes <= FRAME_BYTES_MAX or len(self.waiters) == 1:
            return [self]
        parts: list[Batch] = []
        for start, until, size_bytes in _cuts(self._unit_sizes()):
            part = self._part(start, until)
            part.size_bytes, part.deadline_s = size_bytes, self.deadline_s
            parts.append(part)
        return parts

    def _unit_sizes(self) -> Iterable[int]:
        costs = [len(d) + RECORD_COST_BYTES for d in self.payload]
        sizes = list(map(add, costs, map(_tag_bytes, self.tags)))
        if self.unit_records is None:
            return sizes
        bounds = list(accumulate(self.unit_records, initial=0))
        return [sum(sizes[start:until]) for start, until in pairwise(bounds)]

    def _part(self, start: int, until: int) -> Batch:
        """The units `[start, until)`."""
        if self.plain:
            part = Batch(self.route, self.session)
            part.tags, part.payload = self.tags[start:until], self.payload[start:until]
            part.waiters = self.waiters[start:until]
            return part
        first = self.unit(start)
        part = Batch(self.route_of(start), first.session)
        for index in range(start, until):
            part.add(self.unit(index), self.route_of(index))
        return part

    def join(self, later: Batch) -> None:
        """Take over the units of a plain batch that follows this plain one."""
        self.tags += later.tags
        self.payload += later.payload
        self.waiters += later.waiters
        self.size_bytes += later.size_bytes
        self.deadline_s = max(self.deadline_s, later.deadline_s)

    def columns(self) -> Columns:
        """What the frame says of its records."""
        lengths = array("I", map(len, self.payload))
        blocks: array[int] = array("Q")
        if max(lengths) <= BLOCK_BYTES:
            sums = array("Q", map(xxh3_64_intdigest, self.payload))
        else:
            sums = array("Q")
            for data in self.payload:
                record, its_blocks = record_sum(data)
                sums.append(record)
                blocks += its_blocks
        return Columns(
            books=self._books(),
            unit_records=self.unit_records,
            tags=self.tags,
            lengths=lengths,
            sums=sums,
            blocks=blocks,
            unless=[(index, list(pairs)) for index, pairs in self.unless.items()],
            keys=[
                (index, key, digest, self.route_of(index).key_horizon_s)
                for index, (key, digest) in self.keys.items()
            ],
        )

    def _books(self) -> int | list[int]:
        if self.owners is None:
            return self.route.number
        numbers = [route.number for route, _ in self.owners]
        return numbers[0] if numbers.count(numbers[0]) == len(numbers) else numbers

    def route_of(self, index: int) -> Route:
        """Whose the unit is."""
        return self.route if self.owners is None else self.owners[index][0]

    def unit(self, index: int) -> Unit:
        """The unit again, to be put elsewhere."""
        start, count = index, 1
        if self.unit_records is not None:
            start, count = sum(self.unit_records[:index]), self.unit_records[index]
        return Unit(
            datas=self.payload[start : start + count],
            tags=self.tags[start : start + count],
            conditions=self.unless.get(index, ()),
            key=self.keys.get(index),
            session=self.session if self.owners is None else self.owners[index][1],
            waiter=self.waiters[index],
            deadline_s=self.deadlines.get(index, self.deadline_s),
            sent_before=index in self.resent,
        )

    def waiting(self) -> list[int]:
        """Units whose callers still wait."""
        return [index for index, waiter in enumerate(self.waiters) if not waiter.done()]

    def due(self, now_s: float) -> list[int]:
        """Of those, the ones whose deadline has passed."""
        if now_s < self.deadline_s and not self.deadlines:
            return []
        deadlines, default_s = self.deadlines, self.deadline_s
        return [index for index in self.waiting() if deadlines.get(index, default_s) <= now_s]

    def next_deadline_s(self, now_s: float) -> float:
        """When to look for due units again."""
        later = (deadline_s for deadline_s in self.deadlines.values() if deadline_s > now_s)
        soonest_s = min(later, default=NEVER)
        return min(soonest_s, self.deadline_s) if self.deadline_s > now_s else soonest_s

    def observe(self, space: int, position: Position) -> None:
        """The sessions of its units have seen `position`, and that their LogBooks exist."""
        owners = [(self.route, self.session)] if self.owners is None else set(self.owners)
        for route, session in owners:
            session.observe(SYSTEM_SPACE, route.seen_at)
            session.observe(space, position)

    def settle(self) -> None:
        """All units without a verdict to come are visible where the order put them."""
        seqnum = self.first_seqnum
        if self.unit_records is None and not self.awaited:
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(seqnum)
                seqnum += 1
            return
        counts = self.unit_records or [1] * len(self.waiters)
        for index, (waiter, count) in enumerate(zip(self.waiters, counts, strict=True)):
            if index not in self.awaited and not waiter.done():
                waiter.set_result(seqnum)
            seqnum += count


class Room:
    """What may be in flight on one connection."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = self.bytes = 0

    def fits(self, batch: Batch) -> bool:
        """Whether it may be sent now; with nothing in flight anything may."""
        return not self.records or (
            self.records + batch.records <= INFLIGHT_RECORDS_MAX
            and self.bytes + batch.size_bytes <= INFLIGHT_BYTES_MAX
        )

    def take(self, batch: Batch) -> None:
        """It is in flight."""
        self.records += batch.records
        self.bytes += batch.size_bytes

    def give_back(self, batch: Batch) -> None:
        """It is not any more."""
        self.records -= batch.records
        self.bytes -= batch.size_bytes


class Lane:
    """The way of one log space's units to the engine and back."""

    __slots__ = (
        "_retries",
        "_wake",
        "backlog",
        "next_number",
        "open",
        "refusal",
        "refused",
        "refused_from",
        "resume_at_s",
        "sent",
        "space",
    )

    def __init__(self, space: int, wake: Callable[[], None]) -> None:
        self.space = space
        self.open: Batch | None = None
        """Units of this tick."""
        self.backlog: deque[Batch] = deque()
        """Sealed, waiting for room or for a connection, in the order to be sent."""
        self.sent: dict[int, Batch] = {}
        """By frame number, ascending."""
        self.next_number = 1
        self.refused: list[Batch] = []
        """Not taken by the engine: sent again from `refused_from` on, all later ones after them."""
        self.refused_from = 0
        self.refusal: BokilogError | None = None
        """Why, as long as that has not been overcome."""
        self.resume_at_s = 0.0
        self._retries = 0
        self._wake = wake

    # --- in ---------------------------------------------------------------------------------------

    def append(
        self, route: Route, session: Session, data: bytes, tags: Tags, waiter: Waiter
    ) -> None:
        """One record as a unit of its own: the usual append, and the cheapest.

        Positional, and three list appends in the usual case: this is once per append.
        """
        batch = self.open
        if batch is None:
            batch = self._start(route, session)
        if batch.uniform is not route or batch.session is not session:
            if batch.owners is not None or batch.route is not route or batch.session is not session:
                batch.mixed().append((route, session))
            if batch.unit_records is not None:
                batch.unit_records.append(1)
        batch.tags.append(tags)
        batch.payload.append(data)
        batch.waiters.append(waiter)

    def add(self, unit: Unit, route: Route) -> None:
        """Any unit."""
        batch = self.open
        if batch is None:
            batch = self._start(route, unit.session)
        batch.add(unit, route)

    def _start(self, route: Route, session: Session) -> Batch:
        self._wake()  # first: it refuses a call from another loop
        batch = self.open = Batch(route, session)
        return batch

    def seal(self, deadline_s: float) -> None:
        """The tick is over: what it brought waits for its turn, until `deadline_s` by default."""
        if self.open is not None:
            self.backlog.extend(self.open.parts())
            self.open = None
        for batch in reversed(self.backlog):
            if batch.deadline_s != NEVER:
                break
            batch.deadline_s = deadline_s

    # --- out --------------------------------------------------------------------------------------

    def head(self) -> Batch | None:
        """The batch to be sent next, if its time has come."""
        if self.refused or not self.backlog:
            return None
        batch = self.backlog[0]
        while len(self.backlog) > 1 and _joinable(batch, self.backlog[1]):
            self.backlog.popleft()
            batch.join(self.backlog[0])
            self.backlog[0] = batch
        return batch

    def take_head(self) -> AppendFrame:
        """Turn the head into a frame; it counts as sent."""
        batch = self.backlog.popleft()
        columns = batch.columns()
        batch.awaited = {*batch.unless, *batch.keys, *columns.system_units}
        number = self.next_number
        self.next_number += 1
        self.sent[number] = batch
        return AppendFrame(self.space, number, columns, batch.payload)

    def put_back(self, number: int) -> None:
        """The last frame found no connection after all: it was not sent."""
        self.backlog.appendleft(self.sent.pop(number))
        self.next_number = number

    # --- answers ----------------------------------------------------------------------------------

    def ordered(self, message: FrameOrdered) -> Batch | None:
        """A frame has its seqnums; returns its batch once no verdict is missing."""
        batch = self.sent.get(message.number)
        if batch is None:
            return None
        batch.first_seqnum = message.first_seqnum
        batch.observe(self.space, message.position)
        self._retries = 0
        self.refusal = None
        batch.settle()
        return self._finished(message.number, batch)

    def verdicts(self, message: FrameVerdicts) -> tuple[Batch | None, list[tuple[Route, Unit]]]:
        """What became of units; the batch once it is done, and units whose LogBook is gone."""
        batch = self.sent.get(message.number)
        if batch is None:
            return None, []
        batch.observe(self.space, message.position)
        homeless: list[tuple[Route, Unit]] = []
        for index, verdict, first, second in message.outcomes:
            if type(index) is not int or not 0 <= index < len(batch.waiters):
                continue
            batch.awaited.discard(index)
            waiter = batch.waiters[index]
            if waiter.done():
                continue
            if verdict == VERDICT_BOOK_DELETED:
                homeless.append((batch.route_of(index), batch.unit(index)))
                batch.waiters[index] = SETTLED
            elif verdict in (VERDICT_VISIBLE, VERDICT_DUPLICATE) and type(first) is int:
                waiter.set_result(first)
            else:
                waiter.set_exception(_verdict_error(verdict, first, second))
        return self._finished(message.number, batch), homeless

    def _finished(self, number: int, batch: Batch) -> Batch | None:
        if not batch.first_seqnum or batch.awaited:
            return None
        del self.sent[number]
        return batch

    def refuse(self, message: FrameRefused, now_s: float) -> Batch | None:
        """The engine did not take a frame, nor will it take a later one until this returns (P4)."""
        batch = self.sent.pop(message.number, None)
        if batch is None:
            return None
        error = from_wire(message.error)
        if not self.refused:
            self.refused_from = message.number
            self.resume_at_s = now_s
        self.refused.append(batch)
        if isinstance(error, UnavailableError):
            self.refusal = error
            self.resume_at_s = max(self.resume_at_s, now_s + self._delay_s(error))
        else:
            for index in batch.waiting():  # this frame is wrong in itself; the later ones are not
                batch.waiters[index].set_exception(_copy(error))
        return batch

    def _delay_s(self, error: UnavailableError) -> float:
        if isinstance(error, Overloaded) and error.retry_after_s > 0:
            return min(error.retry_after_s, RETRY_DELAY_S_MAX)
        self._retries += 1
        return min(RETRY_DELAY_S_MIN * 2.0**self._retries, RETRY_DELAY_S_MAX)

    def resume(self, now_s: float) -> None:
        """Send refused frames again, if it is time and the engine has refused all that follow.

        A refusal still under way for an earlier sending must not be taken for one of the next: so
        nothing is sent again before every later frame is back.
        """
        if not self.refused or now_s < self.resume_at_s:
            return
        if self.sent and next(reversed(self.sent)) > self.refused_from:
            return
        self.next_number = self.refused_from
        self._return_refused()

    def _return_refused(self) -> None:
        self.backlog.extendleft(reversed([batch for batch in self.refused if batch.waiting()]))
        self.refused = []

    def lose(self, message: FrameLost) -> Batch | None:
        """Nobody can know any more whether the frame was ordered."""
        batch = self.sent.pop(message.number, None)
        if batch is not None:
            self.backlog.extendleft(reversed(_retried([batch], message.reason)))
        return batch

    def down(self, reason: str, unsent: Iterable[int] = ()) -> None:
        """The connection is gone: what was sent is unknown, all else waits for the next one.

        Args:
            reason: why.
            unsent: frames that never left after all, ascending.
        """
        never_left = [self.sent.pop(number) for number in unsent if number in self.sent]
        again = _retried(self.sent.values(), reason)
        self.sent = {}
        self.backlog.extendleft(reversed([batch for batch in never_left if batch.waiting()]))
        self._return_refused()
        self.backlog.extendleft(reversed(again))
        self.resume_at_s = 0.0

    # --- time -------------------------------------------------------------------------------------

    def expire(self, now_s: float, error: Callable[[], UnavailableError]) -> float:
        """Tell the callers whose time is over; returns when to do so again."""
        self.backlog = deque(self._kept(self.backlog, now_s, error))
        self.refused = [_without(batch, batch.due(now_s), error) or batch for batch in self.refused]
        for batch in self.sent.values():
            for index in batch.due(now_s):
                batch.waiters[index].set_exception(
                    _unknown("it was sent, but not answered in time")
                )
        everything = (*self.backlog, *self.refused, *self.sent.values())
        soonest_s = min((batch.next_deadline_s(now_s) for batch in everything), default=NEVER)
        if self.refused and self.resume_at_s > now_s:
            soonest_s = min(soonest_s, self.resume_at_s)
        return soonest_s

    def _kept(
        self, batches: Iterable[Batch], now_s: float, error: Callable[[], UnavailableError]
    ) -> Iterable[Batch]:
        for batch in batches:
            kept = _without(batch, batch.due(now_s), error)
            if kept is not None:
                yield kept

    def fail(self, error: Callable[[], BokilogError]) -> None:
        """The client is closing: what was sent is unknown, all else certainly did not happen."""
        for batch in self.sent.values():
            for index in batch.waiting():
                batch.waiters[index].set_exception(_unknown("the connection was closed"))
        unsent = [*self.refused, *self.backlog, *([self.open] if self.open is not None else [])]
        for batch in unsent:
            for index in batch.waiting():
                known = index not in batch.resent
                batch.waiters[index].set_exception(
                    error() if known else _unknown("the connection was closed")
                )
        self.sent, self.refused, self.open = {}, [], None
        self.backlog.clear()

    def unanswered_to(self, number: int) -> bool:
        """Whether a frame up to `number` is still under way."""
        return bool(self.refused) or (bool(self.sent) and next(iter(self.sent)) <= number)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self.open or self.backlog or self.sent or self.refused)

    def unsent_of(self, route: Route) -> list[Unit]:
        """Take the unsent units of a LogBook out: it is gone, and another takes its place."""
        found: list[Unit] = []
        batches = [*self.backlog, *([self.open] if self.open is not None else [])]
        self.backlog, self.open = deque(), None
        for batch in batches:
            taken = [i for i in batch.waiting() if batch.route_of(i) is route]
            found += [batch.unit(index) for index in taken]
            kept = _rebuilt(batch, set(taken)) if taken else batch
            if kept is not None:
                self.backlog.extend(kept.parts())
        return found


def unit_digest(datas: list[bytes], tags: list[Tags]) -> bytes:
    """What a key names: a 128-bit hash over the tags and bytes of a unit, not its conditions."""
    hasher = xxh3_128(pack((tags, [len(data) for data in datas])))
    for data in datas:
        hasher.update(data)
    return hasher.digest()


def in_column(tags: tuple[str, ...]) -> Tags:
    """Checked tags as they stand in a frame's column."""
    return None if not tags else tags[0] if len(tags) == 1 else list(tags)


def _cuts(sizes: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """(start, until, bytes) of runs of units that fit into a frame; one unit always does."""
    start = total = 0
    until = 0
    for until, size_bytes in enumerate(sizes):
        if total and total + size_bytes > FRAME_BYTES_MAX:
            yield start, until, total
            start, total = until, 0
        total += size_bytes
    yield start, until + 1, total


def _tag_bytes(tags: Tags) -> int:
    return 0 if tags is None else len(tags) if isinstance(tags, str) else sum(map(len, tags))


def _tags_cost(tags: list[Tags]) -> int:
    """Beside their data; a column of one tag each, the usual one, is measured without a loop."""
    cost = RECORD_COST_BYTES * len(tags)
    if set(map(type, tags)) == {str}:
        return cost + sum(map(len, cast("list[str]", tags)))
    return cost + sum(map(_tag_bytes, tags))


def _joinable(batch: Batch, later: Batch) -> bool:
    return (
        batch.route is later.route
        and batch.session is later.session
        and batch.size_bytes + later.size_bytes <= FRAME_BYTES_MAX
        and later.deadline_s - batch.deadline_s <= JOIN_SLACK_S
        and batch.plain
        and later.plain
    )


def _without(batch: Batch, due: list[int], error: Callable[[], UnavailableError]) -> Batch | None:
    """The batch without the units whose time is over; None if none is left."""
    if not due:
        return batch
    for index in due:
        waiter = batch.waiters[index]
        again = index in batch.resent
        waiter.set_exception(
            _unknown("it was sent, but not answered in time") if again else error()
        )
    return _rebuilt(batch, set(due))


def _rebuilt(batch: Batch, left_out: set[int]) -> Batch | None:
    kept = [index for index in batch.waiting() if index not in left_out]
    if not kept:
        return None
    first = batch.unit(kept[0])
    smaller = Batch(batch.route_of(kept[0]), first.session)
    for index in kept:
        smaller.add(batch.unit(index), batch.route_of(index))
    smaller.deadline_s = batch.deadline_s
    smaller.size_bytes = batch.size_bytes  # a bound: what is in flight is counted by it
    return smaller


def _retried(batches: Iterable[Batch], reason: str) -> list[Batch]:
    """The units with keys, to be sent again (P23); the callers of all others are told."""
    again: list[Batch] = []
    for batch in batches:
        for index in batch.waiting():
            if index not in batch.keys:
                batch.waiters[index].set_exception(_unknown(reason))
                continue
            unit, route = batch.unit(index), batch.route_of(index)
            unit.sent_before = True
            if not again or again[-1].size_bytes + unit.size_bytes > FRAME_BYTES_MAX:
                again.append(Batch(route, unit.session))
                again[-1].deadline_s = batch.deadline_s
            again[-1].add(unit, route)
            again[-1].size_bytes += unit.size_bytes
    return again


def _unknown(reason: str) -> AppendUnknown:
    return AppendUnknown(reason)


def _copy(error: BokilogError) -> BokilogError:
    """One error per caller: a traceback belongs to one."""
    return type(error)(*error.args)


def _verdict_error(verdict: object, first: object, second: object) -> BokilogError:
    if verdict == VERDICT_CONDITION_FAILED and type(second) is int:
        return ConditionFailed(first if isinstance(first, str) else None, second)
    if verdict == VERDICT_KEY_REUSED and type(first) is int:
        return KeyReused(str(second), first)
    if verdict == VERDICT_TAGS_ENDED:
        return TagsEnded(str(first))
    return UnitMalformed("its frame does not decode on the storage nodes, of another version maybe")
