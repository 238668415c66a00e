"""The form of messages on the wire, and the checks of all that arrives.

A message is `(kind, head, attachments)`: its fields as one msgpack list, and payload bytes beside
it, never inside. Most are nothing but their fields, and have no code here; those with a frame, with
payload or with runs of metalog have a rule each.

Invariants: version 1 is golden-tested. Fields are checked by their annotations, rows as deep as
their receiver looks into them, so that no peer's garbage reaches a core: `decode` raises
`RemoteProtocolError` and nothing else. What a frame says of itself is checked by `frame.Columns`.

Does not know: sockets, nor what any message means.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Final, TypeAlias

from bokilog.codec import (
    flag,
    listed,
    natural,
    naturals,
    octets,
    optional_text,
    pack,
    row,
    text,
    unexpected,
    unpack,
    whole,
)
from bokilog.columns import (
    Columns,
    check_books,
    check_tags,
    check_units,
    first_bad_record,
)
from bokilog.errors import RemoteProtocolError
from bokilog.frame import decode_frame, one_buffer
from bokilog.ids import LogSpaceId, Position, Shard, Term
from bokilog.limits import AUX_BYTES_MAX, TAG_BYTES_MAX
from bokilog.messages import (
    KINDS,
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_MALFORMED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
    AnswerRows,
    AppendFrame,
    AuxBytes,
    AwaitedRows,
    CountRows,
    EndRows,
    EntryRows,
    MarkRows,
    Message,
    Metalog,
    Offset,
    Outcomes,
    PositionRows,
    Propose,
    ReadReply,
    ReadTag,
    Replicate,
    ReplicateRun,
    Runs,
    SealedRows,
    SpaceRows,
    StoredFrame,
    StoreRows,
    Sum64,
    TrimRows,
    VerdictRows,
    WireError,
)
from bokilog.metalog import decode_run, encode_run, entry_from_plain, entry_to_plain
from bokilog.record import Buffer

_BY_KIND: Final = {kind: message for message, kind in KINDS.items()}


def encode(message: Message) -> tuple[int, bytes, Sequence[Buffer]]:
    """A message as (kind, msgpack head, attachments)."""
    kind = KINDS[type(message)]
    if kind not in _SPECIAL:  # it is nothing but its fields, as most are
        return kind, pack(message), ()
    if isinstance(message, AppendFrame):
        columns = message.columns.encode()
        return kind, pack((message.space, message.number)), [columns, *message.payload]
    if isinstance(message, Replicate):
        return kind, b"", message.frame.buffers()
    if isinstance(message, StoredFrame):
        return kind, pack((message.first_seqnum,)), message.frame.buffers()
    if isinstance(message, ReadReply):
        return kind, *_encode_reply(message)
    if isinstance(message, Metalog):
        return kind, encode_run(message.run), ()
    if isinstance(message, ReplicateRun):
        return kind, pack((message.term, encode_run(message.run))), ()
    if isinstance(message, Runs):
        runs = list(map(encode_run, message.runs))
        return kind, pack((message.space, message.term, runs)), ()
    if isinstance(message, Propose):
        return kind, pack((message.request, message.space, entry_to_plain(message.entry))), ()
    raise AssertionError(f"{type(message).__name__} is decoded by its own rule and has no encoder")


def decode(kind: int, head: bytes | memoryview, attachments: Sequence[memoryview]) -> Message:
    """The message of `encode`.

    Raises:
        RemoteProtocolError: unknown kind, wrong fields, or a frame that does not check.
    """
    message = _BY_KIND.get(kind)
    if message is None:
        raise RemoteProtocolError(problem=f"message kind {kind} is unknown to this version")
    try:
        return _DECODERS[kind](head, attachments)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(problem=f"{message.__name__}: {error.problem}") from error


Decoder: TypeAlias = Callable[[bytes | memoryview, Sequence[memoryview]], Message]


def _plain_decoder(message: type[Message]) -> Decoder:
    """Of a message that is nothing but its fields."""
    checks = [_CHECK_OF[annotation] for annotation in message.__annotations__.values()]
    length = len(checks)

    def decode_plain(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Message:
        if attachments:
            raise unexpected(attachments, "no attachment")
        fields = row(unpack(head), length)
        return message._make([check(field) for check, field in zip(checks, fields, strict=True)])

    return decode_plain


def _encode_reply(reply: ReadReply) -> tuple[bytes, Sequence[Buffer]]:
    lengths = list(map(len, reply.payload))
    joined = [b"".join(reply.payload)] if len(lengths) > 1 else list(reply.payload)
    return pack((*reply[:-1], lengths)), joined


def _decode_reply(head: bytes | memoryview, attachments: Sequence[memoryview]) -> ReadReply:
    request, position, tail, trim_until, next_seqnum, more, *columns = row(unpack(head), 11)
    seqnums, tags, timestamps_ms, auxes, lengths = columns
    count = len(naturals(seqnums))
    if tags != []:
        check_tags(tags)
    if auxes is not None and not set(map(type, listed(auxes))) <= {bytes, type(None)}:
        raise unexpected(auxes, "aux data")
    if not count == len(tags) == len(naturals(timestamps_ms)) == len(naturals(lengths)) or (
        auxes is not None and len(auxes) != count
    ):
        raise RemoteProtocolError(problem="columns of different lengths")
    return ReadReply(
        natural(request),
        _position(position),
        natural(tail),
        natural(trim_until),
        natural(next_seqnum),
        flag(more),
        seqnums,
        tags,
        timestamps_ms,
        auxes,
        _split(one_buffer(attachments)[0], lengths),
    )


def _split(data: Buffer, lengths: list[int]) -> list[Buffer]:
    """Each record's bytes for itself: whoever keeps one keeps no whole message alive."""
    if sum(lengths) != len(data):
        raise RemoteProtocolError(problem="lengths that are not those of the payload")
    if len(lengths) == 1:
        return [bytes(data)]
    whole = bytes(data)
    ends = list(accumulate(lengths))
    # A third of what a loop costs per record, and every record of every page passes here.
    return list(map(whole.__getitem__, map(slice, chain((0,), ends), ends)))


