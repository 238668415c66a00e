"""Every message, who sends it to whom, and its form on the wire.

A message is a NamedTuple: cheap to build, comparable in tests, passed as it is between cores in one process. On the
wire it is `(kind, head, attachments)`: its fields as one msgpack list, and payload bytes beside it, never inside.
Kinds are numbers that are never reused; version 1 is golden-tested. Fields are checked by type on arrival, so that
no peer's garbage reaches a core; what a frame says of itself is checked by `frame.Columns`.

Does not know sockets, nor what any message means to its receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bokilog.codec import pack, unpack
from bokilog.errors import RemoteProtocolError
from bokilog.frame import Buffer, Columns, Frame, decode_frame, one_buffer
from bokilog.ids import LogSpaceId, Position, Shard, Term
from bokilog.metalog import Entry, Run, decode_run, encode_run, entry_from_plain, entry_to_plain

# --- greeting ------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """First message of every connection, from the side that dialled."""

    role: str
    """client, engine, storage, sequencer, or control (status and stop)."""
    node: str
    incarnation: int
    """Of the process that dials; a client's is a random number of its start."""
    cluster_id: str
    """Empty: the client takes whatever cluster it finds."""
    term: int
    bulk: bool
    """This connection is for frames; another one carries everything else (P32)."""


class Welcome(NamedTuple):
    """Answer to `Hello`."""

    node: str
    incarnation: int
    cluster_id: str
    history_id: str
    term: int
    positions: list[list[int]]
    """To clients: [log space, term, count, tail] of each log space, as the primary reported them."""
    spaces: list[list[object]]
    """To clients: [log space, durability class] of each log space."""


# --- client to engine, and back ------------------------------------------------------------------


class AppendFrame(NamedTuple):
    """Client to engine: a frame that has no LocalIds yet. Frames are numbered per (client, log space) (P4)."""

    space: int
    number: int
    columns: Columns
    payload: Sequence[Buffer]


class FrameOrdered(NamedTuple):
    """Engine to client: the frame's records stand at `first_seqnum` and on. Units that need a verdict wait for it."""

    space: int
    number: int
    first_seqnum: int
    position: Position
    timestamp_ms: int


class FrameVerdicts(NamedTuple):
    """Engine to client: what became of the units of an ordered frame that needed a verdict, or are void.

    `outcomes` has one `[unit, VERDICT_*, a, b]` each.
    """

    space: int
    number: int
    position: Position
    outcomes: list[list[object]]


class FrameRefused(NamedTuple):
    """Engine to client: this frame was not taken, nor will be any later one until it returns (P4)."""

    space: int
    number: int
    error: list[object]
    """errors.to_wire"""


class FrameLost(NamedTuple):
    """Engine to client: the frame was taken, and whether it was ordered cannot be known any more."""

    space: int
    number: int
    reason: str


VERDICT_VISIBLE = 0
"""a: first seqnum"""
VERDICT_CONDITION_FAILED = 1
"""a: tag or None, b: winner's seqnum"""
VERDICT_DUPLICATE = 2
"""a: first seqnum of the original, b: its length in records"""
VERDICT_KEY_REUSED = 3
"""a: first seqnum of the original, b: the key"""
VERDICT_BOOK_DELETED = 4
VERDICT_TAGS_ENDED = 5
"""a: the prefix"""
VERDICT_MALFORMED = 6
"""The frame did not decode: void on every replica (P34)."""


# --- reads: client to engine, engine to storage node, and back ------------------------------------


class Read(NamedTuple):
    """Visible records of a LogBook (`tag` None) or of one tag with `start <= seqnum < until`.

    Answered once the receiver's index has reached `position`; with `wait_ms` only when there is a record or the wait
    is over. In `reverse`, from the end.
    """

    request: int
    space: int
    book: int
    tag: str | None
    start: int
    until: int
    limit: int
    max_bytes: int
    reverse: bool
    position: Position
    wait_ms: int
    linearizable: bool
    bytes_start: int
    """Byte range of each record's data, -1: whole."""
    bytes_until: int


