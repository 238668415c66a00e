"""Durable calls as records of the LogBook `functions/APP`: their bytes and their tags.

Decides what each step of a call is on the log: msgpack `[version, kind, field, ...]`. All but items
carry the tags `calls` (hosts follow it) and `call:ID` (each step is appended under the condition
that nothing newer has it); the last step also `end:ID`, which waiters wait for.

Invariants: kinds are numbers that are never reused; fields are only ever added at the end, with a
new version; whatever bytes a record of these tags has, decoding gives a record, None (it is none of
ours) or `FormatTooNew`. Does not know what a step means (`state.py`) nor when it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias, TypeVar, cast

from xxhash import xxh3_64_hexdigest

from bokilog.codec import listed, natural, pack, unexpected, unpack
from bokilog.errors import FormatTooNew, RemoteProtocolError
from bokilog.metalog import annotation_text

RECORDS_VERSION: Final = 1
CALLS: Final = "calls"
DEAD: Final = "dead"
SNAPSHOT: Final = "calls-snapshot"
INLINE_BYTES_MAX: Final = 256 << 10
"""Larger payloads are records of their own, so that who follows the calls need not read them."""

WireError: TypeAlias = list[object]
"""`errors.to_wire`; empty: no error."""


class Kind(IntEnum):
    """What a record says; values are never reused."""

    SPAWNED = 1
    CLAIMED = 2
    EXTENDED = 3
    EXPIRED = 4
    FINISHED = 5
    RETRIED = 6
    DEAD_LETTERED = 7
    CANCELLED = 8
    ITEM = 9
    PASSED = 10


class Spawned(NamedTuple):
    """The call is accepted. Once more for the same id: a dead call is driven again."""

    call_id: str
    function: str
    encoding: int
    payload: bytes
    timeout_ms: int
    """Of each attempt; 0: as the function's own `timeout_s` says."""
    retries: int
    retry_delay_ms: int
    flags: int
    """`Flag`s of `Start`."""
    depth: int
    key: str
    """The idempotency key; empty: none."""
    schedule: str
    """Whose schedule wanted it; empty: somebody spawned it."""
    due_ms: int
    prefer: str
    """The host that has its arguments at hand; empty: none in particular."""
    token: str
    trace: str


class Claimed(NamedTuple):
    """A host runs it now. `host` is its name, a slash, and what tells its starts apart."""

    call_id: str
    host: str
    attempt: int
    ttl_ms: int
    """By the time of the log: the lease ends that long after this record's timestamp."""


class Extended(NamedTuple):
    """It still runs there: the lease ends `ttl_ms` after this record's timestamp."""

    call_id: str
    host: str
    attempt: int
    ttl_ms: int


class Expired(NamedTuple):
    """Its lease is over; it counts iff this record's timestamp says so too."""

    call_id: str
    host: str
    """Whose lease."""
    attempt: int
    by: str


class Finished(NamedTuple):
    """It is over: a result, or an error that no retry would help (`error` is not empty)."""

    call_id: str
    host: str
    attempt: int
    encoding: int
    token: str
    error: WireError
    ran_ms: int
    payload: bytes


class Retried(NamedTuple):
    """The host gave it up; from `delay_ms` after this record's timestamp anybody may claim it."""

    call_id: str
    host: str
    attempt: int
    """The next one. The same as before: that one was never started, or was cut short by us."""
    delay_ms: int
    error: WireError


class DeadLettered(NamedTuple):
    """It failed as often as it may; kept to be looked at, and perhaps driven again."""

    call_id: str
    host: str
    attempts: int
    reason: str
    encoding: int
    """Of the payload: the exception itself, as `Done` has it."""
    token: str
    error: WireError
    payload: bytes


class Cancelled(NamedTuple):
    """Nobody wants it any more."""

    call_id: str
    reason: str


class ItemYielded(NamedTuple):
    """One value of a stream, under the tag `items:ID` only."""

    call_id: str
    attempt: int
    place: int
    """In the stream of this attempt, from 0."""
    encoding: int
    payload: bytes


class Passed(NamedTuple):
    """A schedule's due times up to `due_ms` are dealt with, without a call."""

    schedule: str
    due_ms: int
    reason: str


Step: TypeAlias = (
    Spawned | Claimed | Extended | Expired | Finished | Retried | DeadLettered | Cancelled
)
End: TypeAlias = Finished | DeadLettered | Cancelled
CallRecord: TypeAlias = Step | ItemYielded | Passed

KINDS: Final[dict[type[CallRecord], Kind]] = {
    Spawned: Kind.SPAWNED,
    Claimed: Kind.CLAIMED,
    Extended: Kind.EXTENDED,
    Expired: Kind.EXPIRED,
    Finished: Kind.FINISHED,
    Retried: Kind.RETRIED,
    DeadLettered: Kind.DEAD_LETTERED,
    Cancelled: Kind.CANCELLED,
    ItemYielded: Kind.ITEM,
    Passed: Kind.PASSED,
}


