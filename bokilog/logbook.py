"""The contract of a LogBook and of the log it lives in: what every shape promises.

Decides names, arguments, results, errors and cancellation of the public calls; the embedded shape,
the client of a cluster and the reference adapter of the tests all satisfy these Protocols, and
`tests/contract` holds each of them to it. `bokilog/reference.py` is the same contract as code.

For every call:

- `timeout_s` bounds the call; None means the connection's default. A call that only reads and takes
  longer raises `ReadTimeout` (a `TimeoutError`); an append not yet sent raises `Overloaded`, one
  that was sent raises `AppendUnknown`.
- `UsageError`s are raised before anything is sent. `Closed` after `aclose`, `WrongLoop` from a
  second event loop or after a fork, any `UnavailableError` when the retries of `timeout_s` ran out:
  all definite. At `aclose`, calls under way end with `Closed`, changes that were sent with
  `AppendUnknown`. `HistoryChanged` when the session's token is from before a restore.
- Reads of a LogBook that does not exist behave as on an empty one. `trim`, `hold`, `release`,
  `set_aux` and `info` raise `UnknownLogBook`.
- Seqnums are ints in 1..2^53-1, growing, with gaps. Ranges are half-open. `tag=None` means every
  record of the LogBook. A position of 0 means the first kept record; an explicit one behind a trim
  raises `Trimmed`.
- Cancelling a read is harmless. If an append, a trim or a hold is cancelled, it may still happen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, overload

from bokilog.limits import PAGE_BYTES_DEFAULT, PAGE_RECORDS_DEFAULT
from bokilog.record import (
    BookInfo,
    Buffer,
    CaughtUp,
    Consistency,
    Durability,
    Entry,
    Page,
    Record,
    Tags,
    Trim,
    Unless,
)


class Session(Protocol):
    """What a caller has seen: a position per log space, which only grows.

    Every read through it reflects at least that much, and every append and read moves it on. One
    session may be used by many calls at once.
    """

    @property
    def token(self) -> str:
        """What was seen so far, as text for a header, a message or a child's arguments."""
        ...

    def merge(self, token: str) -> None:
        """Take over what the holder of `token` has seen. Raises `InvalidToken`."""
        ...


