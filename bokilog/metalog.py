"""The metalog: the sequencer's log of everything that has a place in the order, and its followers.

Entries are tiny: a cut orders any number of records; trims, holds, shard openings and closings,
deletions have their place between cuts. Whoever applies the same entries in the same order knows
the same log.

`MetalogFollower` turns runs of entries, as they arrive (repeated, overlapping, ahead of their turn,
of an ended term), into the one sequence of entries.

Invariants: each position is applied once and in order; entries past the end of a term are dropped
(P13); what is held back is bounded, and never keeps the entries that are next from being applied.

Does not know: seqnums' records, nodes, sockets. The encoded form is version 1, golden-tested.
Differs from Boki: one kind of log for cuts and everything else that needs a place in the order.
"""

from __future__ import annotations

from collections.abc import Callable

from xxhash import xxh3_64_intdigest

from bokilog.codec import listed, natural, optional_text, pack, row, text, unpack
from bokilog.cut import CutSpan, record_count
from bokilog.errors import BokilogError, InvalidRange, InvalidTag, RemoteProtocolError
from bokilog.ids import SYSTEM_BOOK, LogSpaceId, Position, Term
from bokilog.limits import (
    HOLD_NAME_BYTES_MAX,
    HOLD_TTL_S_MAX,
    RETENTION_BYTES_MAX,
    RETENTION_S_MAX,
    SEQNUM_MAX,
    TAG_BYTES_MAX,
)
from bokilog.named import NamedTuple
from bokilog.record import SYSTEM_TAG_PREFIX

ITEM_METALOG = 2
"""A run's kind as an item of a journal."""
RUNS_HELD_MAX = 1024
"""Runs that arrived ahead of their turn. More than that are dropped: the follower asks again from
its position."""


class Proposer(NamedTuple):
    """Whose entry this is: the engine (by incarnation) and its request, so that the fold's answer
    finds its way."""

    engine: int
    request: int


class Cut(NamedTuple):
    """Orders the records of `spans`; the first of them gets `first_seqnum`."""

    timestamp_ms: int
    first_seqnum: int
    spans: tuple[CutSpan, ...]


class OpenShard(NamedTuple):
    """From here on frames of this shard may be ordered; its replicas are fixed (P1)."""

    timestamp_ms: int
    number: int
    engine: str
    replicas: tuple[str, ...]


class CloseShard(NamedTuple):
    """No record of the shard at or past `count` will ever be ordered (P2)."""

    timestamp_ms: int
    number: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class Trim(NamedTuple):
    """Lets records of a LogBook, or of one tag of it, go; how far is decided at its place in the
    order (P25)."""

    timestamp_ms: int
    book: int
    tag: str | None
    until: int
    proposer: Proposer


class Hold(NamedTuple):
    """Keeps trims of a LogBook at or before `seqnum` until it is released or
    `timestamp_ms + ttl_ms` is past."""

    timestamp_ms: int
    book: int
    name: str
    seqnum: int
    ttl_ms: int
    proposer: Proposer


class Release(NamedTuple):
    """Ends a hold."""

    timestamp_ms: int
    book: int
    name: str
    proposer: Proposer


class DeleteBook(NamedTuple):
    """Everything of this incarnation is gone, and units of it that are ordered later are void
    (P5)."""

    timestamp_ms: int
    book: int
    proposer: Proposer


class ForgetKeys(NamedTuple):
    """Keys whose horizon is over at `timestamp_ms` are forgotten from here on (P22)."""

    timestamp_ms: int


class EndTags(NamedTuple):
    """Tags of a library under `prefix` are over; units that write or test one are void from here
    on (P22)."""

    timestamp_ms: int
    book: int
    prefix: str
    proposer: Proposer


class StartOver(NamedTuple):
    """Every replica of a `memory` log space has restarted: nothing before this place is left, folds
    start here, empty (P20)."""

    timestamp_ms: int
    first_seqnum: int


class Lost(NamedTuple):
    """No replica has the records `[start, until)` of this shard, nor their index data: wherever a
    cut orders them, before this place too, they are void (P24)."""

    timestamp_ms: int
    term: int
    """Of the shard."""
    number: int
    start: int
    until: int