# --- bytes ----------------------------------------------------------------------------------------


def encode(record: CallRecord) -> bytes:
    """The bytes of a record."""
    return pack((RECORDS_VERSION, KINDS[type(record)], *record))


def decode(data: bytes) -> CallRecord | None:
    """The record of these bytes; None: they are none that a call could have.

    Raises:
        FormatTooNew: a later version wrote it; who went on would misunderstand the call.
    """
    try:
        fields = listed(unpack(data))
        if len(fields) < 2:
            return None
        version, kind, *values = fields
        if natural(version) > RECORDS_VERSION:
            raise FormatTooNew("a record of a call", version, RECORDS_VERSION)
        decoder = _DECODERS.get(natural(kind))
        return None if decoder is None else decoder(values)
    except RemoteProtocolError:
        return None


R = TypeVar("R", bound=CallRecord)


def decode_as(kind: type[R], data: bytes) -> R | None:
    """The record, if it is of that kind."""
    found = decode(data)
    return found if isinstance(found, kind) else None


def _decoder_of(record: type[CallRecord]) -> Callable[[list[object]], CallRecord]:
    """Checks types all at once, then numbers: 1 us for a `Spawned`, 6 with a check per field."""
    texts = [annotation_text(each) for each in record.__annotations__.values()]
    types = [_TYPE_OF[each] for each in texts]
    places = [place for place, each in enumerate(texts) if each == "int"]
    make = record._make

    def decode_one(values: list[object]) -> CallRecord:
        if list(map(type, values)) != types:
            raise unexpected(values, f"the fields of {record.__name__}")
        numbers = cast("list[int]", [values[place] for place in places])
        if numbers and not 0 <= min(numbers) <= max(numbers) < _NUMBERS_END:
            raise unexpected(values, f"the fields of {record.__name__}")
        return make(values)

    return decode_one


_NUMBERS_END: Final = 1 << 63
_TYPE_OF: Final[dict[str, type]] = {"int": int, "str": str, "bytes": bytes, "WireError": list}
_DECODERS: Final = {int(kind): _decoder_of(record) for record, kind in KINDS.items()}


# --- names ----------------------------------------------------------------------------------------


def call_tag(call_id: str) -> str:
    """All steps of a call."""
    return f"call:{call_id}"


def end_tag(call_id: str) -> str:
    """Its last step."""
    return f"end:{call_id}"


def items_tag(call_id: str) -> str:
    """What a stream yielded, and its last step."""
    return f"items:{call_id}"


def data_tag(call_id: str) -> str:
    """Its large payloads."""
    return f"data:{call_id}"


def schedule_tag(function: str) -> str:
    """What came of a function's due times."""
    return f"schedule:{function}"


def keyed_call_id(function: str, key: str) -> str:
    """The id of the call that an idempotency key stands for: the same one for everybody.

    Functions have keys of their own. Two keys of one id are as likely as two random ids alike.
    """
    return xxh3_64_hexdigest(f"{function}\0{key}".encode())


def scheduled_call_id(function: str, due_ms: int) -> str:
    """The id of the call of a due time."""
    return keyed_call_id(function, f"schedule:{function}:{due_ms}")


def tags_of(record: CallRecord, *, stream: bool = False) -> tuple[str, ...]:
    """The tags of a record; `stream`: of a call that yields."""
    if isinstance(record, ItemYielded):
        return (items_tag(record.call_id),)
    if isinstance(record, Passed):
        return CALLS, schedule_tag(record.schedule)
    tags: tuple[str, ...] = (CALLS, call_tag(record.call_id))
    if isinstance(record, Spawned):
        return (*tags, schedule_tag(record.schedule)) if record.schedule else tags
    if not isinstance(record, (Finished, DeadLettered, Cancelled)):
        return tags
    tags = (*tags, end_tag(record.call_id))
    if isinstance(record, DeadLettered):
        tags = (*tags, DEAD)
    return (*tags, items_tag(record.call_id)) if stream else tags


# --- payloads that are records of their own -------------------------------------------------------


def is_large(payload: bytes | bytearray | memoryview) -> bool:
    """Whether a payload is to be a record of its own."""
    return len(payload) > INLINE_BYTES_MAX


def encode_reference(book: str, seqnum: int, *, encoding: int, host: str) -> bytes:
    """What stands for a payload that is the data of a record: `Encoding.REFERENCE`.

    Args:
        book: the LogBook.
        seqnum: of the record.
        encoding: of its data.
        host: that has it in its cache; empty: none in particular.
    """
    return pack([book, seqnum, encoding, host])