class LogBook(Protocol):
    """One totally ordered log of records, seen through one session.

    Of bytes; what `ClientLog.book` returns is a `bokilog.ClientLogBook[T]`, of values of `T`.
    """

    @property
    def name(self) -> str:
        """The name given to `Log.book`."""
        ...

    async def append(
        self,
        data: Buffer,
        tags: Tags = (),
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append one record and return its seqnum, once it is durable in the LogBook's class.

        Appends take their place in the order in which they were issued, also when they are not
        awaited one by one. The LogBook is created by its first append, with defaults.

        Args:
            data: at most 64 MiB; a mutable buffer is copied now.
            tags: up to 64, each 1 to 256 bytes of UTF-8; a str is one tag; doubles count once.
            unless: tag -> after. The record becomes visible only if, just before its place in the
                order, no visible record of any of the tags (None: of the whole LogBook) has a
                seqnum greater than its `after`. Trimmed records count.
            key: makes the append idempotent for the LogBook's key horizon. A known key returns the
                first seqnum, whatever the conditions say and even if the record was trimmed since.
            timeout_s: bounds also the wait for room.

        Raises:
            ConditionFailed: definite and final; names the first condition that failed, in the
                order of `unless`, and the last visible seqnum of its tag. The key is not used up.
            KeyReused: definite; the key is known with other bytes or tags.
            TagsEnded: definite; a library has ended a prefix that the unit writes or tests.
            UnitMalformed: definite; storage nodes of another version cannot make anything of it.
            Overloaded: definite, retryable; there was no room within `timeout_s`.
            AppendUnknown: indefinite; retry only with the same `key`.

        If cancelled, the append may still be ordered.
        """
        ...

    async def append_batch(
        self,
        entries: Iterable[Entry[Buffer]],
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> range:
        """Append one unit: contiguous seqnums, all visible or none. Returns them as a `range`.

        Args:
            entries: 1 to 1,000, at most 64 MiB of data together.
            unless: as in `append`, decided once, against the state before the first record.
            key: as in `append`, for the unit as a whole.
            timeout_s: bounds also the wait for room.

        Raises as `append`; `InvalidUnit` and `UnitTooLarge` for the unit itself.
        """
        ...

    async def read_next(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        """The first visible record of `tag` at or after `min_seqnum`, or None.

        Args:
            tag: None for every record.
            min_seqnum: 0 for the first kept record.
            wait_s: how long to wait for one to be appended; the budget survives reconnects, and
                `timeout_s` counts on top.
            timeout_s: see the module.
            consistency: "session" reflects what this session has seen; "linearizable" also every
                append acknowledged to anybody before this call.

        Raises:
            Trimmed: `min_seqnum` is explicit and lies behind a trim of the LogBook or of `tag`.
            DataLost, CorruptRecord: the record found has no good bytes anywhere; go on at its
                seqnum + 1.
            ReadTimeout: retryable.
        """
        ...

    async def read_prev(
        self,
        *,
        tag: str | None = None,
        max_seqnum: int | None = None,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        """The last visible record of `tag` at or before `max_seqnum` (None: the newest), or None.

        Raises as `read_next`; `Trimmed` when `max_seqnum` lies behind a trim.
        """
        ...

    async def read(
        self,
        seqnum: int,
        *,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        """The record at `seqnum` (from 1); None when no visible record of this LogBook is there.

        Past the known tail it waits up to `wait_s` for that position to be ordered.

        Raises as `read_next`; `Trimmed` when `seqnum` lies behind a trim of the LogBook.
        """
        ...

    async def read_bytes(
        self,
        seqnum: int,
        start: int = 0,
        until: int | None = None,
        *,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> bytes | None:
        """The bytes `[start, until)` of one record, cut off at its end; None as in `read`.

        Costs what the range costs, not what the record does. Raises as `read`.
        """
        ...

    async def read_range(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        limit: int = PAGE_RECORDS_DEFAULT,
        max_bytes: int = PAGE_BYTES_DEFAULT,
        reverse: bool = False,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Page:
        """Some of the visible records of `tag` in `[min_seqnum, until)`, from one of its ends.

        Args:
            tag: None for every record.
            min_seqnum: 0 for the first kept record.
            until: exclusive; None for the known tail.
            limit: 1 to 10,000 records.
            max_bytes: of data; one record is returned however large it is.
            reverse: newest first.
            wait_s: how long to wait for a first record.
            timeout_s: see the module.
            consistency: as in `read_next`.

        Returns:
            A `Page`. It may be shorter than asked for, even empty, while `more` is True; then
            `next_seqnum` has moved all the same.

        Raises as `read_next`; `Trimmed` when an explicit position lies behind a trim.
        """
        ...

    def scan(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        reverse: bool = False,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> AsyncGenerator[Record, None]:
        """Every visible record of `tag` in `[min_seqnum, until)`, then the end.

        Bounded: it ends at the tail known when it started, however much is appended meanwhile.
        Each yielded record moves the session on; `timeout_s` bounds each step.

        Raises as `read_range`; `Trimmed` when a trim overtakes it. After `DataLost` start another
        one at seqnum + 1.
        """
        ...

    @overload
    def follow(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        caught_up: Literal[False] = False,
    ) -> AsyncGenerator[Record, None]: ...
    @overload
    def follow(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        caught_up: Literal[True],
    ) -> AsyncGenerator[Record | CaughtUp, None]: ...
    def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: bool = False
    ) -> AsyncGenerator[Record, None] | AsyncGenerator[Record | CaughtUp, None]:
        """Every visible record of `tag` from `min_seqnum` on, for ever, in order and without gaps.

        With `caught_up`, also a `CaughtUp(seqnum)` each time everything below a known tail has been
        yielded and there is nothing more to yield. Survives reconnects and changes of view. Ends by
        `aclose()`, cancellation, or an error: raises as `scan`.
        """
        ...

    async def tail(self, *, timeout_s: float | None = None) -> int:
        """The first seqnum not yet ordered: greater than that of every acknowledged record.

        Linearizable. A LogBook shares seqnums with others, so its tail may grow by their appends.
        """
        ...

    async def trim(
        self, until: int, tag: str | None = None, *, timeout_s: float | None = None
    ) -> Trim:
        """Let go of what lies below `until`, for the whole LogBook or for one tag.

        A record goes once a trim of the LogBook covers it, or once it has tags and every one of
        them is trimmed past it; from then on no reader gets it. A tag's readers see nothing below
        the tag's own trim. `until` is clamped to the tail; stopping at a hold is no error.

        Returns:
            `Trim(until, held_by)`: the first kept seqnum now, and the hold that kept the trim back.
        """
        ...

    async def hold(
        self, name: str, seqnum: int, ttl_s: float, *, timeout_s: float | None = None
    ) -> None:
        """Keep trims from passing `seqnum` for `ttl_s` seconds of the log's own time.

        The same name again moves and renews the hold.

        Raises `Trimmed` (definite) when `seqnum` lies behind the LogBook's trim already.
        """
        ...

    async def release(self, name: str, *, timeout_s: float | None = None) -> None:
        """End a hold; one that does not exist is no error."""
        ...

    async def set_aux(self, seqnum: int, aux: Buffer, *, timeout_s: float | None = None) -> None:
        """Keep up to 64 KiB of derived bytes beside a record, best effort; the last one set stays.

        Without a visible record at `seqnum` nothing is kept.
        """
        ...

    async def seqnum_at(self, timestamp_ms: int, *, timeout_s: float | None = None) -> int:
        """The first kept record ordered at or after that time; the tail when there is none."""
        ...

    async def info(self, *, timeout_s: float | None = None) -> BookInfo:
        """What is known of the LogBook now. Raises `UnknownLogBook`."""
        ...


class Log(Protocol):
    """A connection to a log, or an embedded one; an async context manager that closes it.

    What `open()` and `connect()` return is a `bokilog.ClientLog`, whose `book` also takes a type.
    """

    def book(self, name: str, *, session: Session | None = None) -> LogBook:
        """The LogBook of that name, whether it exists or not; costs nothing.

        Args:
            name: 1 to 128 bytes of UTF-8, not starting with `$`.
            session: None for the connection's own, shared by all that name none.
        """
        ...

    def session(self, token: str | None = None) -> Session:
        """A new session that has seen what `token` says; None: what was ordered at connect.

        Raises `InvalidToken`.
        """
        ...

    async def create_book(
        self,
        name: str,
        *,
        durability: Durability = "sync",
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> BookInfo:
        """Create a LogBook with properties of its own; creating it again alike changes nothing.

        Args:
            name: as in `book`.
            durability: "sync" (synced on the write quorum before the ack), "flush" (written to the
                OS there) or "memory" (in RAM there).
            retention_s: let go of records older than this, by the time of the log; None: keep
                them. Holds keep back what this lets go, as they do with trims.
            retention_bytes: let go of the oldest beyond this many bytes of data; the newest records
                that have them together stay. None: keep them.
            timeout_s: see the module.

        Raises:
            LogBookConflict: it exists with another property.
            InvalidRange: a retention outside its limits.
        """
        ...

    async def delete_book(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a LogBook with all it holds; its name may be used again, by a new incarnation.

        Raises `UnknownLogBook`.
        """
        ...

    async def books(self, *, timeout_s: float | None = None) -> Sequence[BookInfo]:
        """All LogBooks, by name."""
        ...

    async def aclose(self) -> None:
        """Send what is on its way, then close; any later call but this one raises `Closed`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
