"""A frame's bytes are meant to stay, and nothing that does not fit gets a LocalId (P29, P34)."""

from __future__ import annotations

import pytest
from xxhash import xxh3_64_intdigest

from bokilog.codec import pack, unpack
from bokilog.columns import (
    Columns,
    Tags,
    block_count,
    check_tags,
    first_bad_record,
    record_sum,
)
from bokilog.errors import RemoteProtocolError
from bokilog.frame import (
    HEADER_BYTES,
    Frame,
    decode_columns,
    decode_frame,
    decode_head,
    encode_header,
    one_buffer,
    verify_frame,
)
from bokilog.limits import (
    BLOCK_BYTES,
    CONDITIONS_MAX,
    FRAME_BYTES_MAX,
    INFLIGHT_RECORDS_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
    UNIT_RECORDS_MAX,
)
from bokilog.record import Buffer
from tests.frames import SHARD, columns_of, frame_of

PAYLOAD = [b"one", b"", b"three"]
RICH = columns_of(
    PAYLOAD,
    tags=["order:42", None, ["a", "b"]],
    books=[7, 9],
    unit_records=[1, 2],
    unless=[(1, [("a", 5), (None, 0)])],
    keys=[(0, "k", bytes(range(16)), 604800)],
)


def flat(buffers: list[Buffer]) -> bytes:
    return b"".join(map(bytes, buffers))


# --- bytes that are meant to stay -----------------------------------------------------------------


def test_columns_of_version_1_keep_their_bytes() -> None:
    assert RICH.encode().hex() == GOLDEN_COLUMNS


def test_a_header_of_version_1_keeps_its_bytes() -> None:
    header = encode_header(shard=SHARD, first=40, columns=RICH)
    assert header.hex() == GOLDEN_HEADER


def test_a_frame_of_version_1_keeps_its_bytes() -> None:
    frame = frame_of(RICH, PAYLOAD, first=40)
    assert flat(frame.buffers()).hex() == GOLDEN_HEADER + GOLDEN_COLUMNS + flat([*PAYLOAD]).hex()


def test_a_large_record_has_the_checksum_of_its_blocks() -> None:
    data = bytes(range(256)) * 1024  # four blocks
    total, blocks = record_sum(data)
    assert (f"{total:016x}", [f"{block:016x}" for block in blocks]) == GOLDEN_LARGE


GOLDEN_COLUMNS = (
    "9892070992010293a86f726465723a3432c092a161a162c40c030000000000000005000000c418a0e11f32a7"
    "ab1f91c294d3380580062d85e3a3b35ef11dc1c4009192019292a1610592c000919400a16bc4100001020304"
    "05060708090a0b0c0d0e0fce00093a80"
)
GOLDEN_HEADER = (
    "626b463101010000010000000200000003000000000000002800000000000000030000000200000068000000"
    "0000000008000000000000003fc8827027e99c2f"
)
GOLDEN_LARGE = (
    "1033e81d75ca7909",
    ["9a1db56d610a5516", "9a1db56d610a5516", "9a1db56d610a5516", "9a1db56d610a5516"],
)

# --- there and back -------------------------------------------------------------------------------


def same(one: Columns, other: Columns) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in Columns.__slots__)


@pytest.mark.parametrize("whole", [True, False])
def test_a_frame_comes_back_as_it_was(whole: bool) -> None:
    frame = frame_of(RICH, PAYLOAD, first=40)
    buffers = frame.buffers()
    decoded = decode_frame(flat(buffers) if whole else buffers)
    assert (decoded.shard, decoded.first, decoded.until) == (SHARD, 40, 43)
    assert same(decoded.columns, RICH)
    assert [bytes(decoded.record(i, offset)) for i, offset in ((0, 0), (1, 3), (2, 3))] == PAYLOAD
    assert decoded.checksum == frame.checksum
    assert decoded.size_bytes == frame.size_bytes == len(flat(buffers))
    assert flat(decoded.buffers()) == flat(buffers), "nobody re-encodes a frame"


def test_a_frame_without_its_payload_is_columns() -> None:
    header, encoded, *_ = frame_of(RICH, PAYLOAD).buffers()
    assert same(decode_columns(bytes(header), bytes(encoded)).columns, RICH)


def test_a_head_says_how_much_there_is_to_read() -> None:
    data = flat(frame_of(RICH, PAYLOAD, first=40).buffers())
    head = decode_head(data)
    assert (head.shard, head.first, head.records, head.units) == (SHARD, 40, 3, 2)
    assert (head.payload_bytes, head.frame_bytes) == (8, len(data))


