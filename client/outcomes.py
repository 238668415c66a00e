"""What the callers of appends are told, and which units are sent again instead.

Decides the outcome of every unit of a batch, for each way in which that can become known: the order
and its verdicts, a frame that is wrong in itself, a deadline, a lost frame or connection, the end
of the client.

Invariants:
- A caller whose unit was never sent gets a definite error. So does one whose unit has a verdict; in
  every other case it is `AppendUnknown`, also where only an earlier attempt was sent.
- A keyless unit of unknown outcome is never sent again; a unit with a key is, under the same key
  (P23).
- Every caller gets an error of its own: a traceback belongs to one.
- Those who do not wait any more are passed over.

Does not know: when a frame is sent or sent again, in which order, over what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bokilog.client.batching import Batch
from bokilog.client.books import Route
from bokilog.client.units import SETTLED, Unit
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    ConditionFailed,
    KeyReused,
    ReadOnly,
    TagsEnded,
    UnavailableError,
    UnitMalformed,
)
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)

_LATE = "it was sent, but not answered in time"
_CLOSED = "the connection was closed"

# --- ordered --------------------------------------------------------------------------------------


def settle(batch: Batch) -> None:
    """All units without a verdict to come are visible where the order put them."""
    seqnum = batch.first_seqnum
    if batch.unit_records is None and not batch.awaited:
        for waiter in batch.waiters:
            if not waiter.done():
                waiter.set_result(seqnum)
            seqnum += 1
        return
    counts = batch.unit_records or [1] * len(batch.waiters)
    for index, (waiter, count) in enumerate(zip(batch.waiters, counts, strict=True)):
        if index not in batch.awaited and not waiter.done():
            waiter.set_result(seqnum)
        seqnum += count


def judge(batch: Batch, verdicts: Iterable[Sequence[object]]) -> list[tuple[Route, Unit]]:
    """Units have their verdicts; returns those whose LogBook is gone, out of the batch."""
    homeless: list[tuple[Route, Unit]] = []
    for index, verdict, first, second in verdicts:
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
    return homeless


def _verdict_error(verdict: object, first: object, second: object) -> BokilogError:
    if verdict == VERDICT_CONDITION_FAILED and type(second) is int:
        return ConditionFailed(first if isinstance(first, str) else None, second)
    if verdict == VERDICT_KEY_REUSED and type(first) is int:
        return KeyReused(str(second), first)
    if verdict == VERDICT_TAGS_ENDED:
        return TagsEnded(str(first))
    return UnitMalformed("its frame does not decode on the storage nodes, of another version maybe")


# --- never to be ordered, or nobody knows ---------------------------------------------------------


def refuse(batch: Batch, error: BokilogError) -> None:
    """The frame is wrong in itself: no engine will ever take it."""
    for index in batch.waiting():
        batch.waiters[index].set_exception(type(error)(*error.args))


def lose(batch: Batch, reason: str) -> list[int]:
    """Nobody can know any more whether a sent frame is ordered; returns the units to send again:
    those with keys (P23)."""
    again: list[int] = []
    for index in batch.waiting():
        if index in batch.keys:
            again.append(index)
        else:
            batch.waiters[index].set_exception(AppendUnknown(reason))
    return again


def expire_sent(batch: Batch, now_s: float, why: BokilogError | None = None) -> None:
    """Units whose time is over while the engine has their frame; it may still answer the others.

    Args:
        batch: their frame.
        now_s: what time it is.
        why: the engine takes no more frames, and most likely has not got through with this one
            for that.
    """
    reason = f"{_LATE}, probably because the log is {why}" if isinstance(why, ReadOnly) else _LATE
    for index in batch.due(now_s):
        batch.waiters[index].set_exception(AppendUnknown(reason))


def expire_unsent(
    batch: Batch, now_s: float, error: Callable[[], UnavailableError]
) -> Batch | None:
    """Units whose time is over while they wait; returns what is left to be sent, None: nothing."""
    due = batch.due(now_s)
    if not due:
        return batch
    for index in due:
        batch.waiters[index].set_exception(
            AppendUnknown(_LATE) if index in batch.resent else error()
        )
    return batch.without(set(due))


def expire_held(unit: Unit, error: UnavailableError) -> None:
    """The time is over of a unit that is in no batch, since its LogBook was not found."""
    if unit.waiter.done():
        return
    unit.waiter.set_exception(AppendUnknown("it was not answered") if unit.sent_before else error)


def close_sent(batch: Batch) -> None:
    """The client is closing, and nobody will hear the engine's answer."""
    for index in batch.waiting():
        batch.waiters[index].set_exception(AppendUnknown(_CLOSED))


def close_unsent(batch: Batch, error: Callable[[], BokilogError]) -> None:
    """The client is closing, and this certainly did not happen, but for earlier attempts."""
    for index in batch.waiting():
        batch.waiters[index].set_exception(
            AppendUnknown(_CLOSED) if index in batch.resent else error()
        )
