"""What users append and read, and the checks every shape makes before it sends anything.

Decides what a valid tag, name, unit, condition, key and range is. Every check returns the value in
the one form the rest of the code uses (tags: a tuple without doubles; data: `bytes`; conditions: a
tuple of pairs) and raises the `UsageError` that names the value and the limit.

Invariant: what a check returned is never checked again, and never changes behind the caller's back
(mutable buffers are copied). Knows nothing of how or where records are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import (
    TYPE_CHECKING,
    Final,
    Generic,
    Literal,
    NamedTuple as TypingNamedTuple,  # for what is generic
    TypeAlias,
    TypeVar,
    get_args,
)

from bokilog.errors import (
    DecodeError,
    InvalidCondition,
    InvalidData,
    InvalidKey,
    InvalidName,
    InvalidRange,
    InvalidSettings,
    InvalidTag,
    InvalidUnit,
    RecordTooLarge,
    TooManyConditions,
    TooManyTags,
    UnitTooLarge,
)
from bokilog.limits import (
    AUX_BYTES_MAX,
    BOOK_NAME_BYTES_MAX,
    CONDITIONS_MAX,
    HOLD_NAME_BYTES_MAX,
    HOLD_TTL_S_MAX,
    KEY_BYTES_MAX,
    PAGE_BYTES_MAX,
    PAGE_RECORDS_MAX,
    RECORD_BYTES_MAX,
    RETENTION_BYTES_MAX,
    RETENTION_S_MAX,
    RETENTION_S_MIN,
    SEQNUM_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
    TIMESTAMP_MS_MAX,
    UNIT_BYTES_MAX,
    UNIT_RECORDS_MAX,
)
from bokilog.named import NamedTuple

Durability: TypeAlias = Literal["sync", "flush", "memory"]
Consistency: TypeAlias = Literal["session", "linearizable"]
DURABILITIES: Final[tuple[Durability, ...]] = get_args(Durability)
CONSISTENCIES: Final[tuple[Consistency, ...]] = get_args(Consistency)
SYSTEM_TAG_PREFIX: Final = "$"  # tags that start with it are the libraries'

Buffer: TypeAlias = bytes | bytearray | memoryview
if TYPE_CHECKING:
    import typing_extensions  # type checkers bring it; Python itself knows defaults from 3.13 on

    T_co = typing_extensions.TypeVar("T_co", covariant=True, default=Buffer)
else:
    T_co = TypeVar("T_co", covariant=True)
Tags: TypeAlias = str | Iterable[str]
# Tag (None: the whole LogBook) -> after. Three, since the key type of a Mapping is invariant.
Unless: TypeAlias = Mapping[str, int] | Mapping[None, int] | Mapping[str | None, int]
Conditions: TypeAlias = tuple[tuple[str | None, int], ...]  # as checked, in the caller's order


class Entry(TypingNamedTuple, Generic[T_co]):
    """One record to append, as part of a unit; `tags="x"` is one tag. Its data is bytes, or what
    the codec of a typed LogBook encodes."""

    data: T_co
    tags: Tags = ()


class Unit(NamedTuple):
    """A checked unit, in columns: one item per record in `datas` and in `tags`."""

    datas: list[bytes]
    tags: list[tuple[str, ...]]
    size_bytes: int  # payload only


class Record:
    """One ordered record, equal to another when all but the aux data is: that may come and go.

    `timestamp_ms` is the wall time of the cut that ordered it; `aux` is None when nobody set it, or
    when it was dropped.

    A plain class with slots because reads build a million a second: 180 ns each, beside 285 ns as a
    NamedTuple and 760 ns as a frozen dataclass with slots (one run, two busy cores, CPython 3.11).
    """

    __slots__ = ("_decode", "aux", "data", "seqnum", "tags", "timestamp_ms")

    def __init__(
        self, seqnum: int, data: bytes, tags: tuple[str, ...], timestamp_ms: int, aux: bytes | None
    ) -> None:
        self.seqnum = seqnum
        self.data = data
        self.tags = tags
        self.timestamp_ms = timestamp_ms
        self.aux = aux  # `_decode` stays unset except in typed LogBooks: one store less here

    def typed(self, decode: Callable[[bytes], object]) -> Record:
        """This record, with `value` decoded by `decode`; typed LogBooks call it once per record."""
        self._decode = decode
        return self

    @property
    def value(self) -> object:
        """The data as its typed LogBook decodes it (the bytes themselves without a type).

        Decoded at each access. Raises `DecodeError(seqnum)`, whatever the codec raised.
        """
        try:
            decode = self._decode
        except AttributeError:
            return self.data
        try:
            return decode(self.data)
        except Exception as error:  # a user's codec may raise anything; here it becomes one error
            raise DecodeError(self.seqnum, f"{type(error).__name__}: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((self.seqnum, self.data))

    def __repr__(self) -> str:
        data = self.data if len(self.data) <= 64 else self.data[:64] + b"..."
        return (
            f"Record(seqnum={self.seqnum}, data={data!r}, tags={self.tags!r}, "
            f"timestamp_ms={self.timestamp_ms}, aux={self.aux!r})"
        )

    def __reduce__(self) -> tuple[type[Record], tuple[object, ...]]:
        return Record, (self.seqnum, self.data, self.tags, self.timestamp_ms, self.aux)

    def _identity(self) -> tuple[object, ...]:
        return self.seqnum, self.data, self.tags, self.timestamp_ms


class Page(NamedTuple):
    """A part of a range, in the order asked for.

    `next_seqnum` continues it (as `min_seqnum` forward, as `until` in reverse) and moves even when
    `records` is empty; `more` says whether the range holds more below the known tail.
    """

    records: list[Record]
    next_seqnum: int
    more: bool


class CaughtUp(NamedTuple):
    """A follow has yielded everything below `seqnum`, which was the known tail at that moment."""

    seqnum: int


class Trim(NamedTuple):
    """How far a trim got: `until` is the first kept seqnum, `held_by` the hold that stopped it."""

    until: int
    held_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BookInfo:
    """What `info()` and `books()` tell of a LogBook."""

    book: str
    number: int  # its incarnation: a LogBook deleted and created again has another one
    durability: Durability
    retention_s: float | None  # None: for ever
    retention_bytes: int | None  # None: without bound
    key_horizon_s: float
    trim_until: int  # first kept seqnum
    tail: int  # first seqnum not yet ordered


# --- checks on the append path --------------------------------------------------------------------


def check_tags(tags: Tags, *, allow_system: bool = False) -> tuple[str, ...]:
    """The tags without doubles, first come first; a str is one tag. 0.3 us for a short one."""
    if type(tags) is str:
        tags = (tags,)
    elif type(tags) is not list and type(tags) is not tuple:
        tags = _collected(tags)
    exact = True
    for tag in tags:
        # Short ASCII text, as nearly always, passes here; the rest takes the long way round.
        if type(tag) is str and tag.isascii() and 0 < len(tag) <= TAG_BYTES_MAX and tag[0] != "$":
            continue
        exact = _check_tag(tag, allow_system=allow_system) is tag and exact
    if not exact:
        tags = tuple(map(_exact, tags))
    if len(tags) < 2:
        return tuple(tags)
    distinct = tuple(dict.fromkeys(tags))
    if len(distinct) > TAGS_MAX:
        raise TooManyTags(len(distinct), TAGS_MAX)
    return distinct


def check_tag(tag: str | None) -> str | None:
    """One tag to read by: any valid one, the libraries' too; None means every record."""
    return None if tag is None else _check_tag(tag, allow_system=True)