def test_units_and_their_logbooks_are_found() -> None:
    assert RICH.unit_bounds() == [(0, 1), (1, 3)]
    assert [RICH.book_of(0), RICH.book_of(1)] == [7, 9]
    single = columns_of([b"a", b"b"])
    assert single.unit_bounds() == [(0, 1), (1, 2)]
    assert (single.book_of(1), single.units, single.records) == (7, 2, 2)


@pytest.mark.parametrize(
    ("columns", "needs"),
    [
        (columns_of([b"a"]), False),
        (columns_of([b"a"], unless=[(0, [("t", 0)])]), True),
        (columns_of([b"a"], keys=[(0, "k", bytes(16), 1)]), True),
    ],
)
def test_the_header_tells_that_a_verdict_is_needed(columns: Columns, needs: bool) -> None:
    assert columns.needs_verdict is needs
    head = decode_head(encode_header(shard=SHARD, first=0, columns=columns))
    assert bool(head.flags & 1) is needs


# --- what a journal and a reader verify -----------------------------------------------------------


def test_a_frame_is_whole_only_with_every_byte() -> None:
    data = flat(frame_of(RICH, PAYLOAD).buffers())
    assert verify_frame(data)
    for place in range(len(data)):
        torn = bytearray(data)
        torn[place] ^= 1
        assert not verify_frame(torn), f"byte {place}"
    assert not verify_frame(data[:-1])
    assert not verify_frame(data + b"x")


def test_the_first_record_that_was_changed_is_named() -> None:
    payload = [b"x" * 10, b"y" * (BLOCK_BYTES + 1), b"z" * (3 * BLOCK_BYTES), b"w"]
    columns = columns_of(payload)
    joined = bytearray(b"".join(payload))
    assert first_bad_record(columns, memoryview(joined)) is None
    for record, place in ((0, 3), (1, 10 + BLOCK_BYTES), (2, len(joined) - 2), (3, -1)):
        changed = bytearray(joined)
        changed[place] ^= 1
        assert first_bad_record(columns, memoryview(changed)) == record


@pytest.mark.parametrize(
    ("length", "blocks"),
    [(0, 0), (BLOCK_BYTES, 0), (BLOCK_BYTES + 1, 2), (2 * BLOCK_BYTES, 2)],
)
def test_only_records_over_a_block_have_block_checksums(length: int, blocks: int) -> None:
    assert block_count(length) == blocks == len(record_sum(bytes(length))[1])


def test_a_payload_in_pieces_becomes_one() -> None:
    assert one_buffer([b"ab", b"c"]) == [b"abc"]
    assert one_buffer([]) == [b""]


# --- what is refused ------------------------------------------------------------------------------


def changed(place: int, value: object, *, of: Columns = RICH) -> bytes:
    parts = unpack(of.encode())
    parts[place] = value
    return pack(parts)


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


BOOKS, UNITS, TAGS, LENGTHS, SUMS, BLOCKS, UNLESS, KEYS = range(8)
KEY: list[object] = [0, "k", bytes(16), 1]


