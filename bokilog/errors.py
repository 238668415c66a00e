"""Every error bokilog raises, as a table: wire code, meaning, typed attributes, text.

Decides what a caller may conclude from a failure. `definite` is True when the operation certainly
did not happen and never will; `retryable` is True when the same call may succeed later, unchanged.

Invariants: a code names one class for ever (a retired class leaves its code unused); attributes are
ints, floats, strings or None, travel in the order they are declared, and new ones go last with a
default; the text is made from the attributes, so it reads the same on both ends of the wire.

The errors of calls are in `call_errors.py`, codes 100..119. Knows nothing of HTTP (the gateway maps
errors to statuses) or of msgpack (`codec.py`).
Source: differs from Boki, whose result codes do not say whether a failed append may still appear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import get_annotations
from typing import ClassVar, dataclass_transform

SHOWN_CHARACTERS_MAX = 200  # a message names the value; a megabyte of value would hide the message
TOLD_CHARACTERS_MAX = 8_000  # a reason or a problem may quote the last lines of a log
_TOLD = frozenset({"reason", "problem"})


@dataclass_transform(eq_default=False)
class BokilogError(Exception):
    """Base of all errors; only its leaves, which have a code, are raised.

    A leaf declares its attributes as a dataclass does, and type checkers see it as one. But it is
    none: the methods of fifty dataclasses, each compiled from text, are a tenth of what opening a
    log in a fresh process costs.
    """

    code: ClassVar[int] = 0
    retryable: ClassVar[bool] = False
    definite: ClassVar[bool] = True
    text: ClassVar[str] = ""
    attributes: ClassVar[Mapping[str, str]] = {}
    """By name, in the order they are declared: what each holds, as its annotation says."""

    def __init_subclass__(cls) -> None:
        cls.attributes = {**cls.attributes, **get_annotations(cls)}

    def __init__(self, *values: object, **named: object) -> None:
        names = list(self.attributes)
        if self.code == 0:
            raise TypeError(f"{type(self).__name__} is a family of errors: raise one of them")
        given = dict(zip(names, values, strict=False))
        if len(values) > len(names) or given.keys() & named or not named.keys() <= set(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, each once")
        self.__dict__.update(given, **named)
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise TypeError(f"{type(self).__name__} lacks {', '.join(missing)}")
        self.args = tuple(getattr(self, name) for name in names)  # to pickle and copy
        self.__dict__.update(zip(names, self.args, strict=True))  # defaults as well

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self.attributes)
        return f"{type(self).__qualname__}({', '.join(values)})"

    def __str__(self) -> str:
        shown = {name: _shown(name, getattr(self, name)) for name in self.attributes}
        return self.text.format(**shown)


class UsageError(BokilogError):
    """The caller's fault: retrying the same call never helps. Raised before anything is sent."""


class UnavailableError(BokilogError):
    """Certainly nothing happened, and the same call may succeed later."""

    retryable = True


class DataError(BokilogError):
    """A gap in what can be read, and what kind of gap it is. Final."""


# --- 10..39: usage --------------------------------------------------------------------------------


class InvalidTag(UsageError):
    """A tag is empty, too long, not text, or reserved for the libraries."""

    code = 10
    text = "tag {tag!r} {problem}"
    tag: str
    problem: str


class TooManyTags(UsageError):
    """A record has more tags than the limit."""

    code = 11
    text = "a record with {count} tags: the limit is {limit} tags per record"
    count: int
    limit: int


class InvalidName(UsageError):
    """The name of a LogBook or of a hold (`kind` says which) cannot be used."""

    code = 12
    text = "name of a {kind} {name!r} {problem}"
    kind: str
    name: str
    problem: str


class InvalidData(UsageError):
    """The data of a record, or aux data, is not bytes."""

    code = 13
    text = "data is {problem}"
    problem: str


class RecordTooLarge(UsageError):
    """A record, or the aux data beside one (`kind` says which), has too many bytes."""

    code = 14
    text = "{kind} of {size_bytes} bytes: the limit is {limit_bytes} bytes"
    size_bytes: int
    limit_bytes: int
    kind: str = "a record"


class UnitTooLarge(UsageError):
    """A unit has too many records or bytes; `measure` says which."""

    code = 15
    text = "a unit of {size} {measure}: the limit is {limit} {measure}"
    size: int
    limit: int
    measure: str


class InvalidUnit(UsageError):
    """A unit is empty or holds something that is no `Entry`."""

    code = 16
    text = "a unit {problem}"
    problem: str


class InvalidCondition(UsageError):
    """An entry of `unless` does not map a tag (or None) to a seqnum."""

    code = 17
    text = "condition on {what}: {problem}"
    tag: str | None
    problem: str

    def __str__(self) -> str:
        problem = _shown("problem", self.problem)
        return self.text.format(what=_tested(self.tag), problem=problem)


class TooManyConditions(UsageError):
    """A unit has more conditions than the limit."""

    code = 18
    text = "a unit with {count} conditions: the limit is {limit} conditions per unit"
    count: int
    limit: int