def check_data(data: object) -> bytes:
    """The data as `bytes`; anything else with the buffer protocol is copied, now."""
    if type(data) is not bytes:
        data = _copied(data)
    if len(data) > RECORD_BYTES_MAX:
        raise RecordTooLarge(len(data), RECORD_BYTES_MAX)
    return data


def check_aux(aux: Buffer) -> bytes:
    """Aux data as `bytes`, within its limit."""
    if type(aux) is not bytes:
        aux = _copied(aux)
    if len(aux) > AUX_BYTES_MAX:
        raise RecordTooLarge(len(aux), AUX_BYTES_MAX, "aux data")
    return aux


def check_unit(
    entries: Iterable[Entry[object]],
    *,
    encode: Callable[[object], bytes] = check_data,
    allow_system: bool = False,
) -> Unit:
    """The entries of one unit, checked and in columns; `encode` gives the bytes of each one's data,
    checked."""
    if isinstance(entries, Entry):  # a tuple too
        raise InvalidUnit("is made of several Entry, not of Entry: give it in a list")
    if not isinstance(entries, Iterable):
        raise InvalidUnit(f"is made of several Entry, not of {type(entries).__name__}")
    if not isinstance(entries, (list, tuple)):
        entries = list(islice(entries, UNIT_RECORDS_MAX + 1))  # it may never end
    if not entries:
        raise InvalidUnit("holds at least one record")
    if len(entries) > UNIT_RECORDS_MAX:
        raise UnitTooLarge(len(entries), UNIT_RECORDS_MAX, "records")
    for entry in entries:
        if not isinstance(entry, Entry):
            raise InvalidUnit(f"is made of Entry, not of {type(entry).__name__}: {shown(entry)}")
    datas = [encode(entry.data) for entry in entries]
    tags = [check_tags(entry.tags, allow_system=allow_system) for entry in entries]
    size_bytes = sum(map(len, datas))
    if size_bytes > UNIT_BYTES_MAX:
        raise UnitTooLarge(size_bytes, UNIT_BYTES_MAX, "bytes")
    return Unit(datas, tags, size_bytes)


