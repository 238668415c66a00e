"""Reads of bytes that lie in the object store: what is fetched, what is at hand, who waits.

Whoever reads a location asks here for segments that lie cold. Bytes that were fetched recently are
given at once; for others `ColdMiss` says which range to wait for. A request that met it waits here
and is asked again, as a whole, when the range has come; several may wait for the same one.

Decides which ranges are fetched now, which ranges stay at hand, and when a waiting request is told
that the store does not answer: after `WAIT_S`, or at once while the store is known to be down. Who
asked hears every `STILL_S` that it is not this node that is silent.

Invariants: bounded by `WAITING_MAX` requests, `FETCHES_MAX` fetches under way and the bytes given;
every waiting request has a timer; bytes that are missing never read as absent records. Checksums
are those of frames and records, verified by the reader like those of local bytes (P29).

Does not know what a request means, nor the store.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from bokilog.cold import ColdMiss, ColdOutcome, ColdSegment, FetchRange
from bokilog.effects import Address, CancelTimer, Effect, SetTimer, StartCold
from bokilog.errors import NotReady
from bokilog.journal import Location
from bokilog.messages import FetchFrames, FetchStored, Read
from bokilog.named import NamedTuple
from bokilog.storage_nodes.locations import Row

WAITING_MAX: Final = 1_000
"""Requests per log space that wait for cold bytes; more are refused as `NotReady`."""
FETCHES_MAX: Final = 8
"""Ranges fetched at once per log space; the next ones have their turn in order."""
WAIT_S: Final = 3.0
"""A request that got no answer from the store by then is told so: engines ask three replicas, one
after the other, within the time that callers give a read."""
STILL_S: Final = 0.25
"""So often who asked hears that the store is waited for: engines ask others about a question that
nothing was heard of for a second."""
SLOW_BYTES_S: Final = 4 << 20
"""And so much longer for a large range, over a slow line."""
DOWN_S: Final = 2.0
"""After a failed fetch requests are refused at once for so long; then the store is tried again."""
RANGE_BYTES_MIN: Final = 64 << 10
"""A smaller read fetches so much of its frame: a header is of no use without the columns."""
RANGE_BYTES_MAX: Final = 1 << 20
"""So much is fetched ahead of a reader who asked for more records than one."""


_NOBODY: Final = 0
"""A range that is fetched without a request that waits for it."""


class VerdictsWanted(NamedTuple):
    """An engine that follows lacks what became of the units of a frame (P23)."""

    term: int
    number: int
    first: int
    first_seqnum: int


ColdRequest = Read | FetchFrames | FetchStored | VerdictsWanted
Ask = Callable[[Address, ColdRequest], list[Effect]]
Refuse = Callable[[Address, ColdRequest, NotReady], list[Effect]]
Still = Callable[[Address, ColdRequest], list[Effect]]


class Range(NamedTuple):
    """Bytes `[start, until)` of a segment."""

    segment: int
    start: int
    until: int


class Waiter:
    """A request that waits, and who asked."""

    __slots__ = ("key", "left_s", "range", "request", "source")

    def __init__(self, key: int, source: Address, request: ColdRequest, left_s: float) -> None:
        self.key = key
        self.source = source
        self.request = request
        self.left_s = left_s
        """How much longer it waits once its timer has fired."""
        self.range: Range | None = None


def widened(miss: ColdMiss, rows: Iterable[Row], *, bytes_max: int = RANGE_BYTES_MAX) -> ColdMiss:
    """The range of a miss, and of the next rows that will be read as far as they lie near."""
    start, until = miss.start, miss.until
    for row in rows:
        segment, offset, length = row.location
        low, high = min(start, offset), max(until, offset + length)
        if segment != miss.segment or high - low > bytes_max:
            break
        start, until = low, high
    return ColdMiss(miss.segment, start, until)


class RangeCache:
    """Fetched ranges, least recently used out first; the newest one always stays."""

    __slots__ = ("_bytes", "_bytes_max", "_ranges", "_starts")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._ranges: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._starts: dict[int, list[int]] = {}

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def find(self, segment: int, start: int, until: int) -> bytes | None:
        """Bytes of a range that lies within a fetched one."""
        starts = self._starts.get(segment)
        if starts is None:
            return None
        for place in range(bisect_right(starts, start) - 1, -1, -1):
            first = starts[place]
            data = self._ranges[segment, first]
            if until <= first + len(data):
                self._ranges.move_to_end((segment, first))
                return data[start - first : until - first]
        return None

    def put(self, segment: int, start: int, data: bytes) -> None:
        known = self._ranges.get((segment, start))
        if known is not None and len(known) >= len(data):
            return
        self._drop(segment, start)
        self._ranges[segment, start] = data
        self._bytes += len(data)
        insort(self._starts.setdefault(segment, []), start)
        while self._bytes > self._bytes_max and len(self._ranges) > 1:
            self._drop(*next(iter(self._ranges)))

    def forget(self, segment: int) -> None:
        for start in list(self._starts.get(segment, ())):
            self._drop(segment, start)

    def _drop(self, segment: int, start: int) -> None:
        data = self._ranges.pop((segment, start), None)
        if data is None:
            return
        self._bytes -= len(data)
        starts = self._starts[segment]
        starts.remove(start)
        if not starts:
            del self._starts[segment]


class ColdReads:
    """Cold bytes of one log space, and who waits for them.

    Args:
        space: the log space.
        segments: those that lie cold, kept up to date by `Cold`.
        where: the store, for errors.
        cache_bytes_max: of ranges kept at hand.
    """

    def __init__(
        self,
        space: int,
        segments: Mapping[int, ColdSegment],
        *,
        where: str,
        cache_bytes_max: int,
    ) -> None:
        self.down = ""
        """Why the last fetch failed; empty: it did not, or that was a while ago."""
        self.fetched_bytes = self.fetch_count = self.failed_count = 0
        self._space = space
        self._segments = segments
        self._where = where
        self._cache = RangeCache(cache_bytes_max)
        self._gone: dict[int, str] = {}
        """Segments whose object is not there, and what the store says."""
        self._not_found: dict[int, str] = {}
        """The same, until it is read again: for people."""
        self._waiting: dict[int, Waiter] = {}
        self._fetching: dict[Range, list[int]] = {}
        """Ranges on their way or in the queue, to the keys of those who wait for them."""
        self._queue: deque[FetchRange] = deque()
        self._next = 0
        self._again: Waiter | None = None
        """The request that is being asked again: it keeps its place and its timer."""

    def __contains__(self, segment: int) -> bool:
        return segment in self._segments

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def problem(self) -> str:
        """What is wrong with the store, or with objects that were asked for; empty: nothing."""
        if self.down or not self._not_found:
            return self.down
        more = len(self._not_found) - 1
        first = self._not_found[min(self._not_found)]
        return f"{first}, nor {more:,} more" if more else first

    @property
    def cached_bytes(self) -> int:
        return self._cache.size_bytes

    # --- bytes ------------------------------------------------------------------------------------

    def read(self, location: Location, start: int = 0, length: int | None = None) -> bytes:
        """Bytes `[start, start + length)` of an item, as `Journal.read` gives them.

        Raises:
            ColdMiss: they have to be fetched.
        """
        segment, offset, item_bytes = location
        if length is None:
            length = item_bytes - start
        first, until = offset + start, offset + start + length
        found = self._cache.find(segment, first, until)
        if found is not None:
            return found
        raise ColdMiss(
            segment, first, max(until, min(first + RANGE_BYTES_MIN, offset + item_bytes))
        )

    def forget(self, segment: int) -> None:
        """Nobody needs the segment any more."""
        self._cache.forget(segment)
        self._gone.pop(segment, None)
        self._not_found.pop(segment, None)

    # --- waiting ----------------------------------------------------------------------------------

    def wait(
        self, source: Address, request: ColdRequest, miss: ColdMiss
    ) -> list[Effect] | NotReady:
        """Let a request wait for bytes; the error to answer with, if it cannot."""
        problem = self._gone.get(miss.segment) or self.down
        if problem:
            return self._error(problem)
        effects: list[Effect] = []
        waiter = self._again
        if waiter is None:
            if len(self._waiting) >= WAITING_MAX:
                return self._error(f"{WAITING_MAX:,} requests wait for it already")
            if self._is_waiting(source, request):
                return []  # asked again before the answer: peers do that
            self._next += 1
            wait_s = WAIT_S + (miss.until - miss.start) / SLOW_BYTES_S
            waiter = self._waiting[self._next] = Waiter(self._next, source, request, wait_s)
            effects.append(self._turn(waiter))
        waiter.range = Range(miss.segment, miss.start, miss.until)
        return [*effects, *self._fetch(waiter.range, waiter.key)]

    def prefetch(self, miss: ColdMiss) -> list[Effect]:
        """Bytes that will be asked for again, by nobody who waits."""
        if self.fails(miss.segment) or miss.segment not in self._segments:
            return []
        return self._fetch(Range(miss.segment, miss.start, miss.until), _NOBODY)

    def fails(self, segment: int) -> bool:
        """Whether reading the segment did not work just now."""
        return bool(self.down) or segment in self._gone

    def _is_waiting(self, source: Address, request: ColdRequest) -> bool:
        if isinstance(request, Read):
            return False  # each has its own number
        return any(
            each.source == source and each.request == request for each in self._waiting.values()
        )

    def _fetch(self, wanted: Range, key: int) -> list[Effect]:
        keys = self._fetching.get(wanted)
        if keys is not None:
            if key not in keys:
                keys.append(key)
            return []
        self._fetching[wanted] = [key]
        segment = self._segments[wanted.segment]
        self._queue.append(FetchRange(segment, wanted.start, wanted.until))
        return self._start()

    def _start(self) -> list[Effect]:
        """As many fetches as may be under way; those nobody waits for any more are left out."""
        effects: list[Effect] = []
        while self._queue and len(self._fetching) - len(self._queue) < FETCHES_MAX:
            job = self._queue.popleft()
            wanted = _range(job)
            if not any(key == _NOBODY or key in self._waiting for key in self._fetching[wanted]):
                del self._fetching[wanted]
                continue
            self.fetch_count += 1
            effects.append(StartCold(self._space, job))
        return effects

    def fetched(
        self, job: FetchRange, outcome: ColdOutcome, *, ask: Ask, refuse: Refuse
    ) -> list[Effect]:
        """A range has come, or will not: asks or refuses those who wait for it.

        Args:
            job: what was fetched.
            outcome: what became of it.
            ask: asks a request again.
            refuse: `(source, request, error)`: says that there is no answer now.
        """
        number = job.segment.segment
        keys = self._fetching.pop(_range(job), [])
        waiters = [self._waiting[key] for key in keys if key in self._waiting]
        if outcome.problem:
            effects = self._failed(number, outcome, waiters, refuse)
        else:
            self.down = ""
            self.fetched_bytes += len(outcome.data)
            self._not_found.pop(number, None)
            if number in self._segments:
                self._cache.put(number, job.start, outcome.data)
            effects = [effect for each in waiters for effect in self._ask_again(each, ask)]
        return [*effects, *self._start()]

    def _failed(
        self,
        number: int,
        outcome: ColdOutcome,
        waiters: list[Waiter],
        refuse: Refuse,
    ) -> list[Effect]:
        self.failed_count += 1
        effects: list[Effect] = [SetTimer(("cold-down", self._space), DOWN_S)]
        if outcome.final:
            if number in self._segments:
                self._gone[number] = self._not_found[number] = outcome.problem
        else:
            self.down = outcome.problem
            waiters = list(self._waiting.values())  # nobody waits for a store that is down
        for waiter in waiters:
            effects.append(self._done(waiter))
            effects += refuse(waiter.source, waiter.request, self._error(outcome.problem))
        return effects

    def _ask_again(self, waiter: Waiter, ask: Ask) -> list[Effect]:
        waiter.range = None
        self._again = waiter
        effects = ask(waiter.source, waiter.request)
        self._again = None
        still_waits = waiter.range is not None
        return effects if still_waits else [self._done(waiter), *effects]

    def _done(self, waiter: Waiter) -> CancelTimer:
        self._waiting.pop(waiter.key, None)
        return CancelTimer(self._timer(waiter.key))

    def timer(self, key: int, *, still: Still, refuse: Refuse) -> list[Effect]:
        """A request goes on waiting, and who asked is told; or it has waited for too long: then it
        is told that, and so are the next ones at once."""
        waiter = self._waiting.get(key)
        if waiter is None:
            return []
        if waiter.left_s > 0:
            return [self._turn(waiter), *still(waiter.source, waiter.request)]
        del self._waiting[key]
        self.down = f"no answer within {WAIT_S:g} s"
        return [
            SetTimer(("cold-down", self._space), DOWN_S),
            *refuse(waiter.source, waiter.request, self._error(self.down)),
        ]

    def down_timer(self) -> None:
        """The store may be tried again, and objects may be back."""
        self.down = ""
        self._gone.clear()

    def drop(self, source: Address) -> list[Effect]:
        """The asker is gone."""
        gone = [each for each in self._waiting.values() if each.source == source]
        return [self._done(each) for each in gone]

    def drop_all(self, refuse: Refuse, error: NotReady) -> list[Effect]:
        """There is no fold any more: everybody is told."""
        effects: list[Effect] = []
        for waiter in list(self._waiting.values()):
            effects += [self._done(waiter), *refuse(waiter.source, waiter.request, error)]
        return effects

    def _turn(self, waiter: Waiter) -> SetTimer:
        turn_s = min(STILL_S, waiter.left_s)
        waiter.left_s -= turn_s
        return SetTimer(self._timer(waiter.key), turn_s)

    def _timer(self, key: int) -> tuple[str, int, int]:
        return ("cold", self._space, key)

    def _error(self, problem: str) -> NotReady:
        return NotReady(f"the records lie in the cold store {self._where}: {problem}")

    def check(self) -> None:
        """Asserts the invariants."""
        assert len(self._waiting) <= WAITING_MAX
        assert len(self._fetching) - len(self._queue) <= FETCHES_MAX
        for waiter in self._waiting.values():
            assert waiter.range in self._fetching, f"{waiter.request} waits for nothing"


def _range(job: FetchRange) -> Range:
    return Range(job.segment.segment, job.start, job.until)
