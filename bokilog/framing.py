"""Bytes of a connection to wire messages and back: wire version 1, both directions alike.

Decides where one message ends and the next begins, and what is refused before it gets memory.

    connection   preamble, message, message, ...
    preamble     "bokl", u8 version, u8 flags (0), u16 reserved (0)
    message      u32 body bytes, u8 kind, u8 flags (0), u16 attachment count,
                 then the body: u32 length per attachment, head, attachments
                 (little-endian; the head is what the body holds beside lengths and attachments)

Payload bytes travel as attachments, so they are never inside msgpack and are never copied by a
decoder: what is handed out are slices of the memory that was read into.

Invariants: a message handed out is never overwritten by a later read; a message above the limit is
refused from its header alone; however a stream is split, it gives the same messages, and then the
same error if it has one.

Does not know: what a kind or a head means (`codec.py`), sockets, time.
Source: LIMITS point 1 (few large reads and writes) and point 4 (payload beside columns).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from bokilog.errors import (
    BokilogError,
    FormatTooNew,
    LocalProtocolError,
    RemoteProtocolError,
)
from bokilog.limits import KIB, WIRE_MESSAGE_BYTES_MAX
from bokilog.record import Buffer

WireMessage: TypeAlias = tuple[int, memoryview, Sequence[memoryview]]
"""(kind, head, attachments). A plain tuple: a NamedTuple costs ten times as much to build, and
there is one per message. The slices keep the whole read alive, so copy what is kept for long."""

WIRE_VERSION: Final = 1
MAGIC: Final = b"bokl"
_PREAMBLE = struct.Struct("<4sBBH")
_HEADER = struct.Struct("<IBBH")
_HEADER_ONE = struct.Struct("<IBBHI")  # a header and the length of the only attachment
_LENGTH = struct.Struct("<I")
PREAMBLE: Final = _PREAMBLE.pack(MAGIC, WIRE_VERSION, 0, 0)
PREAMBLE_BYTES: Final = _PREAMBLE.size
HEADER_BYTES: Final = _HEADER.size
_BODY_BYTES_MAX = WIRE_MESSAGE_BYTES_MAX - HEADER_BYTES
KIND_MAX: Final = 255
ATTACHMENTS_MAX: Final = 2**16 - 1

# A connection starts with little scratch, since most are quiet, and grows it when a read fills it.
SCRATCH_BYTES_FIRST: Final = 16 * KIB
SCRATCH_BYTES_MAX: Final = 256 * KIB  # what one read of a busy unix socket delivers
_SCRATCH_GROWTH: Final = 4
# Copying less than this is cheaper than one more entry in the list given to the kernel.
JOIN_BYTES_MAX: Final = 16 * KIB

assert PREAMBLE_BYTES == HEADER_BYTES == 8
assert HEADER_BYTES < SCRATCH_BYTES_FIRST <= SCRATCH_BYTES_MAX
assert WIRE_MESSAGE_BYTES_MAX < 2**32, "lengths are u32"


# --- out ------------------------------------------------------------------------------------------


def append_message(
    buffers: list[Buffer], kind: int, head: Buffer, attachments: Sequence[Buffer] = ()
) -> int:
    """Append the parts of one message to `buffers`, copying nothing; return its bytes on the wire.

    The parts must not change until they are sent.

    Raises:
        LocalProtocolError: the kind, the attachment count or the size is over the limit; nothing
            was appended.
    """
    count = len(attachments)
    # A view of wider items has fewer items than bytes; its len() would tear the stream. Written out
    # for the two usual cases: a call per part is a quarter of the price of a small message.
    body_bytes = head.nbytes if isinstance(head, memoryview) else len(head)
    if count == 0:
        if body_bytes > _BODY_BYTES_MAX or not 0 <= kind <= KIND_MAX:
            _refuse_to_send(kind, body_bytes, count)
        buffers += (_HEADER.pack(body_bytes, kind, 0, 0), head)
        return HEADER_BYTES + body_bytes
    if count == 1:
        part = attachments[0]
        part_bytes = part.nbytes if isinstance(part, memoryview) else len(part)
        body_bytes += _LENGTH.size + part_bytes
        if body_bytes > _BODY_BYTES_MAX or not 0 <= kind <= KIND_MAX:
            _refuse_to_send(kind, body_bytes, count)
        buffers += (_HEADER_ONE.pack(body_bytes, kind, 0, 1, part_bytes), head, part)
        return HEADER_BYTES + body_bytes
    lengths = [_byte_count(part) for part in attachments]
    body_bytes += _LENGTH.size * count + sum(lengths)
    if body_bytes > _BODY_BYTES_MAX or not 0 <= kind <= KIND_MAX or count > ATTACHMENTS_MAX:
        _refuse_to_send(kind, body_bytes, count)
    table = struct.pack(f"<{count}I", *lengths)
    buffers += (_HEADER.pack(body_bytes, kind, 0, count) + table, head, *attachments)
    return HEADER_BYTES + body_bytes


def encode_message(kind: int, head: Buffer, attachments: Sequence[Buffer] = ()) -> list[Buffer]:
    """One message as buffers to be written in order: small parts joined, large payloads as given.

    Raises:
        LocalProtocolError: the kind, the attachment count or the size is over the limit.
    """
    buffers: list[Buffer] = []
    append_message(buffers, kind, head, attachments)
    return join_small(buffers)


def join_small(buffers: Iterable[Buffer]) -> list[Buffer]:
    """The same bytes with each run of small buffers copied into one; large ones are not copied."""
    joined: list[Buffer] = []
    run: list[Buffer] = []
    for part in buffers:
        if _byte_count(part) < JOIN_BYTES_MAX:
            run.append(part)
            continue
        if run:
            joined.append(b"".join(run))
            run = []
        joined.append(part)
    if run:
        joined.append(b"".join(run))
    return joined


def _byte_count(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


def _refuse_to_send(kind: int, body_bytes: int, count: int) -> None:
    if not 0 <= kind <= KIND_MAX:
        raise LocalProtocolError(f"a message of kind {kind}: kinds are 0..{KIND_MAX}")
    if count > ATTACHMENTS_MAX:
        raise LocalProtocolError(
            f"a message with {count} attachments: the limit is {ATTACHMENTS_MAX} attachments"
        )
    raise LocalProtocolError(
        f"a message of {HEADER_BYTES + body_bytes} bytes:"
        f" the limit is {HEADER_BYTES + _BODY_BYTES_MAX} bytes"
    )


# --- in -------------------------------------------------------------------------------------------


class MessageReader:
    """The receiving half of one connection: preamble, then messages.

    Small messages pass through a scratch buffer and are copied out of it once per read; a message
    that does not fit into the scratch gets memory of exactly its size, which is then filled in
    place. Messages before a broken place are still handed out: the error is raised at once if there
    are none in the same call, else by the next call. After it the reader is broken for good.

    Args:
        message_bytes_max: the largest message accepted, header included.
        scratch_bytes_max: how far the scratch buffer may grow.
    """

    __slots__ = (
        "_bytes_max",
        "_error",
        "_filled_bytes",
        "_greeted",
        "_large",
        "_need_bytes",
        "_scratch",
        "_scratch_bytes_max",
    )

    def __init__(
        self,
        *,
        message_bytes_max: int = WIRE_MESSAGE_BYTES_MAX,
        scratch_bytes_max: int = SCRATCH_BYTES_MAX,
    ) -> None:
        assert scratch_bytes_max > HEADER_BYTES
        self._bytes_max = message_bytes_max
        self._scratch_bytes_max = scratch_bytes_max
        self._scratch = memoryview(bytearray(min(SCRATCH_BYTES_FIRST, scratch_bytes_max)))
        # The message being filled in place, header included; then the scratch buffer is empty.
        self._large: memoryview | None = None
        # Bytes present of what is being filled. Invariant between calls: < _need_bytes <= its size.
        self._filled_bytes = 0
        self._need_bytes = PREAMBLE_BYTES
        self._greeted = False
        self._error: BokilogError | None = None

    @property
    def greeted(self) -> bool:
        """Whether the preamble has arrived and was that of a version spoken here."""
        return self._greeted

    @property
    def mid_message(self) -> bool:
        """Whether a stream ending here would end within the preamble or a message."""
        return self._filled_bytes > 0

    @property
    def error(self) -> BokilogError | None:
        """What broke the stream, also while it has not been raised yet."""
        return self._error

    def feed(self, data: Buffer) -> list[WireMessage]:
        """Take any piece of the stream; return the messages it completes, in order.

        Raises:
            RemoteProtocolError: the bytes are no such stream, or announce too large a message.
            FormatTooNew: the preamble is of a later wire version.
        """
        rest = memoryview(data).cast("B")
        messages: list[WireMessage] = []
        while rest:
            try:
                room = self.get_buffer(len(rest))
                taken = min(len(room), len(rest))
                room[:taken] = rest[:taken]
                messages += self.buffer_updated(taken)
            except BokilogError:
                if not messages:
                    raise
                break  # the next call raises it
            rest = rest[taken:]
        return messages

    def get_buffer(self, hint_bytes: int) -> memoryview:
        """Where the next bytes are to be written; never empty. Valid until `buffer_updated`."""
        if self._error is not None:
            raise self._error
        target = self._scratch if self._large is None else self._large
        return target[self._filled_bytes :] if self._filled_bytes else target

    def buffer_updated(self, byte_count: int) -> list[WireMessage]:
        """Take the first `byte_count` bytes of the last `get_buffer`; otherwise as `feed`."""
        if self._error is not None:
            raise self._error
        self._filled_bytes += byte_count
        if self._filled_bytes < self._need_bytes:
            return []
        messages: list[WireMessage] = []
        try:
            if self._large is not None:
                self._finish_large(self._large, messages)
            elif not self._read_alone(messages):
                self._read_scratch(messages)
        except BokilogError as error:
            self._error = error
            if not messages:
                raise
        return messages

    def _read_alone(self, messages: list[WireMessage]) -> bool:
        """Append the one message, if that is all there is and it is whole: what most reads bring
        while little goes on, at half the price of `_read_scratch`."""
        end = self._filled_bytes
        body_bytes, kind, flags, count = _HEADER.unpack_from(self._scratch)
        whole = HEADER_BYTES + body_bytes == end < len(self._scratch)
        if not whole or end > self._bytes_max or flags or not self._greeted:
            return False
        body = memoryview(bytes(self._scratch[HEADER_BYTES:end]))
        messages.append(_divide(kind, body, count) if count else (kind, body, ()))
        self._filled_bytes = 0
        self._need_bytes = HEADER_BYTES
        return True

    def _read_scratch(self, messages: list[WireMessage]) -> None:
        end = self._filled_bytes
        start = 0
        if not self._greeted:
            _check_preamble(self._scratch)
            self._greeted = True
            start = PREAMBLE_BYTES
        # Looked at before the copy, so that the beginning of a large message is not copied twice.
        if start + self._announced_bytes(self._scratch, start, end) <= end:
            # One copy per read gives memory that later reads cannot touch.
            start += self._split(memoryview(bytes(self._scratch[start:end])), messages)
        self._keep(start, end)

    def _split(self, chunk: memoryview, messages: list[WireMessage]) -> int:
        """Append the whole messages of `chunk`; return where the first incomplete one starts."""
        end = len(chunk)
        position = 0
        while end - position >= HEADER_BYTES:
            body_bytes, kind, flags, count = _HEADER.unpack_from(chunk, position)
            body_start = position + HEADER_BYTES
            if flags or HEADER_BYTES + body_bytes > self._bytes_max:
                self._refuse(body_bytes, flags)
            body_end = body_start + body_bytes
            if body_end > end:
                break
            body = chunk[body_start:body_end]
            messages.append(_divide(kind, body, count) if count else (kind, body, ()))
            position = body_end
        return position

    def _keep(self, start: int, end: int) -> None:
        """Hold on to the incomplete message at `start`, which may be nothing."""
        kept = end - start
        self._need_bytes = self._announced_bytes(self._scratch, start, end)
        if end == len(self._scratch) < self._scratch_bytes_max:
            larger = min(_SCRATCH_GROWTH * end, self._scratch_bytes_max)
            old, self._scratch = self._scratch, memoryview(bytearray(larger))
            self._place(old[start:end])
        elif kept and (start or self._need_bytes > len(self._scratch)):
            self._place(self._scratch[start:end])
        self._filled_bytes = kept

    def _place(self, kept: memoryview) -> None:
        """Copy the received part of a message to where its rest will be read to."""
        target = self._scratch
        if self._need_bytes > len(target):
            target = self._large = memoryview(bytearray(self._need_bytes))
        target[: len(kept)] = kept

    def _announced_bytes(self, view: memoryview, start: int, end: int) -> int:
        """Bytes of the message at `start`, header included; of a header while that is not whole."""
        if end - start < HEADER_BYTES:
            return HEADER_BYTES
        body_bytes, _, flags, _ = _HEADER.unpack_from(view, start)
        if flags or HEADER_BYTES + body_bytes > self._bytes_max:
            self._refuse(body_bytes, flags)
        return HEADER_BYTES + int(body_bytes)

    def _finish_large(self, large: memoryview, messages: list[WireMessage]) -> None:
        self._large = None
        self._filled_bytes = 0
        self._need_bytes = HEADER_BYTES
        _, kind, _, count = _HEADER.unpack_from(large)
        body = large.toreadonly()[HEADER_BYTES:]
        messages.append(_divide(kind, body, count) if count else (kind, body, ()))

    def _refuse(self, body_bytes: int, flags: int) -> None:
        if flags:
            raise RemoteProtocolError(f"flags {flags:#04x}: version {WIRE_VERSION} has none")
        raise RemoteProtocolError(
            f"a message of {HEADER_BYTES + body_bytes} bytes: the limit is {self._bytes_max} bytes"
        )


def _check_preamble(view: memoryview) -> None:
    magic, version, flags, reserved = _PREAMBLE.unpack_from(view)
    if magic != MAGIC:
        raise RemoteProtocolError(f"the stream starts with {magic!r}, not with {MAGIC!r}")
    if version > WIRE_VERSION:
        raise FormatTooNew("the peer's wire protocol", version, WIRE_VERSION)
    if version != WIRE_VERSION or flags or reserved:
        raise RemoteProtocolError(
            f"preamble of version {version}, flags {flags}, reserved {reserved}:"
            f" it is {WIRE_VERSION}, 0, 0"
        )


def _divide(kind: int, body: memoryview, count: int) -> WireMessage:
    """The message whose body starts with the lengths of `count` attachments."""
    head_start = _LENGTH.size * count
    if head_start > len(body):
        raise RemoteProtocolError(f"a body of {len(body)} bytes cannot list {count} attachments")
    if count == 1:  # the usual case, at half the price
        end = len(body) - _LENGTH.unpack_from(body)[0]
        if end >= head_start:
            return kind, body[head_start:end], (body[end:],)
    lengths: tuple[int, ...] = struct.unpack_from(f"<{count}I", body)
    end = head_end = len(body) - sum(lengths)
    if head_end < head_start:
        raise RemoteProtocolError(
            f"attachments of {sum(lengths)} bytes in a body of {len(body)} bytes"
        )
    attachments: list[memoryview] = []
    for length in lengths:
        start, end = end, end + length
        attachments.append(body[start:end])
    return kind, body[head_start:head_end], attachments
