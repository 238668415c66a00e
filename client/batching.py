"""A batch: units of one log space in columns, on their way to become one frame.

Decides which units share a frame: all of a tick, as far as they fit; those of ticks that had to
wait, if they are alike and due at about the same time; those that are sent again. A batch of single
records of one LogBook and session, the usual one, is columns and nothing else; whatever goes beyond
that stands beside them, by the unit's place.

Invariants: units keep their order and their places, so what is told of a place is told to the right
caller; a batch fits into a frame or is one unit; what was done to a batch is the same for its
units, wherever they are put.

Does not know: what becomes of a frame, and what its callers are told of it (`outcomes`); the order
of batches (`lane`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from operator import add
from typing import Final

from xxhash import xxh3_64_intdigest

from bokilog.client.books import Route
from bokilog.client.session import Session
from bokilog.client.units import NEVER, RECORD_COST_BYTES, Unit, Waiter, tag_bytes, tags_cost
from bokilog.columns import Columns, Tags, record_sum
from bokilog.ids import SYSTEM_SPACE, Position
from bokilog.limits import BLOCK_BYTES, FRAME_BYTES_MAX
from bokilog.record import Conditions

# Frames that had to wait are joined on their way out if their deadlines are this close together.
JOIN_SLACK_S: Final = 1.0


class Batch:
    """Units of one log space on their way, in columns."""

    __slots__ = (
        "awaited",
        "deadline_s",
        "deadlines",
        "first_seqnum",
        "keys",
        "order",
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
        self.order = 0
        """Its place among all that left or will leave this way; known once it is sealed."""

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
        self.size_bytes = sum(map(len, self.payload)) + tags_cost(self.tags)
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
        sizes = list(map(add, costs, map(tag_bytes, self.tags)))
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

    def joinable(self, later: Batch) -> bool:
        """Whether both may be one frame, of which all is due at about the same time."""
        return (
            self.route is later.route
            and self.session is later.session
            and self.size_bytes + later.size_bytes <= FRAME_BYTES_MAX
            and later.deadline_s - self.deadline_s <= JOIN_SLACK_S
            and self.plain
            and later.plain
        )

    def join(self, later: Batch) -> None:
        """Take over the units of a `joinable` batch that follows this one."""
        self.tags += later.tags
        self.payload += later.payload
        self.waiters += later.waiters
        self.size_bytes += later.size_bytes
        self.deadline_s = max(self.deadline_s, later.deadline_s)

    def without(self, left_out: set[int]) -> Batch | None:
        """A batch of the other units whose callers still wait; None if there are none."""
        kept = [index for index in self.waiting() if index not in left_out]
        if not kept:
            return None
        first = self.unit(kept[0])
        smaller = Batch(self.route_of(kept[0]), first.session)
        for index in kept:
            smaller.add(self.unit(index), self.route_of(index))
        smaller.deadline_s = self.deadline_s
        smaller.order = self.order
        smaller.size_bytes = self.size_bytes  # a bound: what is in flight is counted by it
        return smaller

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

    def for_the_gone(self) -> bool:
        """Whether a unit is for a LogBook that was deleted."""
        if self.owners is None:
            return not self.route.live
        return not all(route.live for route, _ in self.owners)

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


def sent_again(chosen: Iterable[tuple[Batch, list[int]]]) -> list[Batch]:
    """Some units of sent batches, in new ones; every unit knows that it was sent before."""
    again: list[Batch] = []
    for batch, indices in chosen:
        for index in indices:
            unit, route = batch.unit(index), batch.route_of(index)
            unit.sent_before = True
            if not again or again[-1].size_bytes + unit.size_bytes > FRAME_BYTES_MAX:
                again.append(Batch(route, unit.session))
                again[-1].deadline_s, again[-1].order = batch.deadline_s, batch.order
            again[-1].add(unit, route)
            again[-1].size_bytes += unit.size_bytes
    return again


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