def check_conditions(unless: Unless | None) -> Conditions:
    """The conditions as pairs in the caller's order; the first that fails is the one reported.

    Tags of the libraries may be tested by anybody: a condition writes nothing.
    """
    if unless is None:
        return ()
    if not isinstance(unless, Mapping):
        raise InvalidCondition(shown(unless), "`unless` maps tags to seqnums")
    if len(unless) > CONDITIONS_MAX:
        raise TooManyConditions(len(unless), CONDITIONS_MAX)
    for tag, after in unless.items():
        check_tag(tag)
        if not _is_int(after) or not 0 <= after <= SEQNUM_MAX:
            problem = f"after={shown(after)} is not a seqnum in 0..{SEQNUM_MAX}"
            raise InvalidCondition(tag, problem)
    return tuple((check_tag(tag), after) for tag, after in unless.items())


def check_key(key: str | None) -> str | None:
    """An idempotency key, or None."""
    if key is None:
        return None
    if not isinstance(key, str):
        raise InvalidKey(shown(key), f"is {type(key).__name__}, not str")
    if problem := _text_problem(key, KEY_BYTES_MAX):
        raise InvalidKey(key, problem)
    return _exact(key)


# --- checks off the append path -------------------------------------------------------------------


def check_book_name(name: str) -> str:
    """The name of a LogBook; names starting with `$` are the system's."""
    name = _check_name("LogBook", name, BOOK_NAME_BYTES_MAX)
    if name.startswith(SYSTEM_TAG_PREFIX):
        raise InvalidName("LogBook", name, "starts with '$': those are the system's")
    return name


def check_hold_name(name: str) -> str:
    """The name of a hold."""
    return _check_name("hold", name, HOLD_NAME_BYTES_MAX)


def check_seqnum(name: str, seqnum: int, *, least: int = 0) -> int:
    """A position called `name` in the message. One past the largest seqnum is a position too."""
    if not _is_int(seqnum):
        raise InvalidRange(name, shown(seqnum), f"is {type(seqnum).__name__}, not int")
    if not least <= seqnum <= SEQNUM_MAX + 1:
        raise InvalidRange(name, shown(seqnum), f"is outside {least}..{SEQNUM_MAX + 1}")
    return seqnum


