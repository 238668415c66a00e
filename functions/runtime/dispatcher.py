"""Calls that run on this host: how each gets from its queue to a worker, and back.

Decides when a call waits and when its worker is told of it, what is known to have begun, and what
becomes of a call that its worker has ended, given back or left behind. Which worker gets which call
is the pool's (`pool.py`) to choose.

Invariants: a call whose worker, or host, was lost is started again only while `retries` allows and
nothing of its stream has left; arguments are kept for as long as a call may start again. Does not
know where calls come from, other hosts, or how calls end before their time.
Source: Nightcore (pools per function, last in first out).
"""

from __future__ import annotations

from collections import Counter

from bokilog.call_errors import CallCancelled, WorkerLost
from bokilog.functions.runtime.admission import no_room, unknown_function
from bokilog.functions.runtime.effects import Address, CallBegan, Disconnect, Effect, Send
from bokilog.functions.runtime.fleet import Fleet
from bokilog.functions.runtime.messages import Credit, Done, Returned
from bokilog.functions.runtime.open_calls import OpenCalls, as_start, runner
from bokilog.functions.runtime.pool import Call, Phase, Pool, WorkerState


class Dispatcher:
    """Gives the calls of one host to its workers.

    Args:
        grace_s: past a call's deadline its worker may take so long to say that it is over.
        out: takes the effects.
    """

    __slots__ = ("_calls", "_fleet", "_grace_s", "_out", "cold", "retries")

    def __init__(
        self, *, grace_s: float, calls: OpenCalls, fleet: Fleet, out: list[Effect]
    ) -> None:
        self.cold: Counter[str] = Counter()
        """Calls that a worker was started for, by function."""
        self.retries = 0
        """Calls that were started again."""
        self._grace_s = grace_s
        self._calls = calls
        self._fleet = fleet
        self._out = out

    # --- to a worker ------------------------------------------------------------------------------

    def enqueue(self, call: Call, now_s: float, *, first: bool = False) -> None:
        """To its function's queue, and on to a worker if one is free."""
        pool = self._fleet.pools.get(call.function)
        if pool is None:  # a reload took the function away
            self.homeless(call, now_s)
            return
        if not first:
            pool.load.arrived(now_s)
            if not pool.has_room():
                self._calls.fail(call, no_room(pool), now_s)
                return
        call.phase = Phase.WAITING
        call.worker, call.peer = None, ""
        pool.put(call, now_s, first=first)
        self.dispatch(pool, now_s)
        if call.phase is Phase.WAITING or call.phase is Phase.AHEAD:
            # A slice would keep the whole read in memory that it came with.
            call.payload = bytes(call.payload)

    def dispatch(self, pool: Pool, now_s: float) -> None:
        """Workers of the pool get what waits, as far as they take it."""
        for worker, call in pool.assign(now_s):
            if call.cold:
                self.cold[call.function] += 1
            self._out.append(Send(("worker", worker.number), as_start(call, now_s)))
            self._begins(call, pool, now_s)
        for worker, call in pool.assign_ahead(now_s):
            self._out.append(Send(("worker", worker.number), as_start(call, now_s)))
        if pool.waiting:
            self._fleet.recall(pool.to_recall(now_s))
        self._fleet.used(pool.function)

    def _begins(self, call: Call, pool: Pool, now_s: float) -> None:
        """Its worker runs it from now on."""
        if call.phase is not Phase.RUNNING:  # it was cancelled, and is not begun
            if not self._calls.is_due(call):
                self._calls.set_due(call, now_s + self._grace_s)
            return
        self._calls.set_due(call, max(call.deadline_s, now_s) + self._grace_s)
        if call.credit:
            self._out.append(Send(runner(call), Credit(call.number, call.credit)))
            call.credit = 0
        if pool.options.retries <= call.attempt:
            call.payload = b""
        waited_s = now_s - call.received_s
        self._out.append(CallBegan(call.call_id, call.function, call.attempt, waited_s))

    # --- and back ---------------------------------------------------------------------------------

    def done(self, source: Address, done: Done, now_s: float) -> None:
        """A worker has ended a call, and takes the next one."""
        call = self._calls.by_number.get(done.call)
        if call is None:
            return  # it was answered in its place, and given up
        worker = call.worker
        if worker is None or source != ("worker", worker.number):
            self._out.append(Disconnect(source, f"the end of call {done.call}, which it has not"))
            return
        pool = worker.pool
        if call.number in worker.calls:
            pool.load.finished(now_s - call.sent_s)
        begun = pool.done(worker, call, now_s)
        if begun is not None:
            self._begins(begun, pool, now_s)
        self._calls.end(call, done, now_s)
        if worker.state is WorkerState.READY:
            if pool.options.fresh:
                self._fleet.retire(worker, now_s)
            self.dispatch(pool, now_s)
        else:
            self._fleet.end_if_stuck(worker, now_s)

    def returned(self, source: Address, returned: Returned, now_s: float) -> None:
        """A call that was given ahead has not begun: it waits here again, before all others."""
        call = self._calls.by_number.get(returned.call)
        worker = call.worker if call is not None else None
        if call is None or worker is None or source != ("worker", worker.number):
            return
        if call.number not in worker.ahead:
            self._out.append(Disconnect(source, f"call {call.number} back, which it has begun"))
            return
        worker.pool.done(worker, call, now_s)
        if call.answered or call.phase is Phase.CANCELLED:
            error = CallCancelled(call.function, "its caller does not want it")
            self._calls.fail(call, error, now_s)
        else:
            self._calls.set_due(call, call.deadline_s)
            self.enqueue(call, now_s, first=True)
        if worker.state is WorkerState.READY:
            self.dispatch(worker.pool, now_s)
        else:
            self._fleet.end_if_stuck(worker, now_s)

    # --- what it did not come back from -----------------------------------------------------------

    def lost(self, call: Call, reason: str, now_s: float) -> None:
        """Whoever ran it is gone: it starts again, or is told."""
        call.worker = None
        if call.phase is Phase.AHEAD and not call.answered:
            self.enqueue(call, now_s, first=True)
        elif self._may_start_again(call, now_s):
            self.retries += 1
            call.attempt += 1
            call.home = True
            self._calls.set_due(call, call.deadline_s)
            self.enqueue(call, now_s, first=True)
        elif call.phase is Phase.CANCELLED:
            self._calls.fail(call, CallCancelled(call.function, reason), now_s)
        else:
            self._calls.fail(call, WorkerLost(call.function, reason), now_s)

    def _may_start_again(self, call: Call, now_s: float) -> bool:
        pool = self._fleet.pools.get(call.function)
        return (
            pool is not None
            and call.attempt < pool.options.retries
            and call.phase is Phase.RUNNING
            and not call.answered
            and not call.items
            and now_s < call.deadline_s
        )

    def homeless(self, call: Call, now_s: float) -> None:
        """It waited for a function that the app has not any more."""
        self._calls.fail(call, unknown_function(call.function, self._fleet.pools), now_s)
