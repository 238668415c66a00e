"""Framing: golden bytes of wire version 1, and what every split of a stream comes to."""

import struct

import pytest

from bokilog import framing
from bokilog.errors import BokilogError, FormatTooNew, LocalProtocolError, RemoteProtocolError
from bokilog.framing import (
    HEADER_BYTES,
    JOIN_BYTES_MAX,
    PREAMBLE,
    SCRATCH_BYTES_FIRST,
    SCRATCH_BYTES_MAX,
    MessageReader,
    WireMessage,
    append_message,
    encode_message,
    join_small,
)
from bokilog.record import Buffer

GOLDEN = (
    b"bokl\x01\x00\x00\x00"  # magic, version 1, flags, reserved
    b"\x03\x00\x00\x00\x07\x00\x00\x00abc"  # 3 bytes of body, kind 7, no attachment
    b"\x12\x00\x00\x00\xff\x00\x02\x00"  # 18 bytes of body, kind 255, two attachments
    b"\x05\x00\x00\x00\x03\x00\x00\x00hdpay-1two"
    b"\x00\x00\x00\x00\x00\x00\x00\x00"  # the empty message
)
GOLDEN_MESSAGES = [(7, b"abc", []), (255, b"hd", [b"pay-1", b"two"]), (0, b"", [])]


def plain(messages: list[WireMessage]) -> list[tuple[int, bytes, list[bytes]]]:
    return [(kind, bytes(head), [bytes(part) for part in parts]) for kind, head, parts in messages]


def greeted_reader(**options: int) -> MessageReader:
    reader = MessageReader(**options)
    assert reader.feed(PREAMBLE) == []
    return reader


def header(body_bytes: int, *, kind: int = 1, flags: int = 0, count: int = 0) -> bytes:
    return struct.pack("<IBBH", body_bytes, kind, flags, count)


def test_encoding_gives_the_golden_bytes() -> None:
    encoded = [b for message in GOLDEN_MESSAGES for b in encode_message(*message)]
    assert PREAMBLE + b"".join(encoded) == GOLDEN


def test_a_whole_stream_gives_its_messages() -> None:
    reader = MessageReader()
    assert plain(reader.feed(GOLDEN)) == GOLDEN_MESSAGES
    assert reader.greeted
    assert not reader.mid_message


def test_a_stream_split_at_any_byte_gives_the_same_messages() -> None:
    for cut in range(len(GOLDEN) + 1):
        reader = MessageReader()
        assert plain(reader.feed(GOLDEN[:cut]) + reader.feed(GOLDEN[cut:])) == GOLDEN_MESSAGES


def test_a_stream_fed_byte_by_byte_gives_the_same_messages() -> None:
    reader = MessageReader()
    fed = [reader.feed(GOLDEN[i : i + 1]) for i in range(len(GOLDEN))]
    assert plain([message for messages in fed for message in messages]) == GOLDEN_MESSAGES


def test_trailing_bytes_wait_for_the_rest_of_their_message() -> None:
    reader = MessageReader()
    assert plain(reader.feed(GOLDEN + GOLDEN[8:15])) == GOLDEN_MESSAGES
    assert reader.mid_message
    assert plain(reader.feed(GOLDEN[15:19])) == GOLDEN_MESSAGES[:1]
    assert not reader.mid_message


