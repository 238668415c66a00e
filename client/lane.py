"""The way of one log space's units to the engine and back: frames in order, sent again in order.

Decides which frame leaves next, under which number, and what a refusal or a lost connection does to
that order. A unit waits in the *open* batch; the end of the tick seals it into the *backlog*; there
it waits for room and for a connection; it counts as *sent* until the engine says what became of its
frame; if the engine did not take it, it is *refused* until all that followed it are too.

Invariants:
- Units of a log space leave in the order they were issued, also those that leave again: the backlog
  is in that order, whoever comes back into it first. A refused frame comes back with all later
  ones, and they leave again before anything newer (P4).
- A batch is in one of those four places, and is forgotten once all its callers are told.
- Nothing is sent again unless the engine certainly did not take it, or `outcomes` says so (P23).

Does not know: clocks (times come in), sockets, names of LogBooks, other log spaces and their room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from bokilog.client import outcomes
from bokilog.client.batching import Batch, sent_again
from bokilog.client.books import Route
from bokilog.client.session import Session
from bokilog.client.units import NEVER, Unit, Waiter
from bokilog.columns import Tags
from bokilog.errors import BokilogError, Overloaded, UnavailableError, from_wire
from bokilog.messages import AppendFrame, FrameLost, FrameOrdered, FrameRefused, FrameVerdicts

RETRY_DELAY_S_MIN: Final = 0.01
RETRY_DELAY_S_MAX: Final = 1.0


class Lane:
    """The way of one log space's units to the engine and back."""

    __slots__ = (
        "_retries",
        "_sealed_count",
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
        self._sealed_count = 0
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
        self._close()
        for batch in reversed(self.backlog):
            if batch.deadline_s != NEVER:
                break
            batch.deadline_s = deadline_s

    def _close(self) -> None:
        """What is open gets its place in the backlog."""
        if self.open is None:
            return
        for batch in self.open.parts():
            self._sealed_count += 1
            batch.order = self._sealed_count
            self.backlog.append(batch)
        self.open = None

    # --- out --------------------------------------------------------------------------------------

    def head(self) -> Batch | None:
        """The batch to be sent next, if its time has come."""
        if self.refused or not self.backlog:
            return None
        batch = self.backlog[0]
        while len(self.backlog) > 1 and batch.joinable(self.backlog[1]):
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
        outcomes.settle(batch)
        return self._finished(message.number, batch)

    def verdicts(self, message: FrameVerdicts) -> tuple[Batch | None, list[tuple[Route, Unit]]]:
        """What became of units; the batch once it is done, and units whose LogBook is gone."""
        batch = self.sent.get(message.number)
        if batch is None:
            return None, []
        batch.observe(self.space, message.position)
        homeless = outcomes.judge(batch, message.outcomes)
        return self._finished(message.number, batch), homeless

    def _finished(self, number: int, batch: Batch) -> Batch | None:
        if not batch.first_seqnum or batch.awaited:
            return None
        del self.sent[number]
        return batch

    def refuse(self, message: FrameRefused, now_s: float) -> Batch | None:
        """The engine did not take a frame, nor will it take a later one until this returns (P4).

        Number 0 is of no frame: it says why the engine would take none, and why those that it has
        may wait for long.
        """
        error = from_wire(message.error)
        if not message.number and self.sent:
            self.refusal = error
        batch = self.sent.pop(message.number, None)
        if batch is None:
            return None
        if not self.refused:
            self.refused_from = message.number
            self.resume_at_s = now_s
        self.refused.append(batch)
        if isinstance(error, UnavailableError):
            self.refusal = error
            self.resume_at_s = max(self.resume_at_s, now_s + self._delay_s(error))
        else:
            outcomes.refuse(batch, error)  # it is wrong in itself; the later ones are not
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
        refused, self.refused = self.refused, []
        self._return([batch for batch in refused if batch.waiting()])

    def _return(self, batches: list[Batch]) -> None:
        """Let batches that left before wait where they were issued: others may be back already."""
        if not batches:
            return
        last = max(map(_order, batches))
        while self.backlog and self.backlog[0].order < last:
            batches.append(self.backlog.popleft())
        batches.sort(key=_order)
        self.backlog.extendleft(reversed(batches))

    def lose(self, message: FrameLost) -> Batch | None:
        """Nobody can know any more whether the frame was ordered."""
        batch = self.sent.pop(message.number, None)
        if batch is not None:
            self._return(_lost([batch], message.reason))
        return batch

    def down(self, reason: str, unsent: Iterable[int] = ()) -> None:
        """The connection is gone: what was sent is unknown, all else waits for the next one.

        Args:
            reason: why.
            unsent: frames that never left after all, ascending.
        """
        never_left = [self.sent.pop(number) for number in unsent if number in self.sent]
        lost, self.sent = list(self.sent.values()), {}
        self._return([batch for batch in never_left if batch.waiting()])
        if self.refused:  # some were lost among them
            for batch in lost:
                self._return(_lost([batch], reason))
            self._return_refused()
        else:
            self._return(_lost(lost, reason))
        self.resume_at_s = 0.0

    # --- time -------------------------------------------------------------------------------------

    def expire(self, now_s: float, error: Callable[[], UnavailableError]) -> float:
        """Tell the callers whose time is over; returns when to do so again."""
        waiting = [outcomes.expire_unsent(batch, now_s, error) for batch in self.backlog]
        self.backlog = deque(batch for batch in waiting if batch is not None)
        # A refused one keeps its place, even if nobody waits for it: `resume` leaves it out.
        self.refused = [
            outcomes.expire_unsent(batch, now_s, error) or batch for batch in self.refused
        ]
        for batch in self.sent.values():
            outcomes.expire_sent(batch, now_s, self.refusal)
        everything = (*self.backlog, *self.refused, *self.sent.values())
        soonest_s = min((batch.next_deadline_s(now_s) for batch in everything), default=NEVER)
        if self.refused and self.resume_at_s > now_s:
            soonest_s = min(soonest_s, self.resume_at_s)
        return soonest_s

    def fail(self, error: Callable[[], BokilogError]) -> None:
        """The client is closing: what was sent is unknown, all else certainly did not happen."""
        for batch in self.sent.values():
            outcomes.close_sent(batch)
        for batch in (*self.refused, *self.backlog, *self._opened()):
            outcomes.close_unsent(batch, error)
        self.sent, self.refused, self.open = {}, [], None
        self.backlog.clear()

    def unanswered_to(self, number: int) -> bool:
        """Whether a frame up to `number` is still under way, or is to leave again for a LogBook
        that is gone."""
        if self.refused or (self.sent and next(iter(self.sent)) <= number):
            return True
        return any(batch.for_the_gone() for batch in self.backlog)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self.open or self.backlog or self.sent or self.refused)

    def unsent_of(self, route: Route) -> list[Unit]:
        """Take the unsent units of a LogBook out: it is gone, and another takes its place."""
        found: list[Unit] = []
        self._close()
        batches, self.backlog = self.backlog, deque()
        for batch in batches:
            taken = [i for i in batch.waiting() if batch.route_of(i) is route]
            found += [batch.unit(index) for index in taken]
            kept = batch.without(set(taken)) if taken else batch
            if kept is not None:
                self.backlog.append(kept)
        return found

    def _opened(self) -> list[Batch]:
        return [self.open] if self.open is not None else []


def _order(batch: Batch) -> int:
    return batch.order


def _lost(batches: Iterable[Batch], reason: str) -> list[Batch]:
    """What there is to send again of frames that were lost."""
    return sent_again((batch, outcomes.lose(batch, reason)) for batch in batches)
