"""The workers of one function on one host, and the calls that wait for them.

Decides which worker runs the next call, and how many workers there should be. An idle worker is
taken last in, first out, so that those that are not needed stay idle and end; without an idle one,
the worker with the fewest calls gets it, up to `max_concurrency`. Workers whose calls all wait for
calls of their own do not count against `max_workers`: recursion through one function must not wait
for itself (its depth is bounded).

While many short calls wait, busy workers are given some *ahead*, so that none idles while the end
of one call travels here and the next one there. A call given ahead still waits: it begins, in its
worker, when one before it has ended, and until then it can be taken back: when another worker has
room, when it waits longer than was thought, and when calls of this function make calls themselves,
which it must not wait behind.

Invariants: calls of one function are given out in the order in which they came, but for retries and
what was taken back, which go first; a worker never runs more calls than `max_concurrency`, a
`fresh` one never more than one in its life; what is ahead in a worker has not begun as far as is
known here, and only a full worker has any. Does not know messages, deadlines, processes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from math import ceil
from typing import Final

from bokilog.functions.runtime.effects import Address
from bokilog.functions.runtime.load import Load
from bokilog.functions.runtime.messages import DEPTH_MAX, Payload
from bokilog.functions.runtime.options import FunctionOptions

AHEAD_S: Final = 0.004
"""Calls given ahead take their worker about so long altogether: some times what a call takes to get
there, and so little that it hardly matters if another worker would have been free sooner."""
AHEAD_MAX: Final = 16
AHEAD_WAIT_S: Final = 0.05
"""One that waits longer in a worker is taken back: the call before it is not as short as most."""


class Phase(Enum):
    """Where a call stands."""

    WAITING = 0
    RUNNING = 1
    """In a worker here, or on another host."""
    CANCELLED = 2
    """It runs and was told to end."""
    OVER = 3
    AHEAD = 4
    """In a worker that begins it once it has ended another one."""


class Call:
    """One call on this host. Made per call, so a plain class: everything the hot path touches."""

    __slots__ = (
        "answered",
        "asked",
        "attempt",
        "call_id",
        "cold",
        "counted",
        "credit",
        "deadline_s",
        "depth",
        "encoding",
        "flags",
        "function",
        "home",
        "items",
        "number",
        "parent",
        "payload",
        "peer",
        "phase",
        "recalled",
        "received_s",
        "sent_s",
        "source",
        "token",
        "trace",
        "worker",
    )

    def __init__(
        self,
        number: int,
        *,
        source: Address,
        asked: int,
        function: str,
        encoding: int,
        depth: int,
        attempt: int,
        flags: int,
        call_id: str,
        token: str,
        trace: str,
        payload: Payload,
        received_s: float,
        deadline_s: float,
    ) -> None:
        self.number = number
        """The host's own number for it, on all links that it goes out on."""
        self.source = source
        self.asked = asked
        """The number that its source has for it."""
        self.function = function
        self.encoding = encoding
        self.depth = depth
        self.attempt = attempt
        self.flags = flags
        self.call_id = call_id
        self.token = token
        self.trace = trace
        self.payload = payload
        self.received_s = received_s
        self.deadline_s = deadline_s
        self.sent_s = 0.0
        self.phase = Phase.WAITING
        self.worker: Worker | None = None
        self.parent: Worker | None = None
        """That made it, within a call that it runs."""
        self.peer = ""
        """The host that it was passed to."""
        self.home = False
        """It stays here: another host refused it, or passed it."""
        self.cold = False
        self.recalled = False
        """It was given ahead, and its worker was asked to give it back."""
        self.items = 0
        self.credit = 0
        """Given by the caller of a stream before it began to run."""
        self.answered = False
        """Its source was told its end, or is gone."""
        self.counted = False
        """Its end is among the outcomes, and whoever watches was told."""


class WorkerState(Enum):
    """A worker's life; it only moves forward."""

    STARTING = 0
    READY = 1
    ENDING = 2
    """It takes no calls any more."""


