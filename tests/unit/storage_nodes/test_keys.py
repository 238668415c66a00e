"""Golden bytes: what is on users' disks. A changed hex string here is a format change."""

from array import array

import pytest

from bokilog.codec import pack
from bokilog.conditions import KeyUse
from bokilog.errors import FormatTooNew
from bokilog.ids import Position, Term
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.keys import Meta, RowColumns, StoredBook, StoredShard

META = Meta(3, Position(Term(2), 70000), 1 << 40, 1_700_000_000_000, 2**64 - 1, 12, b"hint")
BOOK = StoredBook(77, False, True, {"report": (90, 1_700_000_000_000)})
SHARDS = {9: StoredShard("engine-1", ("s-1", "s-2"), 300)}
USE = KeyUse(513, 3, bytes(range(16)), 1_700_000_000_000)
VERDICTS: list[list[object]] = [[0, 0, 5, None], [1, 1, "t", 4]]
ROWS = RowColumns(
    array("Q", [1, 4]),
    array("Q", [1000, 1001]),
    array("Q", [7, 8]),
    array("Q", [4096, 80]),
    array("I", [300, 200]),
    array("I", [3, 2]),
    {1: (0, 2)},
)


def test_golden_keys() -> None:
    prefix = keys.postings_prefix(5, "é")
    assert prefix.hex() == "500000000000000005" + "0002" + "c3a9"
    assert keys.postings_key(prefix, 258).hex() == prefix.hex() + "0000000000000102"
    assert keys.postings_prefix(5, "").hex() == "500000000000000005" + "0000"
    assert keys.numbered(keys.ROWS, 258).hex() == "4c" + "0000000000000102"
    assert keys.time_key(1000, 258).hex() == "54" + "00000000000003e8" + "0000000000000102"
    assert keys.numbered(keys.BOOKS, 5).hex() == "42" + "0000000000000005"
    assert keys.named(keys.TAG_TRIMS, 5, "a").hex() == "52" + "0000000000000005" + "61"
    assert keys.named(keys.ENDED, 5, "$w").hex() == "58" + "0000000000000005" + "2477"
    assert keys.named(keys.KEYS, 5, "k").hex() == "4b" + "0000000000000005" + "6b"
    assert keys.numbered(keys.VERDICTS, 258).hex() == "56" + "0000000000000102"
    expiry = keys.expiry_key(1000, 258, 1)
    assert expiry.hex() == "45" + "00000000000003e8" + "0000000000000102" + "00000001"
    assert keys.numbered(keys.AUX, 258).hex() == "41" + "0000000000000102"
    assert keys.numbered(keys.SEGMENTS, 7).hex() == "47" + "0000000000000007"
    assert (keys.META, keys.SHARDS, keys.CLOSED) == (b"M", b"S", b"C")


def test_golden_postings() -> None:
    postings = array("Q", [1, 258])
    plain = "0100000000000000" + "0201000000000000"
    assert keys.encode_postings(postings).hex() == plain
    assert keys.encode_postings(postings, ordinal=3).hex() == "0300000000000000" + plain


def test_golden_rows() -> None:
    assert keys.encode_rows(ROWS).hex() == (
        "0200000000000000"  # rows, reserved
        "01000000000000000400000000000000"  # first seqnums
        "e803000000000000e903000000000000"  # timestamps
        "07000000000000000800000000000000"  # segments
        "00100000000000005000000000000000"  # offsets
        "2c010000c8000000"  # lengths
        "0300000002000000"  # records
        "919201920002"  # void units: row 1, units 0 and 2
    )


def test_golden_small_values() -> None:
    assert keys.encode_meta(META).hex() == (
        "9801039202ce00011170cf0000010000000000cf0000018bcfe56800cfffffffffffffffff0cc40468696e74"
    )
    assert keys.encode_shards(SHARDS).hex() == "919409a8656e67696e652d3192a3732d31a3732d32cd012c"
    assert keys.encode_closed({300, 8}).hex() == "9208cd012c"
    assert keys.encode_book(BOOK).hex() == "944dc2c39193a67265706f72745acf0000018bcfe56800"
    assert keys.encode_key_use(USE).hex() == (
        "0102000000000000" + "03000000" + "0068e5cf8b010000" + bytes(range(16)).hex()
    )
    assert keys.encode_verdicts(VERDICTS).hex() == "9294000005c0940101a17404"
    assert keys.encode_expiring([b"Kx"]).hex() == "91c4024b78"
    assert keys.encode_segment({5: 300}).hex() == "919205cd012c"
    assert keys.encode_number(258).hex() == "0201000000000000"


def test_values_come_back() -> None:
    postings = array("Q", [1, 258])
    chunk = keys.encode_postings(postings, ordinal=3)
    assert list(keys.decode_postings(chunk, whole_book=True)) == [1, 258]
    assert keys.ordinal_of(chunk) == 3
    decoded = keys.decode_rows(keys.encode_rows(ROWS))
    assert [list(column) for column in decoded[:6]] == [list(column) for column in ROWS[:6]]
    assert decoded.voids == ROWS.voids
    assert keys.decode_meta(keys.encode_meta(META)) == META
    assert keys.decode_shards(keys.encode_shards(SHARDS)) == SHARDS
    assert keys.decode_closed(keys.encode_closed({300, 8})) == {300, 8}
    assert keys.decode_book(keys.encode_book(BOOK)) == BOOK
    assert keys.decode_key_use(keys.encode_key_use(USE)) == USE
    assert keys.decode_verdicts(keys.encode_verdicts(VERDICTS)) == VERDICTS
    assert keys.decode_segment(keys.encode_segment({5: 300})) == {5: 300}
    assert keys.encode_spans({5: (300, 7)}).hex() == "919305cd012c07"
    assert keys.decode_spans(keys.encode_spans({5: (300, 7)})) == {5: (300, 7)}
    kept = keys.StoredBook(1, False, False, {}, 60_000, 9)
    assert keys.decode_book(keys.encode_book(kept)) == kept


def test_parts_of_keys_come_back() -> None:
    key = keys.postings_key(keys.postings_prefix(5, "é"), 258)
    assert (keys.book_of(key), keys.tag_of(key), keys.number_of(key)) == (5, "é", 258)
    key = keys.named(keys.TAG_TRIMS, 5, "é")
    assert (keys.book_of(key), keys.name_of(key)) == (5, "é")


def test_tags_of_different_lengths_do_not_mix() -> None:
    """Without its length, tag "a" at some seqnum could be read as a longer tag."""
    chunks = [keys.postings_key(keys.postings_prefix(5, tag), 1) for tag in ("a", "aa", "b")]
    for tag in ("a", "aa", "b"):
        prefix = keys.postings_prefix(5, tag)
        assert sum(chunk.startswith(prefix) for chunk in chunks) == 1


def test_a_store_of_a_later_version_is_refused() -> None:
    with pytest.raises(FormatTooNew, match="format 2"):
        keys.decode_meta(pack((2, 3, (0, 0), 1, 0, 0, 0, b"")))