class Retain(NamedTuple):
    """From here on the service lets go of what is older, or lies beyond so many bytes (P25); 0 is
    no bound. Said again alike it changes nothing."""

    timestamp_ms: int
    book: int
    retention_ms: int
    retention_bytes: int
    proposer: Proposer


Entry = (
    Cut
    | OpenShard
    | CloseShard
    | Trim
    | Hold
    | Release
    | DeleteBook
    | ForgetKeys
    | EndTags
    | StartOver
    | Lost
    | Retain
)
Proposal = Trim | Hold | Release | DeleteBook | EndTags | Retain
"""Entries that a client asks for, through its engine."""

_KINDS: dict[int, type[Entry]] = {
    0: Cut,
    1: OpenShard,
    2: CloseShard,
    3: Trim,
    4: Hold,
    5: Release,
    6: DeleteBook,
    7: ForgetKeys,
    8: EndTags,
    9: StartOver,
    10: Lost,
    11: Retain,
}
"""An entry's number on the wire and on disk, never used again."""
_KIND_OF = {kind: number for number, kind in _KINDS.items()}


class Run(NamedTuple):
    """Consecutive entries of one metalog and term: they lead to the positions
    `(term, first + 1) .. (term, first + len(entries))`."""

    space: LogSpaceId
    term: Term
    first: int
    entries: tuple[Entry, ...]

    @property
    def until(self) -> int:
        """Count of entries up to the end of the run."""
        return self.first + len(self.entries)

    @property
    def tail(self) -> int | None:
        """First seqnum not ordered at its end; None if it orders nothing."""
        for entry in reversed(self.entries):
            if isinstance(entry, Cut):
                return entry.first_seqnum + record_count(entry.spans)
        return None


# --- bytes ----------------------------------------------------------------------------------------


def entry_to_plain(entry: Entry) -> list[object]:
    """An entry as msgpack takes it: its kind, then its fields."""
    return [_KIND_OF[type(entry)], *entry]


def entry_from_plain(plain: object) -> Entry:
    """The entry of `entry_to_plain`, each field checked by type; numbers are 0..2**63-1.

    Raises:
        RemoteProtocolError: not an entry of this version.
    """
    fields = listed(plain)
    kind = natural(fields[0]) if fields else -1
    if kind not in _KINDS:
        raise RemoteProtocolError(problem=f"a metalog entry of unknown kind {kind}")
    checks = _CHECKS[kind]
    if len(fields) != len(checks) + 1:
        name = _KINDS[kind].__name__
        raise RemoteProtocolError(problem=f"{name} with {len(fields) - 1} fields")
    checked = [check(field) for check, field in zip(checks, fields[1:], strict=True)]
    return _KINDS[kind]._make(checked)


def encode_run(run: Run) -> bytes:
    """A run as it is journalled and sent: an xxh3-64, then msgpack."""
    global _last_encoded
    last, encoded = _last_encoded
    if run is last:
        return encoded
    body = pack((run.space, run.term, run.first, [entry_to_plain(entry) for entry in run.entries]))
    encoded = xxh3_64_intdigest(body).to_bytes(8, "little") + body
    _last_encoded = run, encoded
    return encoded


_last_encoded: tuple[Run | None, bytes] = None, b""
"""A run is journalled, then sent to everybody who follows: one after the other, the same object."""


def decode_run(data: bytes | memoryview) -> Run:
    """The run of `encode_run`.

    Raises:
        RemoteProtocolError: the bytes are not one whole run.
    """
    if not verify_run(data):
        raise RemoteProtocolError(problem="a metalog run whose checksum is wrong")
    space, term, first, plain = row(unpack(data[8:]), 4)
    entries = tuple(map(entry_from_plain, listed(plain)))
    if not entries:
        raise RemoteProtocolError(problem="a metalog run without entries")
    return Run(LogSpaceId(natural(space)), Term(natural(term)), natural(first), entries)