def _decode_append(head: bytes | memoryview, attachments: Sequence[memoryview]) -> AppendFrame:
    space, number = row(unpack(head), 2)
    if not attachments:
        raise RemoteProtocolError(problem="no columns")
    columns = Columns.decode(attachments[0])
    payload = one_buffer(attachments[1:])
    if len(payload[0]) != columns.payload_bytes:
        raise RemoteProtocolError(problem="a payload that is not as long as its columns say")
    # The one place where a payload meets its checksums before it is replicated: a group of a
    # journal counts whole or not at all (P30), so a client's bad bytes would take others with them.
    bad = first_bad_record(columns, memoryview(payload[0]))
    if bad is not None:
        raise RemoteProtocolError(problem=f"record {bad} does not match its checksum")
    return AppendFrame(natural(space), natural(number), columns, payload)


def _decode_replicate(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Replicate:
    if len(head):
        raise unexpected(bytes(head), "no head")
    return Replicate(decode_frame(attachments))


def _decode_stored_frame(
    head: bytes | memoryview, attachments: Sequence[memoryview]
) -> StoredFrame:
    (first_seqnum,) = row(unpack(head), 1)
    return StoredFrame(natural(first_seqnum), decode_frame(attachments))


def _decode_metalog(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Metalog:
    if attachments:
        raise unexpected(attachments, "no attachment")
    return Metalog(decode_run(head))


def _decode_replicate_run(
    head: bytes | memoryview, attachments: Sequence[memoryview]
) -> ReplicateRun:
    if attachments:
        raise unexpected(attachments, "no attachment")
    term, run = row(unpack(head), 2)
    return ReplicateRun(natural(term), decode_run(octets(run)))


def _decode_runs(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Runs:
    if attachments:
        raise unexpected(attachments, "no attachment")
    space, term, runs = row(unpack(head), 3)
    decoded = tuple(decode_run(octets(run)) for run in listed(runs))
    return Runs(natural(space), natural(term), decoded)


def _decode_propose(head: bytes | memoryview, attachments: Sequence[memoryview]) -> Propose:
    request, space, entry = row(unpack(head), 3)
    if attachments:
        raise unexpected(attachments, "no attachment")
    return Propose(natural(request), natural(space), entry_from_plain(entry))


# --- checks of fields -----------------------------------------------------------------------------


def _sum64(value: object) -> int:
    number = whole(value)
    if number < 0:
        raise unexpected(value, "64 bits")
    return number


def _offset(value: object) -> int:
    return -1 if value == -1 and type(value) is int else natural(value)


def _read_tag(value: object) -> str | None:
    tag = optional_text(value)
    if tag is not None and len(tag.encode()) > TAG_BYTES_MAX:
        raise unexpected(value, f"a tag of at most {TAG_BYTES_MAX} bytes")
    return tag


def _aux_bytes(value: object) -> bytes:
    aux = octets(value)
    if len(aux) > AUX_BYTES_MAX:
        raise unexpected(value, f"aux data of at most {AUX_BYTES_MAX} bytes")
    return aux


def _position(value: object) -> Position:
    natural_term, natural_count = naturals(row(value, 2))
    return Position(Term(natural_term), natural_count)


def _shard(value: object) -> Shard:
    space, term, number = row(value, 3)
    return Shard(LogSpaceId(natural(space)), Term(natural(term)), natural(number))


def _rows_of_naturals(length: int) -> Callable[[object], object]:
    def check(value: object) -> object:
        for each in listed(value):
            naturals(row(each, length))
        return value

    return check


def _space_rows(value: object) -> object:
    for each in listed(value):
        space, durability = row(each, 2)
        natural(space)
        text(durability)
    return value


def _outcomes(value: object) -> object:
    for each in listed(value):
        unit, verdict, a, b = row(each, 4)
        natural(unit)
        wanted = _OUTCOMES.get(verdict) if type(verdict) is int else None
        if wanted is None:
            raise unexpected(verdict, "a verdict")
        if type(a) not in wanted[0] or type(b) not in wanted[1]:
            raise RemoteProtocolError(problem=f"verdict {verdict} about something else")
        if (type(a) is int and a < 0) or (type(b) is int and b < 0):
            raise RemoteProtocolError(problem=f"verdict {verdict} with a negative seqnum")
    return value


def _entry_rows(value: object) -> object:
    for each in listed(value):
        first_seqnum, books, unit_records, tags, void, timestamp_ms = row(each, 6)
        natural(first_seqnum)
        natural(timestamp_ms)
        units = check_units(unit_records, len(check_tags(tags)))
        check_books(books, units)
        if naturals(void) and max(void) >= units:
            raise RemoteProtocolError(problem="a void unit that is not there")
    return value


def _trim_rows(value: object) -> object:
    for each in listed(value):
        book, tag, until = row(each, 3)
        natural(book)
        optional_text(tag)
        natural(until)
    return value


def _verdict_rows(value: object) -> object:
    for each in listed(value):
        *shard_and_first, outcomes = row(each, 4)
        naturals(shard_and_first)
        _outcomes(outcomes)
    return value


def _answer_rows(value: object) -> object:
    for each in listed(value):
        request, values, error = row(each, 3)
        natural(request)
        listed(values if error is None else error)
        if values is not None and error is not None:
            raise RemoteProtocolError(problem="an answer that is an error too")
    return value


def _mark_rows(value: object) -> object:
    for each in listed(value):
        term, count, chained_hash = row(each, 3)
        naturals([term, count])
        _sum64(chained_hash)
    return value


def _store_rows(value: object) -> object:
    for each in listed(value):
        key, stored = row(each, 2)
        octets(stored)
        if not octets(key):
            raise unexpected(key, "a key")
    return value


def _facts(value: object) -> object:
    if type(value) is not dict or not set(map(type, value)) <= {str}:
        raise unexpected(value, "facts by name")
    return value


_NUMBER: Final = frozenset({int})
_TEXT: Final = frozenset({str})
_NUMBER_OR_NONE: Final = frozenset({int, type(None)})
_OUTCOMES: Final[dict[int, tuple[frozenset[type], frozenset[type]]]] = {
    VERDICT_VISIBLE: (_NUMBER, _NUMBER_OR_NONE),
    VERDICT_CONDITION_FAILED: (frozenset({str, type(None)}), _NUMBER),
    VERDICT_DUPLICATE: (_NUMBER, _NUMBER),
    VERDICT_KEY_REUSED: (_NUMBER, _TEXT),
    VERDICT_BOOK_DELETED: (_NUMBER_OR_NONE, _NUMBER_OR_NONE),
    VERDICT_TAGS_ENDED: (_TEXT, _NUMBER_OR_NONE),
    VERDICT_MALFORMED: (_NUMBER_OR_NONE, _NUMBER_OR_NONE),
}
"""What `a` and `b` of a verdict are."""

_CHECK_OF: Final[dict[object, Callable[[object], object]]] = {
    int: natural,
    str: text,
    bool: flag,
    ReadTag: _read_tag,
    AuxBytes: _aux_bytes,
    str | None: optional_text,
    list[int]: naturals,
    list[object]: listed,
    dict[str, object]: _facts,
    Sum64: _sum64,
    Offset: _offset,
    Position: _position,
    Shard: _shard,
    WireError: listed,
    PositionRows: _rows_of_naturals(4),
    SpaceRows: _space_rows,
    CountRows: _rows_of_naturals(2),
    AwaitedRows: _rows_of_naturals(4),
    SealedRows: _rows_of_naturals(6),
    EndRows: _rows_of_naturals(3),
    Outcomes: _outcomes,
    EntryRows: _entry_rows,
    TrimRows: _trim_rows,
    VerdictRows: _verdict_rows,
    AnswerRows: _answer_rows,
    StoreRows: _store_rows,
    MarkRows: _mark_rows,
}

_SPECIAL: Final[dict[int, Decoder]] = {
    KINDS[AppendFrame]: _decode_append,
    KINDS[ReadReply]: _decode_reply,
    KINDS[Replicate]: _decode_replicate,
    KINDS[StoredFrame]: _decode_stored_frame,
    KINDS[Metalog]: _decode_metalog,
    KINDS[ReplicateRun]: _decode_replicate_run,
    KINDS[Runs]: _decode_runs,
    KINDS[Propose]: _decode_propose,
}
_DECODERS: Final[dict[int, Decoder]] = {
    kind: _SPECIAL[kind] if kind in _SPECIAL else _plain_decoder(message)
    for kind, message in _BY_KIND.items()
}