class ReadReply(NamedTuple):
    """The records found, in the asked order, with what that says of the rest.

    Forward, everything in `[start, next_seqnum)` is here; in reverse, everything in `[next_seqnum, until)`. So an
    answer is a fact about its range, for ever but for trims. `more`: the range holds more below `tail`.
    """

    request: int
    position: Position
    """The index position answered at."""
    tail: int
    trim_until: int
    next_seqnum: int
    more: bool
    seqnums: list[int]
    tags: list[None | str | list[str]]
    timestamps_ms: list[int]
    auxes: list[bytes | None] | None
    """None when no record has aux data."""
    payload: Sequence[Buffer]
    """One buffer per record."""


class RequestFailed(NamedTuple):
    """Answer to any numbered request."""

    request: int
    error: list[object]
    """errors.to_wire"""
    position: Position


class SeqnumAt(NamedTuple):
    """First seqnum of the log space whose cut is at or after `timestamp_ms`, or the tail."""

    request: int
    space: int
    timestamp_ms: int
    position: Position


class BookState(NamedTuple):
    """What the fold knows of a LogBook."""

    request: int
    space: int
    book: int
    position: Position
    linearizable: bool


class SetAux(NamedTuple):
    """Best-effort derived bytes beside a record; to every storage node of the log space."""

    request: int
    space: int
    book: int
    seqnum: int
    aux: bytes


class Answer(NamedTuple):
    """Answer to `SeqnumAt`, `BookState`, `SetAux`, `Propose`: plain values whose meaning the request fixes.

    SeqnumAt: [seqnum]. BookState: [trim_until, records, last seqnum, [[hold, seqnum, expiry ms], ...]]. SetAux: [].
    Propose: of a trim [until, held_by or None], of others [].
    """

    request: int
    position: Position
    values: list[object]


# --- ordering: engines, storage nodes and the sequencer -------------------------------------------


class OpenShardRequest(NamedTuple):
    """Engine to primary: this start's shard in the log space and term (P1)."""

    space: int
    term: int
    engine: str
    number: int


class ShardProgress(NamedTuple):
    """Storage node to primary: per shard how many records it holds to the class's standard (P6, P9)."""

    space: int
    term: int
    disk_id: str
    incarnation: int
    counts: list[list[int]]
    """[shard number, count]"""


class FollowMetalog(NamedTuple):
    """Storage node or engine to primary: send runs from `position` on. `shard` 0: every entry (P18)."""

    space: int
    position: Position
    shard: int


class Metalog(NamedTuple):
    """Primary to storage nodes and engines: published entries."""

    run: Run


class MetalogPosition(NamedTuple):
    """Primary to engines: published so far, also when nothing touched their shards (P18)."""

    space: int
    position: Position
    tail: int


class Propose(NamedTuple):
    """Client to engine to primary: a trim, hold, release, deletion or end of tags. Answered by the fold's `Answer`."""

    request: int
    space: int
    entry: Entry


class TailRequest(NamedTuple):
    """Client to engine to primary: a linearizable tail (P26)."""

    request: int
    space: int


class Tail(NamedTuple):
    request: int
    space: int
    position: Position
    tail: int


class IndexReport(NamedTuple):
    """Index replica to primary: how far its fold is, and how far it is stored (P21, P32)."""

    space: int
    folded: Position
    stored: Position
    chained_hash: int


# --- replication ----------------------------------------------------------------------------------


class Replicate(NamedTuple):
    """Engine to storage node (and storage node to storage node, in repair): a frame."""

    frame: Frame


class ResumeShard(NamedTuple):
    """Engine to storage node on link-up: how much of the shard do you hold? (P8)"""

    shard: Shard


class ShardHeld(NamedTuple):
    """Storage node to engine: its contiguous count of the shard."""

    shard: Shard
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class FetchFrames(NamedTuple):
    """Storage node to a peer: the ordered frames of a shard that it lacks (P8, P24)."""

    shard: Shard
    start: int
    until: int
    first_seqnum: int
    """Where the record `start` stands."""


# --- index stream ---------------------------------------------------------------------------------


class FollowIndex(NamedTuple):
    """Engine to index replica: stream (position, tail) from now on, entries of `books`, verdicts of `number` (P27)."""

    space: int
    number: int
    """The engine's shard number: verdicts and proposals of its own are streamed to it."""
    books: list[int]
    verdicts: list[list[int]]
    """[term, shard number, first count, first seqnum] of ordered frames whose verdicts are awaited still (P23)."""