class InvalidKey(UsageError):
    """An idempotency key is empty, too long or not text."""

    code = 19
    text = "key {key!r} {problem}"
    key: str
    problem: str


class InvalidRange(UsageError):
    """A position, a count or a duration (`name` says which) lies outside its range."""

    code = 20
    text = "{name}={value} {problem}"
    name: str
    value: str
    problem: str


class InvalidSettings(UsageError):
    """A setting or an option of a LogBook has no such value."""

    code = 21
    text = "{name}={value} {problem}"
    name: str
    value: str
    problem: str


class UnknownLogBook(UsageError):
    """There is no LogBook of that name; reads behave as on an empty one instead of raising this."""

    code = 22
    text = "there is no LogBook {book!r}"
    book: str


class LogBookConflict(UsageError):
    """`create_book` met a LogBook of that name with another property."""

    code = 23
    text = "LogBook {book!r} exists with {name}={existing}, not {requested}"
    book: str
    name: str
    existing: str
    requested: str


class NotSupported(UsageError):
    """This version, or this shape, cannot do that."""

    code = 24
    text = "{what} is not supported: {problem}"
    what: str
    problem: str


class InvalidToken(UsageError):
    """A session token was not made by this log, or was cut short."""

    code = 25
    text = "session token {token!r} {problem}"
    token: str
    problem: str


class KeyReused(UsageError):
    """The key is known with other bytes or tags; `seqnum` is where its first unit stands."""

    code = 30
    text = "key {key!r} was used at seqnum {seqnum} for other bytes or tags: a key names one unit"
    key: str
    seqnum: int


class FormatTooNew(UsageError):
    """Stored data, or a peer, speaks a newer format than this version reads."""

    code = 31
    text = "{what} has format {found}: this version reads up to {supported}"
    what: str
    found: int
    supported: int


class Closed(UsageError):
    """The connection or the log was closed before the call."""

    code = 32
    text = "{what} is closed"
    what: str


class WrongLoop(UsageError):
    """The object belongs to another event loop, or to the process before a fork."""

    code = 33
    text = "{what} {problem}: connect again there"
    what: str
    problem: str


class TagsEnded(UsageError):
    """The unit writes or tests a tag under a prefix that its library has ended; it is void."""

    code = 34
    text = "tags starting with {prefix!r} have ended"
    prefix: str


# --- 40..49: conditions and outcomes --------------------------------------------------------------


class ConditionFailed(BokilogError):
    """The unit is void: `tag` (None: the whole LogBook) has a visible record at `winner`. Final."""

    code = 40
    text = "condition on {what} failed: seqnum {winner} is there already"
    tag: str | None
    winner: int

    def __str__(self) -> str:
        return self.text.format(what=_tested(self.tag), winner=self.winner)


class AppendUnknown(BokilogError):
    """The append was sent and its outcome is unknown: it appears at most once, or never.

    Retry only with the same `key`. Without one, the `winner` of a later `ConditionFailed` may be
    this very attempt.
    """

    code = 41
    definite = False
    text = "the append may or may not have happened: {reason}"
    reason: str


class ReadTimeout(BokilogError, TimeoutError):
    """A read, or another call that changes nothing, did not finish within `timeout_s`."""

    code = 42
    retryable = True
    text = "{what} did not finish within timeout_s={timeout_s}"
    what: str
    timeout_s: float


class UnitMalformed(BokilogError):
    """The unit was ordered and is void: no storage node can make anything of its frame. Final.

    Nobody ever sees such a unit; its client or engine is of another version than they are.
    """

    code = 43
    text = "the unit is void: {problem}"
    problem: str


# --- 50..69: unavailable --------------------------------------------------------------------------


class WrongTerm(UnavailableError):
    """The message is about another term than the receiver's."""

    code = 50
    text = "the term is {current_term} now"
    current_term: int


class Sealed(UnavailableError):
    """The term has ended; a next view is on its way."""

    code = 51
    text = "term {term} is sealed"
    term: int


class NotPrimary(UnavailableError):
    """The sequencer asked is not the primary; `hint` names the one that may be."""

    code = 52
    text = "this sequencer is not the primary (hint: {hint})"
    hint: str | None = None


class Overloaded(UnavailableError):
    """There was no room within `timeout_s`; nothing was sent or kept."""

    code = 53
    text = "no room for {what}: try again after {retry_after_s} s"
    retry_after_s: float
    what: str = "the append"


class NotReady(UnavailableError):
    """The node or the cluster is still starting, recovering or changing its view."""

    code = 54
    text = "not ready: {reason}"
    reason: str


class NodeUnreachable(UnavailableError):
    """No connection to the node, and nothing was sent to it."""

    code = 55
    text = "cannot reach {node}: {reason}"
    node: str
    reason: str


class ReadOnly(UnavailableError):
    """The node takes no appends for now (disk full, failed sync); reads go on."""

    code = 56
    text = "read-only: {reason}"
    reason: str


class DirectoryInUse(UnavailableError):
    """Another live process, or an object in this one, owns the data directory."""

    code = 57
    text = "data directory {path!r} is in use already, by {owner}"
    path: str
    owner: str = "another process or by this one"


# --- 70..89: data ---------------------------------------------------------------------------------