def check_range(min_seqnum: int, until: int | None) -> None:
    """A half-open range `[min_seqnum, until)`, which may be empty; None: no upper end."""
    check_seqnum("min_seqnum", min_seqnum)
    if until is not None and check_seqnum("until", until) < min_seqnum:
        raise InvalidRange("until", shown(until), f"lies below min_seqnum={min_seqnum}")


def check_byte_range(start: int, until: int | None) -> None:
    """A half-open byte range of one record, maybe empty; it is cut off at the record's end."""
    if not _is_int(start) or start < 0:
        raise InvalidRange("start", shown(start), "is not an int from 0")
    if until is not None and (not _is_int(until) or until < start):
        raise InvalidRange("until", shown(until), f"is not an int from start={shown(start)}")


def check_page(limit: int, max_bytes: int) -> None:
    """The bounds of one page."""
    if not _is_int(limit) or not 1 <= limit <= PAGE_RECORDS_MAX:
        raise InvalidRange("limit", shown(limit), f"is outside 1..{PAGE_RECORDS_MAX} records")
    if not _is_int(max_bytes) or not 1 <= max_bytes <= PAGE_BYTES_MAX:
        problem = f"is outside 1..{PAGE_BYTES_MAX} bytes"
        raise InvalidRange("max_bytes", shown(max_bytes), problem)


def check_timestamp_ms(timestamp_ms: int) -> int:
    """Milliseconds since 1970, as in `Record.timestamp_ms`."""
    if not _is_int(timestamp_ms) or not 0 <= timestamp_ms <= TIMESTAMP_MS_MAX:
        problem = f"is not an int in 0..{TIMESTAMP_MS_MAX}"
        raise InvalidRange("timestamp_ms", shown(timestamp_ms), problem)
    return timestamp_ms


def check_duration(name: str, duration_s: float | None) -> float | None:
    """A duration in seconds from 0, or None for no bound; not NaN, which compares with nothing."""
    if duration_s is None:
        return None
    if isinstance(duration_s, bool) or not isinstance(duration_s, (int, float)):
        raise InvalidRange(name, shown(duration_s), "is not a number of seconds")
    if not duration_s >= 0:
        raise InvalidRange(name, shown(duration_s), "is not a number of seconds from 0")
    if isinstance(duration_s, int) and duration_s > sys.float_info.max:  # inf is no bound
        raise InvalidRange(name, shown(duration_s), f"is above {sys.float_info.max} seconds")
    return duration_s


def check_bound(name: str, duration_s: float) -> float:
    """A duration in seconds from 0 that has to be given."""
    if check_duration(name, duration_s) is None:
        raise InvalidRange(name, "None", "is not a number of seconds")
    return duration_s


def check_wait(wait_s: float) -> float:
    """How long a read waits for what is not there yet, in seconds from 0; `inf` is for ever."""
    return check_bound("wait_s", wait_s)