def verify_run(data: bytes | memoryview) -> bool:
    """Whether the checksum of a run matches: what a journal asks before it counts a group (P30)."""
    return len(data) > 8 and xxh3_64_intdigest(data[8:]) == int.from_bytes(data[:8], "little")


def _spans(plain: object) -> tuple[CutSpan, ...]:
    return tuple(map(_span, listed(plain)))


def _span(plain: object) -> CutSpan:
    number, start, until = map(natural, row(plain, 3))
    if start >= until:
        raise RemoteProtocolError(problem=f"a span of a cut from {start} until {until}")
    return CutSpan(number, start, until)


def _texts(plain: object) -> tuple[str, ...]:
    return tuple(map(text, listed(plain)))


def _proposer(plain: object) -> Proposer:
    return Proposer._make(map(natural, row(plain, 2)))


_CHECK_OF: dict[str, Callable[[object], object]] = {
    "int": natural,
    "str": text,
    "str | None": optional_text,
    "tuple[CutSpan, ...]": _spans,
    "tuple[str, ...]": _texts,
    "Proposer": _proposer,
}


def annotation_text(annotation: object) -> str:
    """A field's annotation as it is written: NamedTuple keeps it as a ForwardRef."""
    return str(getattr(annotation, "__forward_arg__", annotation))


_CHECKS = {
    number: [_CHECK_OF[annotation_text(annotation)] for annotation in kind.__annotations__.values()]
    for number, kind in _KINDS.items()
}


# --- what may be proposed -------------------------------------------------------------------------


def proposal_problem(entry: Entry) -> BokilogError | None:
    """Why an entry that a client asks for cannot become part of the metalog; None if it can.

    Asked before it is ordered, since everybody would have to keep and apply it.
    """
    match entry:
        case Cut() | OpenShard() | CloseShard() | ForgetKeys() | StartOver() | Lost():
            return InvalidRange("entry", type(entry).__name__, "is the sequencer's own")
        case Trim(tag=tag, until=until):
            if tag is not None and not _is_short(tag, TAG_BYTES_MAX):
                return InvalidTag(repr(tag), f"is not text of 1 to {TAG_BYTES_MAX} bytes")
            if not _is_natural(until, SEQNUM_MAX + 1):
                return InvalidRange("until", repr(until), "is not a seqnum")
        case Hold(name=name, seqnum=seqnum, ttl_ms=ttl_ms):
            if not _is_short(name, HOLD_NAME_BYTES_MAX):
                return InvalidRange("name", repr(name), "is not the name of a hold")
            if not _is_natural(seqnum, SEQNUM_MAX + 1):
                return InvalidRange("seqnum", repr(seqnum), "is not a seqnum")
            if not _is_natural(ttl_ms, HOLD_TTL_S_MAX * 1000):
                return InvalidRange("ttl_ms", repr(ttl_ms), f"is over {HOLD_TTL_S_MAX} seconds")
        case Release(name=name):
            if not _is_short(name, HOLD_NAME_BYTES_MAX):
                return InvalidRange("name", repr(name), "is not the name of a hold")
        case DeleteBook(book=book):
            if book == SYSTEM_BOOK:
                return InvalidRange("book", str(book), "is the system LogBook, which stays")
        case EndTags(prefix=prefix):
            if not _is_short(prefix, TAG_BYTES_MAX) or prefix[0] != SYSTEM_TAG_PREFIX:
                return InvalidTag(repr(prefix), "is no prefix of the libraries' tags, $...")
        case Retain(retention_ms=retention_ms, retention_bytes=retention_bytes):
            if not _is_natural(retention_ms, RETENTION_S_MAX * 1000):
                problem = f"is over {RETENTION_S_MAX} seconds"
                return InvalidRange("retention_ms", repr(retention_ms), problem)
            if not _is_natural(retention_bytes, RETENTION_BYTES_MAX):
                problem = f"is over {RETENTION_BYTES_MAX}"
                return InvalidRange("retention_bytes", repr(retention_bytes), problem)
    if not _is_natural(entry.book, (1 << 63) - 1):
        return InvalidRange("book", repr(entry.book), "is not a LogBook's number")
    return None


