"""Ends before their time: what a deadline, a cancellation or a lost caller means for a call.

Decides by where the call stands: one that waits leaves its queue at once; one that runs is told to
end and has a moment for it; one that goes on past its deadline is answered without it, and its
worker is stuck. What lies ahead in a worker ends there, without being begun.

Invariants: whoever waits for a call is told by its deadline and its grace; a caller that is gone
stops its calls, but not durable ones. Does not know why a worker is lost or what then becomes of
its calls, nor anything of a call that goes well.
"""

from __future__ import annotations

from bokilog.call_errors import CallCancelled, CallTimeout, WorkerLost
from bokilog.errors import NotReady
from bokilog.functions.runtime.effects import Address, Effect, Send
from bokilog.functions.runtime.fleet import Fleet
from bokilog.functions.runtime.messages import Cancel, Flag
from bokilog.functions.runtime.open_calls import OpenCalls, runner
from bokilog.functions.runtime.other_hosts import OtherHosts
from bokilog.functions.runtime.pool import Call, Phase


class Endings:
    """How calls of one host are ended.

    Args:
        cancel_grace_s: a cancelled call may take so long to end.
        out: takes the effects.
    """

    __slots__ = ("_calls", "_cancel_grace_s", "_fleet", "_hosts", "_out")

    def __init__(
        self,
        *,
        cancel_grace_s: float,
        calls: OpenCalls,
        hosts: OtherHosts,
        fleet: Fleet,
        out: list[Effect],
    ) -> None:
        self._cancel_grace_s = cancel_grace_s
        self._calls = calls
        self._hosts = hosts
        self._fleet = fleet
        self._out = out

    # --- nobody wants it any more -----------------------------------------------------------------

    def cancel(self, source: Address, cancel: Cancel, now_s: float) -> None:
        """Its caller does not want it."""
        call = self._calls.asked(source, cancel.call)
        if call is not None:
            self._stop(call, cancel.reason or "its caller does not want it", now_s)

    def source_gone(self, source: Address, now_s: float) -> None:
        """Nobody waits for these any more; durable ones go on."""
        for call in self._calls.forget_source(source):
            if not call.flags & Flag.DURABLE:
                self._stop(call, "its caller is gone", now_s)

    def host_stops(self, name: str, now_s: float) -> None:
        """All that is left is told; what runs may end, but nobody waits for it."""
        for call in list(self._calls.by_number.values()):
            if call.phase is Phase.WAITING:
                self._fleet.pools[call.function].drop(call)
                self._calls.fail(call, NotReady(f"host {name} stops"), now_s)
            else:
                lost = WorkerLost(call.function, "its host stops")
                self._calls.fail_early(call, lost, now_s)

    def _stop(self, call: Call, reason: str, now_s: float) -> None:
        """Out of the queue at once; or its worker is told, and has a moment to end it."""
        if call.phase is Phase.WAITING:
            self._fleet.pools[call.function].drop(call)
            self._fleet.touch(call.function)
            self._calls.fail(call, CallCancelled(call.function, reason), now_s)
        elif call.phase is Phase.RUNNING or call.phase is Phase.AHEAD:
            call.phase = Phase.CANCELLED
            self._out.append(Send(runner(call), Cancel(call.number, reason)))
            due_s = min(now_s + self._cancel_grace_s, self._calls.last_s(call))
            self._calls.set_due(call, due_s)

    # --- its time is over -------------------------------------------------------------------------

    def due(self, call: Call, now_s: float) -> None:
        """Its deadline has come, or the end of the moment that it had after a cancellation."""
        if call.phase is Phase.WAITING:
            self._fleet.pools[call.function].drop(call)
            self._calls.fail(call, _too_late(call), now_s)
        elif call.worker is not None and call.number in call.worker.ahead:
            self._due_ahead(call, now_s)
        elif now_s < self._calls.last_s(call):
            # Cancelled a moment ago, and it has not ended: it may until its deadline.
            self._calls.fail_early(call, CallCancelled(call.function, "it goes on"), now_s)
            self._calls.set_due(call, self._calls.last_s(call))
        else:
            self._calls.fail_early(call, _too_late(call), now_s)
            if call.peer:
                self._hosts.give_up(call)
            elif call.worker is not None:
                self._fleet.stuck(call.worker, now_s)

    def _due_ahead(self, call: Call, now_s: float) -> None:
        """It is over for its caller; its worker says so once it is free, without beginning it."""
        if call.phase is Phase.CANCELLED:
            cancelled = CallCancelled(call.function, "it had not begun")
            self._calls.fail_early(call, cancelled, now_s)
            return
        self._calls.fail_early(call, _too_late(call), now_s)
        call.phase = Phase.CANCELLED
        self._out.append(Send(runner(call), Cancel(call.number, "its time is over")))


def _too_late(call: Call) -> CallTimeout:
    return CallTimeout(call.function, round(call.deadline_s - call.received_s, 3))
