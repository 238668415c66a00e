"""The calls of a host that are not over: who asked for them, and who is told how they ended.

Decides in whose numbers a call is spoken of, on the way out and on the way back, which sources are
still to be told, and what of an end is counted.

Invariants: a source is told the end of a call once, in its own number for it, and not at all once
it is gone; each call that is not over is due at some time, but where its worker ends or has still
to begin it. What others may look at (`by_number`, `by_source`) only this module changes. Does not
know queues, other hosts, or why a call ends. Source: DESIGN section 6.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from bokilog.errors import BY_CODE, BokilogError, to_wire
from bokilog.functions.runtime.agenda import Agenda, Key
from bokilog.functions.runtime.effects import Address, CallOver, Effect, Send
from bokilog.functions.runtime.messages import Done, Encoding, Start
from bokilog.functions.runtime.pool import Call, Phase, WorkerState
from bokilog.histogram import Histogram


class OpenCalls:
    """All calls of one host that are not over.

    Args:
        grace_s: past a call's deadline whoever runs it may take so long to say that it is over.
        agenda: shared with others; its keys "call" are this class's.
        out: takes the effects.
    """

    __slots__ = ("_agenda", "_grace_s", "_out", "by_number", "by_source", "outcomes", "took")

    def __init__(self, *, grace_s: float, agenda: Agenda[Key], out: list[Effect]) -> None:
        self.by_number: dict[int, Call] = {}
        self.by_source: dict[Address, dict[int, Call]] = {}
        """By source and its number for the call; entries leave with their answer."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """(function, `ok` or the error's name) to how often."""
        self.took: defaultdict[str, Histogram] = defaultdict(Histogram)
        """From a call to its answer, by function."""
        self._grace_s = grace_s
        self._agenda = agenda
        self._out = out

    # --- they come --------------------------------------------------------------------------------

    def add(self, call: Call) -> bool:
        """It is open until its deadline; False: its source has another one of that number."""
        known = self.by_source.setdefault(call.source, {})
        if call.asked in known:
            return False
        known[call.asked] = self.by_number[call.number] = call
        self._agenda.set(("call", call.number), call.deadline_s)
        if call.parent is not None:
            call.parent.children += 1
        return True

    def asked(self, source: Address, number: int) -> Call | None:
        """A call whose end its source still waits for, by the source's number."""
        return self.by_source.get(source, {}).get(number)

    def refuse(self, source: Address, asked: int, error: BokilogError, *, function: str) -> None:
        """An answer to what never became a call; it is counted for that function."""
        self.outcomes[function, type(error).__name__] += 1
        self._out.append(Send(source, _failed(asked, error)))

    # --- until when -------------------------------------------------------------------------------

    def set_due(self, call: Call, due_s: float) -> None:
        """Somebody looks at it then, and not when it was due before."""
        self._agenda.set(("call", call.number), due_s)

    def is_due(self, call: Call) -> bool:
        """Whether anybody will look at it."""
        return ("call", call.number) in self._agenda

    def last_s(self, call: Call) -> float:
        """Until when it may run."""
        return call.deadline_s + self._grace_s * (2 if call.peer else 1)

    # --- they end ---------------------------------------------------------------------------------

    def end(self, call: Call, done: Done, now_s: float) -> None:
        """Whoever ran it says how it ended; that goes to its source."""
        self.forget(call)
        call.phase = Phase.OVER
        if call.answered:
            self._count(call, done.error, now_s)
            return
        call.answered = True
        self._leave_source(call)
        queued_us = done.queued_us + max(round((call.sent_s - call.received_s) * 1e6), 0)
        error, cold = done.error, done.cold or call.cold
        answer = Done(
            call.asked, done.encoding, done.token, error, queued_us, done.ran_us, cold, done.payload
        )
        self._out.append(Send(call.source, answer))
        self._count(call, error, now_s)

    def fail(self, call: Call, error: BokilogError, now_s: float) -> None:
        """Its end, told by this host."""
        self.forget(call)
        self.fail_early(call, error, now_s)
        call.phase = Phase.OVER

    def fail_early(self, call: Call, error: BokilogError, now_s: float) -> None:
        """The source is told; whatever still runs is not waited for."""
        answer = _failed(call.asked, error)
        if not call.answered:
            call.answered = True
            self._leave_source(call)
            until_s = call.sent_s if call.sent_s else now_s
            queued_us = max(round((until_s - call.received_s) * 1e6), 0)
            self._out.append(
                Send(call.source, answer._replace(queued_us=queued_us, cold=call.cold))
            )
        self._count(call, answer.error, now_s)

    def forget(self, call: Call) -> None:
        """It is over on this host."""
        if self.by_number.pop(call.number, None) is None:
            return
        self._agenda.drop(("call", call.number))
        if call.parent is not None:
            call.parent.children -= 1

    def forget_source(self, source: Address) -> list[Call]:
        """Nobody is there to be told any more; the calls that it waited for."""
        calls = list(self.by_source.pop(source, {}).values())
        for call in calls:
            call.answered = True
        return calls

    def _leave_source(self, call: Call) -> None:
        asked = self.by_source.get(call.source)
        if asked is not None:
            asked.pop(call.asked, None)
            if not asked:
                del self.by_source[call.source]

    def _count(self, call: Call, error: list[object], now_s: float) -> None:
        if call.counted:
            return
        call.counted = True
        outcome = "ok" if not error else error_name(error)
        self.outcomes[call.function, outcome] += 1
        took_s = now_s - call.received_s
        self.took[call.function].observe(took_s)
        self._out.append(CallOver(call.call_id, call.function, error, took_s, call.cold))

    # --- invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants."""
        for source, calls in self.by_source.items():
            for asked, call in calls.items():
                assert call.source == source and call.asked == asked and not call.answered
                assert self.by_number[call.number] is call
        for call in self.by_number.values():
            assert call.phase is not Phase.OVER
            ending = call.worker is not None and call.worker.state is WorkerState.ENDING
            ahead = call.worker is not None and call.number in call.worker.ahead
            assert self.is_due(call) or (call.answered and (ending or ahead)), "it may never end"


def as_start(call: Call, now_s: float) -> Start:
    """For whoever is to run it: in this host's number, with the time that it has left."""
    return Start(
        call.number,
        call.function,
        call.encoding,
        max(round((call.deadline_s - now_s) * 1e3), 1),
        call.depth,
        call.attempt,
        call.flags,
        call.call_id,
        call.token,
        call.trace,
        call.payload,
    )


def runner(call: Call) -> Address:
    """Who has it: a worker here, or another host."""
    if call.peer:
        return ("peer", call.peer)
    assert call.worker is not None
    return ("worker", call.worker.number)


def _failed(asked: int, error: BokilogError) -> Done:
    return Done(asked, Encoding.MSGPACK, "", to_wire(error), 0, 0, False, b"")


def error_name(error: list[object]) -> str:
    """What an error on the wire is called by people."""
    code = error[0]
    known = BY_CODE.get(code) if isinstance(code, int) else None
    return known.__name__ if known is not None else "unknown"