class IndexStream(NamedTuple):
    """Index replica to engine, at most once per tick: what was folded since the last one.

    `entries` has one `[first seqnum, books, unit_records, tags, void units, timestamp ms]` per ordered frame that
    holds a followed LogBook's units, columns as in the frame. `following` lists LogBooks whose entries are complete
    from `since` on.
    """

    space: int
    since: Position
    position: Position
    tail: int
    entries: list[list[object]]
    trims: list[list[object]]
    """[book, tag or None, trim_until]"""
    verdicts: list[list[object]]
    """[term, shard number, first count, [outcome, ...]]"""
    answers: list[list[object]]
    """[request, values or None, error or None] of the engine's own proposals"""
    following: list[int]
    deleted: list[int]


# --- control --------------------------------------------------------------------------------------


class StatusRequest(NamedTuple):
    request: int


class Status(NamedTuple):
    """A process about itself, for `bokilog status`."""

    request: int
    facts: dict[str, object]


class TermChanged(NamedTuple):
    """Sequencer to everyone connected: a newer view is stored (P17)."""

    term: int


Message = (
    Hello
    | Welcome
    | AppendFrame
    | FrameOrdered
    | FrameVerdicts
    | FrameRefused
    | FrameLost
    | Read
    | ReadReply
    | RequestFailed
    | SeqnumAt
    | BookState
    | SetAux
    | Answer
    | OpenShardRequest
    | ShardProgress
    | FollowMetalog
    | Metalog
    | MetalogPosition
    | Propose
    | TailRequest
    | Tail
    | IndexReport
    | Replicate
    | ResumeShard
    | ShardHeld
    | FetchFrames
    | FollowIndex
    | IndexStream
    | StatusRequest
    | Status
    | TermChanged
)

KINDS: dict[type[Message], int] = {
    Hello: 1,
    Welcome: 2,
    AppendFrame: 10,
    FrameOrdered: 11,
    FrameVerdicts: 12,
    FrameRefused: 13,
    FrameLost: 14,
    Read: 20,
    ReadReply: 21,
    RequestFailed: 22,
    SeqnumAt: 23,
    BookState: 24,
    SetAux: 25,
    Answer: 26,
    OpenShardRequest: 40,
    ShardProgress: 41,
    FollowMetalog: 42,
    Metalog: 43,
    MetalogPosition: 44,
    Propose: 45,
    TailRequest: 46,
    Tail: 47,
    IndexReport: 48,
    Replicate: 60,
    ResumeShard: 61,
    ShardHeld: 62,
    FetchFrames: 63,
    FollowIndex: 70,
    IndexStream: 71,
    StatusRequest: 90,
    Status: 91,
    TermChanged: 92,
}
"""A message's number on the wire. Never reused; 49-59 are kept for replicated sequencers, 64-69 for snapshots."""
_BY_KIND = {kind: message for message, kind in KINDS.items()}


def encode(message: Message) -> tuple[int, bytes, Sequence[Buffer]]:
    """A message as (kind, msgpack head, attachments)."""
    kind = KINDS[type(message)]
    if isinstance(message, AppendFrame):
        return (
            kind,
            pack((message.space, message.number)),
            [message.columns.encode(), *message.payload],
        )
    if isinstance(message, Replicate):
        return kind, b"", message.frame.buffers()
    if isinstance(message, ReadReply):
        return kind, *_encode_reply(message)
    if isinstance(message, Metalog):
        return kind, encode_run(message.run), ()
    if isinstance(message, Propose):
        return kind, pack((message.request, message.space, entry_to_plain(message.entry))), ()
    return kind, pack(message), ()


def decode(kind: int, head: bytes | memoryview, attachments: Sequence[memoryview]) -> Message:
    """The message of `encode`.

    Raises:
        RemoteProtocolError: unknown kind, wrong fields, or a frame that does not check.
    """
    message = _BY_KIND.get(kind)
    if message is None:
        raise RemoteProtocolError(problem=f"message kind {kind} is unknown to this version")
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(head, attachments)
    fields = unpack(head)
    checks = _CHECKS[kind]
    if not isinstance(fields, list) or len(fields) != len(checks):
        raise RemoteProtocolError(problem=f"{message.__name__} with wrong fields")
    try:
        return message._make(check(field) for check, field in zip(checks, fields, strict=True))
    except (TypeError, ValueError) as error:
        raise RemoteProtocolError(problem=f"{message.__name__}: {error}") from error