def test_half_a_preamble_is_neither_greeting_nor_error() -> None:
    reader = MessageReader()
    assert reader.feed(PREAMBLE[:5]) == []
    assert (reader.greeted, reader.mid_message) == (False, True)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        bytes(64),
        b"\xff" * 64,
        b"bokl\x00\x00\x00\x00",
        b"bokl\x01\x01\x00\x00",
        b"bokl\x01\x00\x00\x01",
    ],
)
def test_a_wrong_preamble_is_refused(garbage: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        MessageReader().feed(garbage)


def test_a_newer_wire_version_is_named_with_ours() -> None:
    with pytest.raises(FormatTooNew, match="has format 2: this version reads up to 1"):
        MessageReader().feed(b"bokl\x02\x00\x00\x00")


def test_message_flags_are_refused_until_a_version_has_some() -> None:
    with pytest.raises(RemoteProtocolError, match="flags 0x04"):
        greeted_reader().feed(header(0, flags=4))


def test_a_message_over_the_limit_is_refused_from_its_header_alone() -> None:
    reader = greeted_reader(message_bytes_max=1_000)
    with pytest.raises(RemoteProtocolError, match=r"of 1001 bytes: the limit is 1000 bytes"):
        reader.feed(header(1_001 - HEADER_BYTES))
    assert not _memory_over(reader, SCRATCH_BYTES_MAX)


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    reader = greeted_reader(message_bytes_max=1_000)
    body = bytes(1_000 - HEADER_BYTES)
    assert plain(reader.feed(header(len(body)) + body)) == [(1, body, [])]


def test_the_largest_announcement_is_refused_by_the_default_limit() -> None:
    with pytest.raises(RemoteProtocolError, match="4294967303 bytes"):
        greeted_reader().feed(b"\xff\xff\xff\xff\x01\x00\x00\x00")


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"\x01\x00\x00", 1),  # no room for one length
        (b"\x01\x00\x00\x00", 1),  # the attachment is not there
        (b"\xff\xff\xff\xff....", 1),
        (b"\x02\x00\x00\x00\x03\x00\x00\x00abcd", 2),
        (b"abcd", 65_535),
    ],
)
def test_attachments_that_overrun_their_body_are_refused(body: bytes, count: int) -> None:
    with pytest.raises(RemoteProtocolError, match="attachments"):
        greeted_reader().feed(header(len(body), count=count) + body)


def test_attachments_that_overrun_a_large_body_are_refused() -> None:
    body = struct.pack("<I", 2 * SCRATCH_BYTES_MAX) + bytes(2 * SCRATCH_BYTES_MAX - 4)
    reader = greeted_reader()
    with pytest.raises(RemoteProtocolError, match="attachments"):
        reader.feed(header(len(body), count=1) + body)
    with pytest.raises(RemoteProtocolError, match="attachments"):
        reader.get_buffer(1)


def test_messages_before_a_broken_place_are_handed_out_and_then_the_error_is_raised() -> None:
    reader = MessageReader()
    assert plain(reader.feed(GOLDEN + header(0, flags=1))) == GOLDEN_MESSAGES
    assert isinstance(reader.error, RemoteProtocolError)
    with pytest.raises(RemoteProtocolError, match="flags 0x01"):
        reader.feed(GOLDEN[8:])


def test_a_broken_reader_repeats_its_error() -> None:
    reader = MessageReader()
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="the stream starts with"):
            reader.feed(b"SSH-2.0-")
    assert reader.error is not None


def test_messages_handed_out_are_not_overwritten_by_later_reads() -> None:
    reader = greeted_reader()
    kept: list[WireMessage] = []
    sent = [(n % 256, bytes([n % 251]) * 700, [bytes([n % 241]) * 500]) for n in range(400)]
    stream = b"".join(b for message in sent for b in encode_message(*message))
    for start in range(0, len(stream), 10_007):
        kept += reader.feed(stream[start : start + 10_007])
    assert plain(kept) == sent


def test_handed_out_slices_are_read_only() -> None:
    reader = greeted_reader()
    large = encode_message(1, b"h", [bytes(2 * SCRATCH_BYTES_MAX)])
    small = encode_message(1, b"h", [b"payload"])
    for _, head, (payload,) in reader.feed(b"".join(large + small)):
        assert head.readonly
        assert payload.readonly


def test_a_message_larger_than_the_scratch_is_read_in_place() -> None:
    reader = greeted_reader()
    payload = bytes(range(256)) * 4_096  # 1 MiB
    stream = b"".join(encode_message(3, b"head", [payload]))
    assert reader.feed(stream[:100]) == []
    room = reader.get_buffer(1)
    # Exactly what is missing: a read can neither stop short of the memory nor run past the message.
    assert len(room) == len(stream) - 100
    room[:] = stream[100:]
    ((kind, head, (got,)),) = reader.buffer_updated(len(room))
    assert (kind, bytes(head), bytes(got)) == (3, b"head", payload)
    assert got.obj is room.obj
    assert plain(reader.feed(GOLDEN[8:])) == GOLDEN_MESSAGES