def _is_short(value: object, limit_bytes: int) -> bool:
    return type(value) is str and 0 < len(value.encode(errors="replace")) <= limit_bytes


def _is_natural(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


# --- following ------------------------------------------------------------------------------------


class MetalogFollower:
    """Turns runs as they arrive into the one order of entries."""

    __slots__ = ("_ends", "_held", "dropped_count", "position", "space")

    def __init__(self, space: LogSpaceId, position: Position) -> None:
        self.space = space
        self.position = position
        """Everything before it was returned by `offer`."""
        self._held: dict[tuple[Term, int], Run] = {}
        """Runs ahead of their turn, by term and first count."""
        self._ends: dict[Term, int] = {}
        self.dropped_count = 0
        """Runs that were dropped because too many were held."""

    def offer(self, run: Run) -> list[tuple[Position, Entry]]:
        """The entries that are next now, with the position each one leads to."""
        ready: list[tuple[Position, Entry]] = []
        _, term, first, entries = run
        if (term, first) == self.position and len(entries) == 1 and not self._held:
            if self._ends.get(term, first + 1) > first:  # the usual run, in its turn
                self.position = Position(term, first + 1)
                ready.append((self.position, entries[0]))
            return ready
        if self._continues(run):
            self._take(run, ready)
        elif self._is_ahead(run):
            self._hold(run)
        if self._held:
            self._release(ready)
        return ready

    def end_term(self, term: Term, count: int) -> list[tuple[Position, Entry]]:
        """A stored view fixed where `term` ended: entries past it are dropped, later terms may
        follow (P13). A term before it that had ended later has lost entries since, and ends there
        too: only a class that may lose them gets here (P11).

        Raises:
            RemoteProtocolError: entries past the end were applied; this state must be rebuilt.
        """
        if self.position.term == term and self.position.count > count:
            raise RemoteProtocolError(
                problem=f"applied {self.position}, but term {term} ended at {count}"
            )
        for earlier, end in self._ends.items():
            if earlier < term and end > count:
                self._ends[earlier] = count
        self._ends[term] = count
        ready: list[tuple[Position, Entry]] = []
        self._release(ready)
        return ready

    @property
    def gap(self) -> bool:
        """Whether something is held back: entries before it are missing."""
        return bool(self._held)

    def _end_of(self, run: Run) -> int:
        """The run's end, or that of its term if that comes first."""
        return min(run.until, self._ends.get(run.term, run.until))

    def _continues(self, run: Run) -> bool:
        """Whether the entry at the position is in the run, and counts."""
        term, count = self.position
        if not run.first <= count < self._end_of(run):
            return False
        return run.term == term or (run.term > term and self._ended_before(run.term))

    def _is_ahead(self, run: Run) -> bool:
        """Whether the run holds entries that may become the next ones later."""
        term, count = self.position
        until = self._end_of(run)
        return run.first < until and (run.term > term or (run.term == term and until > count))

    def _hold(self, run: Run) -> None:
        name = (run.term, run.first)
        known = self._held.get(name)
        if known is None and len(self._held) >= RUNS_HELD_MAX:
            self.dropped_count += 1
        elif known is None or len(run.entries) > len(known.entries):
            self._held[name] = run

    def _release(self, ready: list[tuple[Position, Entry]]) -> None:
        """Takes what is next now; one pass, since taking a run only helps those behind it."""
        for name in sorted(self._held):
            run = self._held[name]
            if self._continues(run):
                self._take(run, ready)
            if not self._is_ahead(run):
                del self._held[name]

    def _ended_before(self, term: Term) -> bool:
        """Whether every term from the position's to before `term` is known to have ended here."""
        return all(
            self._ends.get(Term(between)) == self.position.count
            for between in range(self.position.term, term)
        )

    def _take(self, run: Run, ready: list[tuple[Position, Entry]]) -> None:
        _, term, first, entries = run
        for count in range(self.position.count, self._end_of(run)):
            self.position = Position(term, count + 1)
            ready.append((self.position, entries[count - first]))
