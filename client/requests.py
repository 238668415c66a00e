"""Numbered requests: which are under way, when each is given up, which are asked again.

Decides what becomes of a request when its answer does not come. Everything asked here may be asked
twice (reads change nothing; trims, holds, releases, deletions and aux data end in the same state),
so a lost connection and an `UnavailableError` only cost time, until the deadline.

Invariants: a request ends once; at most `IN_FLIGHT_MAX` are with the engine, and as many that are
asked to wait there for a record (these keep no others from being asked); all others wait here, in
order; what is left of a wait is what is asked for again, so the budget survives reconnects; an
answer's position is seen by the session before the caller gets it, also when it is an error.

Does not know: clocks (times come in), what an answer means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final, Protocol

from bokilog.client.session import Session
from bokilog.client.units import NEVER
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    NodeUnreachable,
    Overloaded,
    ReadTimeout,
    from_wire,
)
from bokilog.ids import Position
from bokilog.messages import (
    Answer,
    BookState,
    CancelRead,
    Propose,
    Read,
    ReadReply,
    RequestFailed,
    SeqnumAt,
    SetAux,
    Tail,
    TailRequest,
)

IN_FLIGHT_MAX: Final = 4_096  # of either kind; below what an index lets wait
WAIT_MS_MAX: Final = 600_000  # of one ask: a wait that was forgotten somewhere ends by itself
RETRY_DELAY_S_MIN: Final = 0.02
RETRY_DELAY_S_MAX: Final = 1.0

Query = Read | SeqnumAt | BookState | SetAux | Propose | TailRequest
Reply = ReadReply | Answer | Tail


class ReplyWaiter(Protocol):
    """Where a reply goes: a future of the shell."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: Reply, /) -> None:
        """The engine answered."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """It failed, or did not answer in time."""
        ...


class Request:
    """One question on its way."""

    __slots__ = (
        "attempts",
        "deadline_s",
        "error",
        "number",
        "query",
        "retry_at_s",
        "sent",
        "sent_ever",
        "session",
        "timeout_s",
        "wait_until_s",
        "waiter",
        "waits",
    )

    def __init__(
        self,
        query: Query,
        waiter: ReplyWaiter,
        session: Session,
        *,
        deadline_s: float,
        timeout_s: float,
        wait_until_s: float = 0.0,
    ) -> None:
        self.number = query.request
        self.query = query
        self.waiter = waiter
        self.session = session
        self.deadline_s = deadline_s
        self.timeout_s = timeout_s
        """What the caller asked for, to name it."""
        self.wait_until_s = wait_until_s
        """Until when the engine is asked to wait for a record; 0: not at all."""
        self.waits = bool(wait_until_s)
        self.retry_at_s = 0.0
        """When to ask again after an `UnavailableError`; 0: there was none."""
        self.sent = False
        self.sent_ever = False
        self.attempts = 0
        self.error: BokilogError | None = None
        """Why the engine could not answer the last time."""

    def timeout(self) -> BokilogError:
        """What its caller gets when the time is over."""
        if self.error is not None:
            return self.error
        name = type(self.query).__name__
        if not isinstance(self.query, Propose | SetAux):
            return ReadTimeout(_WHAT.get(type(self.query), name), self.timeout_s)
        if self.sent_ever:
            return AppendUnknown(f"it was not answered within timeout_s={self.timeout_s}")
        return NodeUnreachable("any engine", f"not within timeout_s={self.timeout_s}")


_CLOSED: Final = "the log was closed before it was answered"

_WHAT: Final[dict[type[Query], str]] = {
    Read: "the read",
    SeqnumAt: "seqnum_at",
    BookState: "info",
    TailRequest: "tail",
}


class Requests:
    """All requests of one client."""

    __slots__ = ("_in_flight", "_last", "_observe", "_queues", "_send", "_table")

    def __init__(
        self, send: Callable[[Query | CancelRead], bool], observe: Callable[[int, Position], None]
    ) -> None:
        self._send = send
        self._observe = observe
        self._last = 0
        self._table: dict[int, Request] = {}
        """All that have not ended, in the order they were asked."""
        self._queues: tuple[deque[Request], deque[Request]] = (deque(), deque())
        """Those to be sent, in order, without and with a wait; some may have ended meanwhile."""
        self._in_flight = [0, 0]
        """With the engine now, without and with a wait."""

    def __len__(self) -> int:
        return len(self._table)

    def new_number(self) -> int:
        """For the `request` of the next query."""
        self._last += 1
        return self._last

    def ask(self, request: Request, now_s: float) -> None:
        """Send it, or keep it until that is possible."""
        self._table[request.number] = request
        self._queues[request.waits].append(request)
        self._pump(now_s)

    def cancel(self, number: int, now_s: float) -> bool:
        """Nobody wants the answer any more; whether the engine is told, since it waits for it."""
        request = self._table.pop(number, None)
        if request is None:
            return False
        told = request.sent and request.waits
        if told:
            told = self._send(CancelRead(request.query.space, number))
        self._leave(request)
        self._pump(now_s)
        return told

    def answered(self, reply: Reply, now_s: float) -> None:
        """The engine answered; what comes late is dropped."""
        request = self._table.pop(reply.request, None)
        if request is None:
            return
        self._leave(request)
        self._seen(request, reply.position)
        if not request.waiter.done():
            request.waiter.set_result(reply)
        self._pump(now_s)

    def failed(self, message: RequestFailed, now_s: float) -> float:
        """The engine answered by an error: the caller's, or one to try again after.

        Returns:
            When to call `tick` for that; NEVER if it ended.
        """
        request = self._table.get(message.request)
        if request is None:
            return NEVER
        self._leave(request)
        self._seen(request, message.position)
        error = from_wire(message.error)
        retry_at_s = now_s + _delay_s(error, request.attempts)
        if error.retryable and error.definite and retry_at_s < request.deadline_s:
            request.attempts += 1
            request.error = error
            request.retry_at_s = retry_at_s
        else:
            self._end(request, error)
        self._pump(now_s)
        return request.retry_at_s or NEVER

    def up(self, now_s: float) -> None:
        """An engine is there: everything is asked (again)."""
        for queue in self._queues:
            queue.clear()
        for request in self._table.values():
            if not request.retry_at_s:
                self._queues[request.waits].append(request)
        self._pump(now_s)

    def down(self) -> None:
        """The engine is gone, and no answer of its will come."""
        self._in_flight = [0, 0]
        for request in self._table.values():
            request.sent = False

    def tick(self, now_s: float) -> float:
        """Give up what is due, ask again what it is time for; returns when to be called again."""
        soonest_s = NEVER
        for request in list(self._table.values()):
            if request.deadline_s <= now_s or request.waiter.done():
                self._leave(request)
                self._end(request, request.timeout())
                continue
            if request.retry_at_s and request.retry_at_s <= now_s:
                request.retry_at_s = 0.0
                self._queues[request.waits].append(request)
            soonest_s = min(soonest_s, request.retry_at_s or NEVER, request.deadline_s)
        self._pump(now_s)
        return soonest_s

    def fail(self, error: Callable[[], BokilogError]) -> None:
        """The client is closing: nobody will hear what became of changes that were sent."""
        for request in list(self._table.values()):
            sent = request.sent_ever and isinstance(request.query, Propose | SetAux)
            self._end(request, AppendUnknown(_CLOSED) if sent else error())
        for queue in self._queues:
            queue.clear()
        self._in_flight = [0, 0]

    def _pump(self, now_s: float) -> None:
        for queue in self._queues:
            while queue and self._in_flight[queue[0].waits] < IN_FLIGHT_MAX:
                request = queue.popleft()
                if request.sent or request.number not in self._table:
                    continue
                # Before sending: the answer may come from inside `send`.
                request.sent = True
                self._in_flight[request.waits] += 1
                if not self._send(self._query(request, now_s)):
                    self._leave(request)
                    queue.clear()  # `up` fills it again, in order
                    break
                request.sent_ever = True

    def _query(self, request: Request, now_s: float) -> Query:
        """As it is to be asked now: a wait has got shorter since it was asked first."""
        query = request.query
        if request.wait_until_s and isinstance(query, Read):
            left_ms = wait_ms(request.wait_until_s, now_s)
            if left_ms < query.wait_ms:  # it has waited here; most are asked at once
                return query._replace(wait_ms=left_ms)
        return query

    def _seen(self, request: Request, position: Position) -> None:
        request.session.observe(request.query.space, position)
        self._observe(request.query.space, position)

    def _leave(self, request: Request) -> None:
        if request.sent:
            request.sent = False
            self._in_flight[request.waits] -= 1

    def _end(self, request: Request, error: BokilogError) -> None:
        self._table.pop(request.number, None)
        if not request.waiter.done():
            request.waiter.set_exception(error)


def wait_ms(until_s: float, now_s: float) -> int:
    """How long an engine is asked to wait; for longer it is asked again."""
    return (
        min(max(0, ceil((until_s - now_s) * 1_000)), WAIT_MS_MAX)
        if until_s != NEVER
        else WAIT_MS_MAX
    )


def _delay_s(error: BokilogError, attempts: int) -> float:
    if isinstance(error, Overloaded) and error.retry_after_s > 0:
        return min(error.retry_after_s, RETRY_DELAY_S_MAX)
    return min(RETRY_DELAY_S_MIN * 2.0 ** min(attempts, 16), RETRY_DELAY_S_MAX)
