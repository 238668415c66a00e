"""What is known of an app's durable calls: the fold of the tag `calls`.

Decides what a record changes: which calls are open, who holds which lease until when, which attempt
is next, and how far each schedule got. A call that is over is forgotten, so the state is as large
as what is open. Arguments are kept up to some bytes, those of the calls that came first and run
first: who runs another one reads its `Spawned` record again.

Invariants: the same records give the same state on every host, and a snapshot is as good as the
records before it; time is that of the records, never of a host: an `Expired` before the end of its
lease changes nothing but what the call's next step is appended after. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from operator import attrgetter
from typing import Final

from bokilog.codec import listed, natural, naturals, pack, row, text, unexpected, unpack
from bokilog.errors import FormatTooNew
from bokilog.functions.calls.records import (
    Cancelled,
    Claimed,
    DeadLettered,
    Expired,
    Extended,
    Finished,
    ItemYielded,
    Passed,
    Retried,
    Spawned,
    decode,
    schedule_tag,
)
from bokilog.functions.runtime.messages import Flag
from bokilog.limits import MIB
from bokilog.record import Record

SNAPSHOT_VERSION: Final = 1
_STREAM: Final = int(Flag.STREAM)  # an operator of an enum takes a microsecond
KEPT_BYTES_MAX: Final = 8 * MIB
"""Of arguments at hand."""
_KEPT_COST_BYTES: Final = 600  # what a `Spawned` takes beside its payload, about


class Phase(IntEnum):
    """Where an open call is; values are stored."""

    WAITING = 0
    CLAIMED = 1


_ROW: Final = (
    "attempt",
    "call_id",
    "due_ms",
    "flags",
    "function",
    "holder",
    "lease_ms",
    "phase",
    "prefer",
    "retries",
    "retry_delay_ms",
    "schedule",
    "seqnum",
    "spawned_ms",
    "spawned_seqnum",
)
"""Of a call, as a snapshot has it."""


class OpenCall:
    """A call that is not over. A plain class with slots: every record changes one."""

    __slots__ = (*_ROW, "spawned")

    def __init__(self, spawned: Spawned, seqnum: int, timestamp_ms: int) -> None:
        self.call_id = spawned.call_id
        self.function = spawned.function
        self.retries = spawned.retries
        self.retry_delay_ms = spawned.retry_delay_ms
        self.flags = spawned.flags
        self.schedule = spawned.schedule
        self.prefer = spawned.prefer
        self.spawned_seqnum = seqnum
        self.spawned_ms = timestamp_ms
        self.seqnum = seqnum
        """Of its last step: the next one is appended unless there is a newer one."""
        self.phase = Phase.WAITING
        self.attempt = 0
        """Of the next start, or of the one that runs."""
        self.due_ms = timestamp_ms
        """Waiting: nobody claims it before, by the time of the log."""
        self.holder = ""
        """Claimed: by whom; waiting: who held it last."""
        self.lease_ms = 0
        """Claimed: when the lease ends, by the time of the log."""
        self.spawned: Spawned | None = None
        """With its arguments, if those are at hand; else they are read from the log."""

    @property
    def is_stream(self) -> bool:
        """It yields."""
        return bool(self.flags & _STREAM)

    @property
    def is_exhausted(self) -> bool:
        """It was started as often as it may."""
        return self.attempt > self.retries

    def to_row(self) -> tuple[object, ...]:
        """As a snapshot has it."""
        return _row_of(self)  # by one call: thousands of them hold the host up

    @classmethod
    def from_row(cls, values: list[object]) -> OpenCall:
        """What `to_row` gave; checked, since it comes from a record."""
        call = cls.__new__(cls)
        for name, value in zip(_ROW, row(values, len(_ROW)), strict=True):
            (text if name in _TEXTS else natural)(value)
            setattr(call, name, value)
        call.spawned = None
        if call.phase not in _PHASES:
            raise unexpected(call.phase, "a phase")
        call.phase = Phase(call.phase)
        return call


_row_of: Final[Callable[[OpenCall], tuple[object, ...]]] = attrgetter(*_ROW)
_TEXTS: Final = frozenset({"call_id", "function", "holder", "prefer", "schedule"})
_PHASES: Final = frozenset(Phase)


class Due:
    """How far a schedule got."""

    __slots__ = ("last_due_ms", "open", "seqnum")

    def __init__(self, last_due_ms: int, seqnum: int) -> None:
        self.last_due_ms = last_due_ms
        """Due times up to this one are dealt with."""
        self.seqnum = seqnum
        """Of the last record of its tag."""
        self.open: list[str] = []
        """Its calls that are not over."""


class CallsState:
    """The fold. Give every record of the tag `calls` to `apply`, in order."""

    __slots__ = (
        "_kept_bytes",
        "calls",
        "dead_count",
        "ended_count",
        "log_ms",
        "odd_count",
        "schedules",
    )

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.calls: dict[str, OpenCall] = {}
        """Those that are open, oldest first."""
        self.schedules: dict[str, Due] = {}
        """By function; grows with the names of functions that ever had a schedule, no more."""
        self.log_ms = 0
        """The time of the last record."""
        self.ended_count = 0
        self.dead_count = 0
        """Of the ended: those that were given up."""
        self.odd_count = 0
        """Records that say nothing to this fold: not ours, or of a call whose beginning is lost."""
        self._kept_bytes = 0

    def oldest_seqnum(self, default: int) -> int:
        """The first record that an open call still needs, or `default` without any."""
        return min((call.spawned_seqnum for call in self.calls.values()), default=default)

    def apply(self, record: Record) -> str | None:
        """Take in the next record.

        Returns:
            The id of the call that it is a step of, or the tag of the schedule that it is of; None
            when it changes nothing.

        Raises:
            FormatTooNew: a later version wrote it.
        """
        self.log_ms = record.timestamp_ms
        step = decode(record.data)
        if isinstance(step, Spawned):
            return self._spawned(step, record)
        if isinstance(step, Passed):
            self._due(step.schedule, step.due_ms, record.seqnum)
            return schedule_tag(step.schedule)
        if step is None or isinstance(step, ItemYielded):
            self.odd_count += 1
            return None
        call = self.calls.get(step.call_id)
        if call is None:
            self.odd_count += 1
            return None
        call.seqnum = record.seqnum
        self._step(call, step, record.timestamp_ms)
        return step.call_id

    def _step(
        self,
        call: OpenCall,
        step: Claimed | Extended | Expired | Finished | Retried | DeadLettered | Cancelled,
        timestamp_ms: int,
    ) -> None:
        match step:
            case Claimed():
                call.phase, call.holder, call.attempt = Phase.CLAIMED, step.host, step.attempt
                call.lease_ms = timestamp_ms + step.ttl_ms
            case Extended():
                if call.phase == Phase.CLAIMED and call.holder == step.host:
                    call.lease_ms = timestamp_ms + step.ttl_ms
            case Expired():
                if call.phase == Phase.CLAIMED and timestamp_ms >= call.lease_ms:
                    call.phase, call.attempt = Phase.WAITING, call.attempt + 1
                    call.due_ms = timestamp_ms
            case Retried():
                call.phase, call.attempt = Phase.WAITING, step.attempt
                call.due_ms = timestamp_ms + step.delay_ms
            case Finished() | Cancelled():
                self._ended(call)
            case DeadLettered():
                self.dead_count += 1
                self._ended(call)

    def _spawned(self, spawned: Spawned, record: Record) -> str:
        if spawned.schedule:
            self._due(spawned.schedule, spawned.due_ms, record.seqnum)
        known = self.calls.get(spawned.call_id)
        if known is not None:
            # Of a call that is open: its end was lost, or somebody else wrote it. It goes on.
            known.seqnum = record.seqnum
            self.odd_count += 1
            return spawned.call_id
        call = OpenCall(spawned, record.seqnum, record.timestamp_ms)
        self.calls[spawned.call_id] = call
        if self._kept_bytes + (size_bytes := _kept_bytes_of(spawned)) <= KEPT_BYTES_MAX:
            self._kept_bytes += size_bytes
            call.spawned = spawned
        if spawned.schedule:
            self.schedules[spawned.schedule].open.append(spawned.call_id)
        return spawned.call_id

    def _ended(self, call: OpenCall) -> None:
        self.ended_count += 1
        del self.calls[call.call_id]
        if call.spawned is not None:
            self._kept_bytes -= _kept_bytes_of(call.spawned)
        due = self.schedules.get(call.schedule) if call.schedule else None
        if due is not None:
            due.open.remove(call.call_id)

    def _due(self, schedule: str, due_ms: int, seqnum: int) -> None:
        due = self.schedules.get(schedule)
        if due is None:
            due = self.schedules[schedule] = Due(due_ms, seqnum)
        # A dead call of long ago that is driven again does not take the schedule back.
        due.last_due_ms, due.seqnum = max(due.last_due_ms, due_ms), seqnum

    # --- snapshots --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """All of it."""
        calls = [call.to_row() for call in self.calls.values()]
        schedules = [
            [name, due.last_due_ms, due.seqnum, due.open] for name, due in self.schedules.items()
        ]
        counts = [self.log_ms, self.ended_count, self.dead_count, self.odd_count]
        return pack([SNAPSHOT_VERSION, counts, schedules, calls])

    def restore(self, snapshot: bytes | None) -> None:
        """Become what the snapshot says, in place; None: nothing was folded.

        Raises:
            FormatTooNew: a later version wrote it.
            RemoteProtocolError: it is none; this state is empty then.
        """
        self._clear()
        if snapshot is None:
            return
        version, counts, schedules, calls = row(unpack(snapshot), 4)
        if natural(version) > SNAPSHOT_VERSION:
            raise FormatTooNew("a snapshot of calls", version, SNAPSHOT_VERSION)
        opened = [OpenCall.from_row(listed(each)) for each in listed(calls)]
        dues: dict[str, Due] = {}
        for each in listed(schedules):
            name, last_due_ms, seqnum, open_calls = row(each, 4)
            due = dues[text(name)] = Due(natural(last_due_ms), natural(seqnum))
            due.open = [text(call_id) for call_id in listed(open_calls)]
        self.log_ms, self.ended_count, self.dead_count, self.odd_count = row(naturals(counts), 4)
        self.schedules = dues
        self.calls = {call.call_id: call for call in opened}

    def check(self) -> None:
        """Assert what must always hold."""
        for call_id, call in self.calls.items():
            assert call.call_id == call_id
            assert call.spawned_seqnum <= call.seqnum
            assert (call.phase == Phase.CLAIMED) <= (call.lease_ms > 0 and call.holder != "")
        kept = [each.spawned for each in self.calls.values() if each.spawned is not None]
        assert self._kept_bytes == sum(map(_kept_bytes_of, kept)) <= KEPT_BYTES_MAX
        scheduled = [call_id for due in self.schedules.values() for call_id in due.open]
        assert len(set(scheduled)) == len(scheduled)
        assert set(scheduled) <= set(self.calls)


def _kept_bytes_of(spawned: Spawned) -> int:
    return _KEPT_COST_BYTES + len(spawned.payload)