class Worker:
    """One worker process."""

    __slots__ = (
        "ahead",
        "calls",
        "children",
        "doomed",
        "exited",
        "function",
        "idle_since_s",
        "linked",
        "number",
        "orphaned",
        "pid",
        "pool",
        "served",
        "started_s",
        "state",
        "template",
        "told",
    )

    def __init__(self, number: int, pool: Pool, *, template: int, started_s: float) -> None:
        self.number = number
        self.pool = pool
        self.function = pool.function
        self.template = template
        self.started_s = started_s
        self.state = WorkerState.STARTING
        self.pid = 0
        self.calls: dict[int, Call] = {}
        """That it runs."""
        self.ahead: dict[int, Call] = {}
        """That it has and will begin, in order."""
        self.doomed = self.exited = ""
        """Why it is to be killed, or how it ended: both wait a moment for what is ahead in it."""
        self.orphaned = ""
        """How its template ended, of itself: it dies with it, and nobody tells of that."""
        self.children = 0
        """Calls of its own that are not over."""
        self.idle_since_s = started_s
        self.served = 0
        self.linked = False
        """Its connection stands."""
        self.told = False
        """It was told to end."""


class Pool:
    """All workers of one function, and its queue."""

    __slots__ = (
        "_ahead",
        "_full",
        "_idle",
        "_partial",
        "_queue",
        "calls_others",
        "concurrency",
        "failures",
        "function",
        "load",
        "not_before_s",
        "options",
        "sized_s",
        "waiting_since_s",
        "workers",
    )

    def __init__(
        self, function: str, options: FunctionOptions, *, load: Load | None = None
    ) -> None:
        self.function = function
        self.options = options
        self.concurrency = 1 if options.fresh else max(options.max_concurrency, 1)
        self.load = load or Load()
        self.workers: dict[int, Worker] = {}
        """Those that take calls, or will."""
        self.failures = 0
        """Workers in a row that ended before they were ready."""
        self.not_before_s = 0.0
        """No worker is started before, since the last ones failed."""
        self.sized_s = 0.0
        """When somebody looked at how many workers there should be."""
        self.waiting_since_s: float | None = None
        """Since when some call has waited without one being started."""
        self.calls_others = False
        """Calls of this function make calls: what is behind them may be what they wait for."""
        self._ahead: dict[int, Call] = {}
        """In workers and not begun, in the order in which they were given."""
        self._queue: OrderedDict[int, Call] = OrderedDict()
        self._idle: OrderedDict[int, Worker] = OrderedDict()
        self._partial: dict[int, Worker] = {}
        self._full: dict[int, Worker] = {}
        """Busy, and without a call to begin next."""

    # --- calls ------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return len(self._queue) + len(self._ahead)

    def has_room(self, count: int = 1) -> bool:
        """Whether so many more calls are within the bound: those beyond what workers take wait."""
        after = self.waiting + count
        # Counting slots looks at every worker; most of the time there is no need to.
        return after <= self.options.queue_limit or after <= (
            self.options.queue_limit + self.free_slots
        )

    @property
    def free_slots(self) -> int:
        """What the workers there are, and those that may be started, take beyond what they have."""
        under_way = sum(len(worker.calls) for worker in self.workers.values())
        most = max(self.workers_max, len(self.workers))
        return max(most * self.concurrency - under_way, 0)

    @property
    def saturated(self) -> bool:
        """All the workers that there may be have all the calls that they take."""
        return not (self._idle or self._partial or len(self.workers) < self.workers_max)

    def put(self, call: Call, now_s: float, *, first: bool = False) -> None:
        """A call waits here from now on."""
        self._queue[call.number] = call
        if first:
            self._queue.move_to_end(call.number, last=False)
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s

    def drop(self, call: Call) -> None:
        """A call does not wait any more."""
        del self._queue[call.number]
        if not self.waiting:
            self.waiting_since_s = None

    def take_all(self) -> list[Call]:
        """The whole queue, which is empty then."""
        calls = list(self._queue.values())
        self._queue.clear()
        if not self._ahead:
            self.waiting_since_s = None
        return calls

    def assign(self, now_s: float) -> Iterator[tuple[Worker, Call]]:
        """Gives calls to workers while there are both."""
        while self._queue:
            worker = self._choose()
            if worker is None:
                return
            _, call = self._queue.popitem(last=False)
            self.waiting_since_s = now_s if self.waiting else None
            self._give(worker, call, now_s)
            yield worker, call

    def assign_ahead(self, now_s: float) -> Iterator[tuple[Worker, Call]]:
        """Gives busy workers what they are to begin next, while enough waits for all of them."""
        if not (self._full and self._queue) or self.calls_others:
            return
        most = min(int(AHEAD_S / max(self.load.service_s, 1e-6)), AHEAD_MAX)
        while most and self._full and len(self._queue) >= len(self.workers):
            _, worker = self._full.popitem()
            for _ in range(min(most, len(self._queue) // len(self.workers))):
                _, call = self._queue.popitem(last=False)
                call.worker = worker
                call.phase = Phase.AHEAD
                call.recalled = False
                call.sent_s = now_s
                worker.ahead[call.number] = self._ahead[call.number] = call
                worker.served += 1
                yield worker, call

    def to_recall(self, now_s: float) -> list[Call]:
        """Those given ahead that another worker would begin sooner, or might, the newest first."""
        found: list[Call] = []
        room = 0 if self._queue else len(self._idle) or len(self._partial)
        for call in self._ahead.values():
            if not call.recalled:
                if room <= 0 and now_s - call.sent_s < AHEAD_WAIT_S:
                    break
                room -= 1
                call.recalled = True
                found.append(call)
        return found[::-1]

    def recall_all(self, worker: Worker | None = None) -> list[Call]:
        """All given ahead, to this worker, that were not asked for yet, the newest first."""
        calls = self._ahead if worker is None else worker.ahead
        found = [call for call in calls.values() if not call.recalled]
        for call in found:
            call.recalled = True
        return found[::-1]

    def _choose(self) -> Worker | None:
        if self._idle:
            return next(reversed(self._idle.values()))
        if self._partial:
            return min(self._partial.values(), key=_calls_count)
        return None

    def _give(self, worker: Worker, call: Call, now_s: float) -> None:
        call.worker = worker
        call.phase = Phase.RUNNING
        call.sent_s = now_s
        call.cold = not worker.served and worker.started_s >= call.received_s
        worker.calls[call.number] = call
        worker.served += 1
        self._place(worker)

    def done(self, worker: Worker, call: Call, now_s: float) -> Call | None:
        """A worker has one call less; the one that it begins now because of that, if any."""
        begun = None
        if worker.ahead.pop(call.number, None) is not None:
            del self._ahead[call.number]
        else:
            del worker.calls[call.number]
            begun = self._begin(worker, now_s) if worker.ahead else None
        if not self.waiting:
            self.waiting_since_s = None
        if worker.state is WorkerState.READY:
            if not worker.calls:
                worker.idle_since_s = now_s
            self._place(worker)
        return begun

    def _begin(self, worker: Worker, now_s: float) -> Call:
        """The next of what is ahead in a worker."""
        number = next(iter(worker.ahead))
        call = worker.calls[number] = worker.ahead.pop(number)
        del self._ahead[number]
        call.sent_s = now_s
        if call.phase is Phase.AHEAD:
            call.phase = Phase.RUNNING
        self.waiting_since_s = now_s
        return call

    def lose(self, worker: Worker) -> list[Call]:
        """All that a worker had, in order: it is gone."""
        for number in worker.ahead:
            del self._ahead[number]
        calls = [*worker.calls.values(), *worker.ahead.values()]
        worker.calls.clear()
        worker.ahead.clear()
        if not self.waiting:
            self.waiting_since_s = None
        return calls

    # --- workers ----------------------------------------------------------------------------------

    def add(self, worker: Worker) -> None:
        """It was asked for."""
        self.workers[worker.number] = worker

    def ready(self, worker: Worker, now_s: float) -> None:
        """It takes calls now."""
        worker.state = WorkerState.READY
        worker.idle_since_s = now_s
        self.failures = 0
        self._place(worker)

    def remove(self, worker: Worker) -> None:
        """It takes no calls any more; those that it has are not touched."""
        self.workers.pop(worker.number, None)
        self._idle.pop(worker.number, None)
        self._partial.pop(worker.number, None)
        self._full.pop(worker.number, None)
        worker.state = WorkerState.ENDING

    def _place(self, worker: Worker) -> None:
        """Among the idle, the partly busy, or neither, as its calls say."""
        count, number = len(worker.calls), worker.number
        self._idle.pop(number, None)
        self._full.pop(number, None)
        if count == 0 and not (self.options.fresh and worker.served):
            self._partial.pop(number, None)
            self._idle[number] = worker
        elif 0 < count < self.concurrency:
            self._partial[number] = worker
        else:
            self._partial.pop(number, None)
            if not self.options.fresh and not worker.ahead:
                self._full[number] = worker

    @property
    def starting(self) -> int:
        """Workers that were asked for and are not ready."""
        return sum(each.state is WorkerState.STARTING for each in self.workers.values())

    @property
    def blocked(self) -> int:
        """Workers whose calls may all be waiting for calls of their own."""
        return sum(
            len(each.calls) >= self.concurrency and each.children >= len(each.calls)
            for each in self.workers.values()
        )

    @property
    def workers_max(self) -> int:
        """How many there may be now."""
        return self.options.max_workers + min(self.blocked, DEPTH_MAX)

    def wanted(self, now_s: float, *, stall_s: float) -> int:
        """How many workers there should be now."""
        options, waiting = self.options, self.waiting
        if options.fresh:
            running = sum(1 for each in self.workers.values() if each.calls)
            return max(min(waiting + running + options.min_workers, options.max_workers), running)
        count = len(self.workers)
        busy = self.load.slots(now_s, waiting=waiting) / self.concurrency
        # While nothing waits, a worker is of use once it is busy half of the time.
        wanted = ceil(busy) if waiting else int(busy + 0.5)
        if waiting:
            least = 1
            since_s = self.waiting_since_s
            if not self._idle and not self._partial:
                least = max(least, self.blocked + 1)
                if since_s is not None and now_s - since_s >= stall_s and not self.starting:
                    least = max(least, count + max(1, count // 2))
            wanted = max(wanted, least)
            # More than one worker for each call that waits is never of use; they come for one, too,
            # that start already, however long that takes.
            wanted = min(wanted, max(count - self.starting + waiting, count))
        return max(min(wanted, self.workers_max), options.min_workers)

    def surplus(self, now_s: float) -> list[Worker]:
        """Idle workers whose time is over, the longest idle first."""
        spare = len(self.workers) - self.options.min_workers
        found: list[Worker] = []
        for worker in self._idle.values():
            if len(found) >= spare or worker.idle_since_s + self.options.idle_s > now_s:
                break
            found.append(worker)
        return found

    def idle_until_s(self) -> float | None:
        """When the next idle worker's time is over; None: none is to end."""
        if len(self.workers) <= self.options.min_workers or not self._idle:
            return None
        return next(iter(self._idle.values())).idle_since_s + self.options.idle_s

    def retry_after_s(self) -> float:
        """When a refused call may find room."""
        slots = max(len(self.workers), 1) * self.concurrency
        return self.load.retry_after_s(waiting=self.waiting, slots=slots)

    def check(self) -> None:
        """Assert the invariants."""
        for worker in self.workers.values():
            count = len(worker.calls)
            assert count <= self.concurrency
            assert not (self.options.fresh and worker.served > 1)
            assert not worker.ahead or count == self.concurrency, "ahead of nothing"
            assert all(self._ahead[number] is call for number, call in worker.ahead.items())
            if worker.state is WorkerState.READY:
                used = self.options.fresh and worker.served
                assert (worker.number in self._idle) == (count == 0 and not used)
                assert (worker.number in self._partial) == (0 < count < self.concurrency)
        assert all(call.phase is Phase.WAITING for call in self._queue.values())
        assert not (self._queue and self._idle), "a call waits beside an idle worker"
        assert (self.waiting_since_s is not None) == bool(self.waiting)


def _calls_count(worker: Worker) -> int:
    return len(worker.calls)