class Trimmed(DataError):
    """The position lies behind a trim; `trim_until` is the first kept seqnum."""

    code = 70
    text = "trimmed: the first kept seqnum is {trim_until}"
    trim_until: int


class DataLost(DataError):
    """The record was ordered, and no replica has its bytes any more; read on at seqnum + 1."""

    code = 71
    text = "the bytes of seqnum {seqnum} are lost on every replica"
    seqnum: int


class CorruptRecord(DataError):
    """The stored bytes of the record do not match their checksum on any replica asked."""

    code = 72
    text = "the bytes of seqnum {seqnum} do not match their checksum"
    seqnum: int


class CorruptJournal(DataError):
    """A journal is damaged before its last known sync point."""

    code = 73
    text = "journal {path!r} is damaged at offset {offset}: {problem}"
    path: str
    offset: int
    problem: str = "a synced group does not verify"


class DecodeError(DataError):
    """The codec of a typed LogBook refused the record's bytes; `record.data` still has them."""

    code = 74
    text = "the value of seqnum {seqnum} does not decode: {problem}"
    seqnum: int
    problem: str = "its codec refused it"


class HistoryChanged(DataError):
    """The log was restored or recovered with loss since the token was made."""

    code = 75
    text = "the log's history is {current}, the token is of {seen}: start a new session"
    seen: str
    current: str


class BackupUnusable(DataError):
    """A backup is not complete, was altered, or is none; nothing was restored from it."""

    code = 76
    text = "the backup in {place} cannot be used: {problem}"
    place: str
    problem: str


# --- 90..99: the wire -----------------------------------------------------------------------------


class LocalProtocolError(BokilogError):
    """This side was about to send something the protocol does not allow; it was not sent."""

    code = 90
    text = "refused to send: {problem}"
    problem: str


class RemoteProtocolError(BokilogError):
    """The other side sent something the protocol does not allow; what was in flight is unknown."""

    code = 91
    definite = False
    text = "the other side broke the protocol: {problem}"
    problem: str


_ERRORS: tuple[type[BokilogError], ...] = (
    *(InvalidTag, TooManyTags, InvalidName, InvalidData, RecordTooLarge, UnitTooLarge, InvalidUnit),
    *(InvalidCondition, TooManyConditions, InvalidKey, InvalidRange, InvalidSettings),
    *(UnknownLogBook, LogBookConflict, NotSupported, InvalidToken),
    *(KeyReused, FormatTooNew, Closed, WrongLoop, TagsEnded),
    *(ConditionFailed, AppendUnknown, ReadTimeout, UnitMalformed),
    *(WrongTerm, Sealed, NotPrimary, Overloaded, NotReady, NodeUnreachable, ReadOnly),
    *(DirectoryInUse,),
    *(Trimmed, DataLost, CorruptRecord, CorruptJournal, DecodeError, HistoryChanged),
    *(BackupUnusable,),
    *(LocalProtocolError, RemoteProtocolError),
)
BY_CODE: dict[int, type[BokilogError]] = {}


def register(*errors: type[BokilogError]) -> None:
    """Make errors known by their wire codes, so that they arrive as what they are."""
    for error in errors:
        known = BY_CODE.setdefault(error.code, error)
        assert known is error, f"{known.__name__} and {error.__name__} share a wire code"


register(*_ERRORS)

# Annotations are the wire types too: what each allows, so that garbage is refused, not stored.
_WIRE_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "str | None": (str, type(None)),
}


def to_wire(error: BokilogError) -> list[object]:
    """The error as `[code, attribute, ...]`: plain ints, floats, strings and None."""
    told = (_sendable(each) if isinstance(each, str) else each for each in error.args)
    return [error.code, *told]


def _sendable(text: str) -> str:
    """An error quotes what was wrong, also half of a surrogate pair, which no message can carry."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def from_wire(parts: Sequence[object]) -> BokilogError:
    """The error that `to_wire` encoded; what cannot be one becomes a `RemoteProtocolError`."""
    code = parts[0] if parts else None
    error = BY_CODE.get(code) if isinstance(code, int) else None
    if error is None:
        return RemoteProtocolError(f"unknown error code {code!r}")
    values = parts[1:]
    wanted = error.attributes.values()
    fits = len(values) <= len(wanted) and all(
        isinstance(value, _WIRE_TYPES[kind]) for kind, value in zip(wanted, values, strict=False)
    )
    try:
        return error(*values) if fits else RemoteProtocolError(_malformed(error, values))
    except TypeError:  # fewer values than attributes without a default
        return RemoteProtocolError(_malformed(error, values))


def _malformed(error: type[BokilogError], values: Sequence[object]) -> str:
    return f"{error.__name__} with attributes {_shown('', repr(list(values)))}"


def _tested(tag: str | None) -> str:
    """What a condition is on."""
    return "the whole LogBook" if tag is None else f"tag {_shown('tag', tag)!r}"


def _shown(name: str, value: object) -> object:
    most = TOLD_CHARACTERS_MAX if name in _TOLD else SHOWN_CHARACTERS_MAX
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]}... ({len(value)} characters)"
    return value