MISFITS: list[tuple[int, list[object]]] = [
    (BOOKS, [None, True, -1, 2**63, "7", {}]),
    (BOOKS, [[7], [7, 9, 9], [7, True], [7, -1], [7, None]]),
    (UNITS, [[], [1, 1], [1, 3], [0, 3], [3, 0], [-1, 4], [True, 2], [1, "2"], 2, "12", {}]),
    (TAGS, [[], None, "abc", ["a", "b"], ["a", "", "c"], ["a", b"b", 1], ["a", True, "c"]]),
    (TAGS, [["a", [], "c"], ["a", [""], "c"], ["a", ["b", "b"], "c"], ["a", [None], "c"]]),
    (TAGS, [["a", ["b", 1], "c"], ["a", [str(n) for n in range(TAGS_MAX + 1)], "c"]]),
    (TAGS, [["a", "b", "x" * (TAG_BYTES_MAX + 1)], ["a", "b", "é" * (TAG_BYTES_MAX // 2 + 1)]]),
    (LENGTHS, [None, [3, 0, 5], "abc", b"", b"\0" * 11, numbers(3, 0)]),
    (LENGTHS, [numbers(3, 0, BLOCK_BYTES + 1)]),  # and no blocks
    (SUMS, [None, [1, 2, 3], b"", b"\0" * 16, b"\0" * 23]),
    (BLOCKS, [None, [], b"\0" * 8, b"\0" * 7]),
    (UNLESS, [None, {}, [[]], [[0]], [[0, []]], [[0, None]], [0]]),
    (UNLESS, [[[unit, [["t", 0]]]] for unit in (-1, 2, True, None, "0")]),
    (UNLESS, [[[0, [["t", after]]]] for after in (-1, 2**63, True, None, 1.0)]),
    (UNLESS, [[[0, [[tag, 0]]]] for tag in ("", 1, b"t", "x" * (TAG_BYTES_MAX + 1))]),
    (UNLESS, [[[0, [test]]] for test in (["t"], [], ["t", 0, 0], "t0", None)]),
    (UNLESS, [[[0, [["t", 0]]], [0, [["u", 0]]]], [[0, [["t", 0]] * (CONDITIONS_MAX + 1)]]]),
    (KEYS, [None, {}, [[]], [KEY[:3]], [[*KEY, 1]], [KEY, KEY]]),
    (KEYS, [[[unit, *KEY[1:]]] for unit in (-1, 2, True, None)]),
    (KEYS, [[[0, key, *KEY[2:]]] for key in ("", None, b"k", 1, "x" * 257)]),
    (KEYS, [[[0, "k", digest, 1]] for digest in (None, b"", bytes(15), bytes(17), "x" * 16)]),
    (KEYS, [[[0, "k", bytes(16), horizon]] for horizon in (-1, None, 1.5, True, 2**63)]),
]


@pytest.mark.parametrize(("place", "values"), MISFITS)
def test_p34_columns_that_do_not_fit_are_refused(place: int, values: list[object]) -> None:
    for value in values:
        with pytest.raises(RemoteProtocolError):
            Columns.decode(changed(place, value))


def test_p34_the_largest_values_are_taken() -> None:
    columns = Columns.decode(changed(UNLESS, [[1, [["x" * TAG_BYTES_MAX, 2**63 - 1]]]]))
    assert columns.unless == [(1, [("x" * TAG_BYTES_MAX, 2**63 - 1)])]
    columns = Columns.decode(changed(TAGS, ["é" * 128, None, [str(n) for n in range(TAGS_MAX)]]))
    assert columns.tags[0] == "é" * 128


def test_p34_a_unit_has_at_most_so_many_records() -> None:
    payload = [b""] * (UNIT_RECORDS_MAX + 1)
    for unit_records in ([UNIT_RECORDS_MAX, 1], [1, UNIT_RECORDS_MAX]):
        assert Columns.decode(columns_of(payload, unit_records=unit_records).encode()).units == 2
    with pytest.raises(RemoteProtocolError, match="over 1000 records"):
        Columns.decode(columns_of(payload, unit_records=[len(payload)]).encode())


def test_p34_a_frame_of_several_units_is_at_most_so_large() -> None:
    half = bytes(FRAME_BYTES_MAX // 2)
    Columns.decode(columns_of([half, half]).encode())
    Columns.decode(columns_of([half, half, b"x"], unit_records=[3]).encode())  # one unit may
    with pytest.raises(RemoteProtocolError, match="3 units of over 1048576 bytes"):
        Columns.decode(columns_of([half, half, b"x"]).encode())


def test_p34_a_frame_has_at_most_so_many_records() -> None:
    with pytest.raises(RemoteProtocolError, match="over 16384 records"):
        Columns.decode(columns_of([b""] * (INFLIGHT_RECORDS_MAX + 1)).encode())


def test_text_that_is_not_utf_8_is_refused() -> None:
    encoded = columns_of([b"a"], tags=["abc"]).encode()
    with pytest.raises(RemoteProtocolError):
        Columns.decode(encoded.replace(b"abc", b"a\xffc"))
    with pytest.raises(RemoteProtocolError):  # half of a surrogate pair
        Columns.decode(encoded.replace(b"abc", b"\xed\xa0\x80"))


def signed(columns: Columns, **said: int) -> bytes:
    """A frame whose header is signed, and says something else than the columns."""
    frame = frame_of(columns, PAYLOAD)
    parts = {"magic": 0, "version": 4, "flags": 5, "records": 32, "units": 36, "payload": 48}
    header = bytearray(frame.header)
    for name, value in said.items():
        header[parts[name]] = value
    total = xxh3_64_intdigest(bytes(header[:-8]) + columns.encode())
    header[-8:] = total.to_bytes(8, "little")
    return bytes(header) + columns.encode() + b"".join(PAYLOAD)


@pytest.mark.parametrize(
    "said",
    [{"magic": 0}, {"version": 2}, {"payload": 7}, {"records": 0}, {"units": 4}, {"units": 0}],
)
def test_a_header_that_no_engine_writes_is_refused(said: dict[str, int]) -> None:
    assert decode_frame(signed(RICH)).records == 3
    with pytest.raises(RemoteProtocolError):
        decode_frame(signed(RICH, **said))


@pytest.mark.parametrize("said", [{"flags": 0}, {"records": 2}, {"records": 250}, {"units": 3}])
def test_p34_a_header_that_says_otherwise_than_its_columns_keeps_its_local_ids(
    said: dict[str, int],
) -> None:
    data = signed(RICH, **said)
    frame, head = decode_frame(data), decode_head(data)
    assert frame.columns.problem == "a header and columns that disagree"
    assert (frame.records, frame.columns.units) == (head.records, head.units)
    assert frame.until == frame.first + head.records
    bounds = frame.columns.unit_bounds()
    assert (len(bounds), bounds[-1][1]) == (head.units, head.records)


def test_p34_signed_columns_that_do_not_decode_are_a_frame_of_the_same_bytes() -> None:
    """It is journalled, verified and given to peers like any other."""
    data = undecodable()
    frame = decode_frame(data)
    assert "over 64 tags" in frame.columns.problem and frame.columns.needs_verdict
    assert flat(frame.buffers()) == data and len(data) == frame.size_bytes
    assert verify_frame(data)
    assert decode_frame(frame.buffers()).columns.problem
    with pytest.raises(RemoteProtocolError, match="checksum"):
        decode_frame(data.replace(b"t3", b"t4", 1))


def undecodable() -> bytes:
    """A frame of an engine that allows more tags than this version."""
    columns = columns_of([b"x"], tags=[[f"t{n}" for n in range(TAGS_MAX + 1)]])
    with pytest.raises(RemoteProtocolError):
        Columns.decode(columns.encode())
    return flat(frame_of(columns, [b"x"]).buffers())


def test_parts_that_are_no_frame_are_refused() -> None:
    header, encoded, *_ = map(bytes, frame_of(RICH, PAYLOAD).buffers())
    joined = b"".join(PAYLOAD)
    parts: list[list[Buffer]] = [
        [],
        [header],
        [header, encoded],
        [header, encoded, joined[:-1]],
        [header, encoded + b"\0", joined],
        [header + b"\0", encoded, joined],
        [header[:-1], encoded, joined],
        [encoded, header, joined],
    ]
    for buffers in parts:
        with pytest.raises(RemoteProtocolError):
            decode_frame(buffers)
    with pytest.raises(RemoteProtocolError):
        decode_frame(header[: HEADER_BYTES - 1])


def test_another_frame_for_the_same_local_id_has_another_identity() -> None:
    other = columns_of([b"one", b"", b"other"], tags=["order:42", None, ["a", "b"]])
    assert Frame(shard=SHARD, first=0, columns=other, payload=[]).checksum != (
        frame_of(RICH, PAYLOAD).checksum
    )


# --- columns of tags ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "last",
    [[], ["a", ""], ["a", 1], [b"a"], ["a", "a"], [f"t{n}" for n in range(TAGS_MAX + 1)], ("a",)],
    ids=["none", "empty", "number", "bytes", "twice", "too many", "tuple"],
)
def test_a_column_of_lists_of_tags_is_refused_for_one_that_is_none(last: object) -> None:
    fine = [["calls", "call:1"], ["calls", "call:2", "end:2"]]
    assert check_tags(fine) is fine
    with pytest.raises(RemoteProtocolError):
        check_tags([*fine, last])


def test_units_with_a_librarys_tag_are_found_among_records_with_several_tags() -> None:
    tags: list[Tags] = [["a", "b"], ["a", "$w"], None, "$w", ["cost:$5"]]
    assert columns_of([b""] * 5, tags=tags).system_units == (1, 3)
    assert columns_of([b""] * 5, tags=tags, unit_records=[1, 2, 2]).system_units == (1, 2)
    assert columns_of([b""] * 2, tags=[["a", "b"], None]).system_units == ()
