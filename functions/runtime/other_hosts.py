"""Calls that other hosts run for this one: what is passed to whom, and what they say of it.

Decides what placement (`placement.py`) is asked for a call, how calls are passed on, one by one or
as a part of a fan-out, and whether a host's answer is the end of a call or means that it never
began there.

Invariants: what another host refused stays here, so that no call goes in circles; a host that
refused is left alone for as long as it asked. Does not know workers, queues, or why a call is
passed on.
"""

from __future__ import annotations

from typing import Final

from bokilog.call_errors import AppFailed, UnknownFunction
from bokilog.codec import unpack
from bokilog.errors import NotReady, Overloaded, RemoteProtocolError
from bokilog.functions.runtime.effects import Effect, Send
from bokilog.functions.runtime.messages import Cancel, Credit, Done, Encoding, StartMany
from bokilog.functions.runtime.open_calls import OpenCalls, as_start
from bokilog.functions.runtime.placement import Placement
from bokilog.functions.runtime.pool import Call, Phase, Pool

_ANY: Final = 1 << 30
"""More calls than another host has: any that answers is better than this one."""
# What another host answers when it has certainly not started the call.
_REFUSALS: Final = frozenset({Overloaded.code, NotReady.code, UnknownFunction.code, AppFailed.code})


class OtherHosts:
    """What other hosts have of one host's calls.

    Args:
        name: of this host.
        seed: of its draws between others.
        back_off_s: a host that refused a call is left alone for so long at least.
        out: takes the effects.
    """

    __slots__ = ("_back_off_s", "_calls", "_out", "_placement")

    def __init__(
        self, name: str, *, seed: int, back_off_s: float, calls: OpenCalls, out: list[Effect]
    ) -> None:
        self._placement = Placement(name, seed=seed)
        self._back_off_s = back_off_s
        self._calls = calls
        self._out = out

    # --- which there are --------------------------------------------------------------------------

    @property
    def alone(self) -> bool:
        """No other host is up."""
        return self._placement.alone

    def up(self, name: str) -> None:
        """A link to that host stands."""
        self._placement.up(name)

    def down(self, name: str) -> None:
        """It does not any more, or that host is about to stop: it gets no new calls."""
        self._placement.down(name)

    # --- which of them takes a call ---------------------------------------------------------------

    def choose(self, call: Call, pool: Pool, now_s: float) -> str:
        """Where a call runs that may run here; empty: it does."""
        if self._placement.alone:
            return ""
        waiting = pool.waiting + 1 if pool.saturated else None
        return self._placement.choose(now_s, near=_data_host(call), waiting=waiting)

    def any_free(self, now_s: float) -> str:
        """Where calls go that cannot stay here; empty: nobody has room."""
        return self._placement.choose(now_s, near="", waiting=_ANY)

    def shares(self, now_s: float, count: int) -> list[tuple[str, int]]:
        """How a fan-out of so many calls is split: host ("": this one) and its number of calls."""
        return self._placement.shares(now_s, count)

    # --- calls go to them -------------------------------------------------------------------------

    def pass_on(self, call: Call, host: str, now_s: float) -> None:
        """That host runs it."""
        self._mark_passed(call, host, now_s)
        self._out.append(Send(("peer", host), as_start(call, now_s)))
        if call.credit:
            self._out.append(Send(("peer", host), Credit(call.number, call.credit)))
            call.credit = 0

    def pass_many(self, calls: list[Call], host: str, now_s: float) -> None:
        """As one message: their numbers follow one another, since nothing came between."""
        if not calls:
            return
        for call in calls:
            self._mark_passed(call, host, now_s)
        first = calls[0]
        many = StartMany(
            first.number,
            first.function,
            first.encoding,
            max(round((first.deadline_s - now_s) * 1e3), 1),
            first.depth,
            first.flags,
            first.call_id,
            first.token,
            first.trace,
            [call.payload for call in calls],
        )
        self._out.append(Send(("peer", host), many))

    def _mark_passed(self, call: Call, host: str, now_s: float) -> None:
        call.peer = host
        call.phase = Phase.RUNNING
        call.sent_s = now_s
        self._placement.began(host)
        self._calls.set_due(call, self._calls.last_s(call))

    # --- and come back ----------------------------------------------------------------------------

    def refused(self, call: Call, done: Done, now_s: float) -> bool:
        """Whether its host says that it never began it, so that it stays here; else it is over."""
        host, error = call.peer, done.error
        self._placement.over(host)
        if not error or error[0] not in _REFUSALS or call.phase is not Phase.RUNNING:
            return False
        after_s = self._back_off_s
        if error[0] == Overloaded.code and len(error) > 1:
            told = error[1]
            after_s = max(after_s, told if isinstance(told, (int, float)) else 0.0)
        self._placement.refused(host, until_s=now_s + after_s)
        call.home = True
        self._calls.set_due(call, call.deadline_s)
        return True

    def give_up(self, call: Call) -> None:
        """It is not waited for any more; its host is told."""
        self._out.append(Send(("peer", call.peer), Cancel(call.number, "its time is over")))
        self._placement.over(call.peer)
        self._calls.forget(call)

    def calls_on(self, host: str) -> list[Call]:
        """All that it has."""
        return [call for call in self._calls.by_number.values() if call.peer == host]


def _data_host(call: Call) -> str:
    """The host that the payload's record was written on; empty: it has none, or says no such."""
    if call.encoding != Encoding.REFERENCE:
        return ""
    try:
        reference = unpack(memoryview(call.payload))
    except RemoteProtocolError:
        return ""
    if isinstance(reference, list) and len(reference) == 4 and isinstance(reference[3], str):
        return reference[3]
    return ""