def check_hold_ttl(ttl_s: float) -> float:
    """How long a hold lives, in seconds."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)):
        raise InvalidRange("ttl_s", shown(ttl_s), "is not a number of seconds")
    if not 0 < ttl_s <= HOLD_TTL_S_MAX:
        raise InvalidRange("ttl_s", shown(ttl_s), f"is outside (0, {HOLD_TTL_S_MAX}] seconds")
    return ttl_s


def check_retention(retention_s: float | None, retention_bytes: int | None) -> None:
    """How long, and up to how many bytes, a LogBook keeps records; None: no bound."""
    if retention_s is not None:
        if isinstance(retention_s, bool) or not isinstance(retention_s, (int, float)):
            raise InvalidRange("retention_s", shown(retention_s), "is not a number of seconds")
        if not RETENTION_S_MIN <= retention_s <= RETENTION_S_MAX:
            problem = f"is outside {RETENTION_S_MIN}..{RETENTION_S_MAX} seconds"
            raise InvalidRange("retention_s", shown(retention_s), problem)
    if retention_bytes is not None and (
        not _is_int(retention_bytes) or not 1 <= retention_bytes <= RETENTION_BYTES_MAX
    ):
        problem = f"is not a number of bytes in 1..{RETENTION_BYTES_MAX}"
        raise InvalidRange("retention_bytes", shown(retention_bytes), problem)


def check_durability(durability: str) -> Durability:
    """One of the three durability classes."""
    for known in DURABILITIES:
        if durability == known:
            return known
    problem = f"is none of {', '.join(DURABILITIES)}"
    raise InvalidSettings("durability", shown(durability), problem)


def check_consistency(consistency: str) -> Consistency:
    """One of the two ways to read."""
    for known in CONSISTENCIES:
        if consistency == known:
            return known
    problem = f"is none of {', '.join(CONSISTENCIES)}"
    raise InvalidSettings("consistency", shown(consistency), problem)


def shown(value: object) -> str:
    """A value for an error: of what is long its beginning, of what has no text its kind."""
    try:
        return f"{value!r:.200}"
    except ValueError:  # an int of thousands of digits is in it
        bits = f" of {value.bit_length()} bits" if isinstance(value, int) else ""
        return f"<{type(value).__name__}{bits}>"


# --- pieces ---------------------------------------------------------------------------------------


def _collected(tags: Tags) -> tuple[str, ...]:
    if isinstance(tags, str):
        return (tags,)
    if isinstance(tags, (bytes, bytearray, memoryview)) or not isinstance(tags, Iterable):
        raise InvalidTag(
            shown(tags), f"is {type(tags).__name__}: tags are a str or several of them"
        )
    return tuple(tags)


def _check_tag(tag: str, *, allow_system: bool) -> str:
    if not isinstance(tag, str):
        raise InvalidTag(shown(tag), f"is {type(tag).__name__}, not str")
    if problem := _text_problem(tag, TAG_BYTES_MAX):
        raise InvalidTag(tag, problem)
    if not allow_system and tag[0] == SYSTEM_TAG_PREFIX:
        raise InvalidTag(tag, "starts with '$': those are the libraries' tags")
    return _exact(tag)


def _check_name(kind: str, name: str, limit_bytes: int) -> str:
    if not isinstance(name, str):
        raise InvalidName(kind, shown(name), f"is {type(name).__name__}, not str")
    if problem := _text_problem(name, limit_bytes):
        raise InvalidName(kind, name, problem)
    return _exact(name)


def _exact(text: str) -> str:
    """The same as a plain str: one of a class of its own, such as a member of an enum, may show
    itself as other text, and a column holds it apart from one."""
    return text if type(text) is str else str.__str__(text)


def _text_problem(text: str, limit_bytes: int) -> str | None:
    """What is wrong with a tag, a name or a key, as the end of a sentence."""
    if not text:
        return f"is empty: it has 1 to {limit_bytes} bytes of UTF-8"
    if text.isascii():
        size_bytes = len(text)
    else:
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError:
            return "is not valid Unicode: it holds half of a surrogate pair"
    if size_bytes > limit_bytes:
        return f"has {size_bytes} bytes of UTF-8: the limit is {limit_bytes} bytes"
    return None


def _copied(data: object) -> bytes:
    if isinstance(data, str):
        raise InvalidData(f"str, not bytes: encode it first, as in {data[:20]!r}.encode()")
    try:
        view = memoryview(data)  # type: ignore[arg-type]  # asking is the check
    except (TypeError, ValueError):  # a ValueError: a buffer that was released, or of odd items
        raise InvalidData(f"{type(data).__name__}, not bytes: {shown(data)}") from None
    if view.nbytes > RECORD_BYTES_MAX:  # before copying what will be refused
        raise RecordTooLarge(view.nbytes, RECORD_BYTES_MAX)
    return bytes(view)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