def test_the_room_to_read_into_is_never_empty() -> None:
    reader = greeted_reader()
    sizes = [SCRATCH_BYTES_FIRST + d for d in range(-10, 11)]
    sizes += [SCRATCH_BYTES_MAX + d for d in range(-10, 11)]
    for size in sizes:
        stream = b"".join(encode_message(1, bytes(size)))
        got: list[WireMessage] = []
        while stream:
            room = reader.get_buffer(-1)
            assert len(room) > 0
            taken = min(len(room), len(stream), 5_000)
            room[:taken] = stream[:taken]
            got += reader.buffer_updated(taken)
            stream = stream[taken:]
        assert [len(head) for _, head, _ in got] == [size]


def test_the_scratch_grows_only_for_reads_that_fill_it() -> None:
    quiet, busy = greeted_reader(), greeted_reader()
    stream = b"".join(encode_message(1, bytes(92))) * 10_000
    for start in range(0, len(stream), 1_000):
        quiet.feed(stream[start : start + 1_000])
    assert busy.feed(stream)
    assert len(quiet.get_buffer(-1)) == SCRATCH_BYTES_FIRST
    assert len(busy.get_buffer(-1)) > SCRATCH_BYTES_MAX - 100


def test_small_parts_are_joined_and_large_payloads_are_not_copied() -> None:
    large = bytes(JOIN_BYTES_MAX)
    encoded = encode_message(1, b"head", [b"a", large, b"b", b"c"])
    assert len(encoded) == 3
    assert encoded[1] is large
    assert encoded[2] == b"bc"


def test_joining_changes_no_byte() -> None:
    parts: list[Buffer] = [b"a" * n for n in (0, 1, JOIN_BYTES_MAX, JOIN_BYTES_MAX + 1, 3, 4)]
    assert b"".join(join_small(parts)) == b"".join(parts)
    assert join_small([]) == []


def test_views_of_wider_items_are_sent_by_their_bytes() -> None:
    wide = memoryview(struct.pack("<4Q", 1, 2, 3, 4)).cast("Q")
    reader = greeted_reader()
    assert plain(reader.feed(b"".join(encode_message(1, wide, [wide])))) == [
        (1, wide.tobytes(), [wide.tobytes()])
    ]


def test_a_message_the_peer_would_refuse_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "_BODY_BYTES_MAX", 100 - HEADER_BYTES)
    buffers: list[Buffer] = []
    with pytest.raises(LocalProtocolError, match="of 101 bytes: the limit is 100 bytes"):
        append_message(buffers, 1, bytes(80), [bytes(9)])
    with pytest.raises(LocalProtocolError, match="of 101 bytes"):
        append_message(buffers, 1, bytes(93))
    assert buffers == []
    assert append_message(buffers, 1, bytes(80), [bytes(8)]) == 100
    assert append_message(buffers, 1, bytes(92)) == 100


@pytest.mark.parametrize(("kind", "count"), [(256, 0), (-1, 0), (1, 65_536)])
def test_what_the_header_cannot_say_is_refused(kind: int, count: int) -> None:
    with pytest.raises(LocalProtocolError, match=r"kind|attachments"):
        encode_message(kind, b"", [b""] * count)


def _memory_over(reader: MessageReader, bytes_max: int) -> bool:
    views = (reader._scratch, reader._large)
    return any(view is not None and view.nbytes > bytes_max for view in views)


def test_no_error_leaves_the_reader_holding_more_than_its_bound() -> None:
    for first in range(256):
        reader = greeted_reader(message_bytes_max=1 << 20)
        try:
            reader.feed(bytes([first]) * 32)
        except BokilogError:
            pass
        assert not _memory_over(reader, 1 << 20)