def _encode_reply(reply: ReadReply) -> tuple[bytes, Sequence[Buffer]]:
    lengths = list(map(len, reply.payload))
    joined = [b"".join(reply.payload)] if len(lengths) > 1 else list(reply.payload)
    return pack((*reply[:-1], lengths)), joined


def _decode_reply(head: bytes | memoryview, attachments: Sequence[memoryview]) -> ReadReply:
    fields = unpack(head)
    if not isinstance(fields, list) or len(fields) != 11:
        raise RemoteProtocolError(problem="ReadReply with wrong fields")
    lengths = fields.pop()
    data = attachments[0] if attachments else memoryview(b"")
    payload: list[Buffer] = []
    start = 0
    for length in lengths:
        payload.append(bytes(data[start : start + length]))
        start += length
    if start != len(data) or len(fields[6]) != len(lengths):
        raise RemoteProtocolError(problem="ReadReply whose lengths do not add up")
    fields[1] = _position(fields[1])
    return ReadReply._make((*fields, payload))


def _decode_append(head: bytes | memoryview, attachments: Sequence[memoryview]) -> AppendFrame:
    fields = unpack(head)
    if not isinstance(fields, list) or len(fields) != 2 or not attachments:
        raise RemoteProtocolError(problem="AppendFrame with wrong fields")
    columns = Columns.decode(attachments[0])
    payload = one_buffer(attachments[1:])
    if len(payload[0]) != columns.payload_bytes:
        raise RemoteProtocolError(
            problem="AppendFrame whose payload is not as long as its columns say"
        )
    return AppendFrame(_int(fields[0]), _int(fields[1]), columns, payload)


def _decode_replicate(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Replicate:
    return Replicate(decode_frame(attachments))


def _decode_metalog(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Metalog:
    return Metalog(decode_run(head))


def _decode_propose(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Propose:
    fields = unpack(head)
    if not isinstance(fields, list) or len(fields) != 3:
        raise RemoteProtocolError(problem="Propose with wrong fields")
    return Propose(_int(fields[0]), _int(fields[1]), entry_from_plain(fields[2]))


_SPECIAL: dict[int, Callable[[bytes | memoryview, Sequence[memoryview]], Message]] = {
    KINDS[AppendFrame]: _decode_append,
    KINDS[ReadReply]: _decode_reply,
    KINDS[Replicate]: _decode_replicate,
    KINDS[Metalog]: _decode_metalog,
    KINDS[Propose]: _decode_propose,
}


def _int(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is not a whole number")
    return value


def _of(kind: type) -> Callable[[object], object]:
    def check(value: object) -> object:
        if type(value) is not kind:
            raise TypeError(f"{value!r:.40} is not {kind.__name__}")
        return value

    return check


def _optional_text(value: object) -> object:
    if value is not None and type(value) is not str:
        raise TypeError(f"{value!r:.40} is neither text nor nothing")
    return value


def _position(value: object) -> Position:
    if type(value) is not list or len(value) != 2:
        raise TypeError(f"{value!r:.40} is not a position")
    return Position(Term(_int(value[0])), _int(value[1]))


def _shard(value: object) -> Shard:
    if type(value) is not list or len(value) != 3:
        raise TypeError(f"{value!r:.40} is not a shard")
    return Shard(LogSpaceId(_int(value[0])), Term(_int(value[1])), _int(value[2]))


def _rows_of_int(value: object) -> object:
    if type(value) is not list or not all(
        type(row) is list and set(map(type, row)) <= {int} for row in value
    ):
        raise TypeError("not rows of whole numbers")
    return value


_CHECK_OF: dict[str, Callable[[object], object]] = {
    "int": _int,
    "str": _of(str),
    "bool": _of(bool),
    "bytes": _of(bytes),
    "str | None": _optional_text,
    "Position": _position,
    "Shard": _shard,
    "list[list[int]]": _rows_of_int,
    "list[int]": _of(list),
    "list[list[object]]": _of(list),
    "list[object]": _of(list),
    "dict[str, object]": _of(dict),
}


def _name(annotation: object) -> str:
    """An annotation as written: NamedTuple keeps it as a ForwardRef."""
    return str(getattr(annotation, "__forward_arg__", annotation))


_CHECKS = {
    kind: [_CHECK_OF[_name(annotation)] for annotation in message.__annotations__.values()]
    for kind, message in _BY_KIND.items()
    if kind not in _SPECIAL
}
