"""What a frame says of its records, in columns.

A client makes them, an engine checks them, the fold works by them.

Decides how columns become bytes, and which bytes of a peer are columns: they are checked as a whole
before a LocalId is given (P34). `Columns.decode` accepts nothing that the fold could trip over, and
raises nothing but `RemoteProtocolError`. Columns that got LocalIds all the same keep them: their
records count, their units are void (`Columns.malformed`).

Invariant: columns hold a checksum per record, and one per block of a large one, so that whoever
reads bytes can verify them (P29).

Does not know: headers, LocalIds, seqnums. Source: LIMITS point 4 (columns, not rows); differs from
Boki, whose unit of replication is the record.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from itertools import accumulate, chain
from typing import Final, Literal, TypeAlias, cast

from xxhash import xxh3_64_intdigest

from bokilog.codec import listed, natural, naturals, pack, row, text, unpack
from bokilog.errors import RemoteProtocolError
from bokilog.ids import BookNumber
from bokilog.limits import (
    BLOCK_BYTES,
    CONDITIONS_MAX,
    FRAME_BYTES_MAX,
    INFLIGHT_RECORDS_MAX,
    KEY_BYTES_MAX,
    RECORD_BYTES_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
    UNIT_BYTES_MAX,
    UNIT_RECORDS_MAX,
)
from bokilog.record import SYSTEM_TAG_PREFIX, Buffer

Tags: TypeAlias = str | list[str] | None
"""One record's tags as they stand in a column: none, one, or several."""

DIGEST_BYTES: Final = 16

_SWAP: Final = sys.byteorder == "big"
_TEXT_BYTES_MAX: Final = max(TAG_BYTES_MAX, KEY_BYTES_MAX)
"""Every text in columns is a tag or a key: the decoder itself refuses longer ones."""
assert TAG_BYTES_MAX == KEY_BYTES_MAX == _TEXT_BYTES_MAX, (
    "else lengths are to be checked one by one"
)
assert RECORD_BYTES_MAX == UNIT_BYTES_MAX, "else a record in a unit is to be checked by itself"


class Columns:
    """What a frame says of its records, one list or array per kind of thing.

    `books` is one number when all units belong to one LogBook (the usual case), else one per unit.
    `unit_records` is None when every unit is a single record, else the number of records of each
    unit. `lengths`, `sums` and `tags` have one entry per record; `blocks` holds one checksum per
    64 KiB block of the records that are larger than a block, in order. `unless` and `keys` name the
    few units that have them.
    """

    __slots__ = (
        "blocks",
        "books",
        "encoded",
        "keys",
        "lengths",
        "payload_bytes",
        "problem",
        "sums",
        "system_units",
        "tags",
        "unit_records",
        "units",
        "unless",
    )

    def __init__(
        self,
        *,
        books: int | list[int],
        unit_records: list[int] | None,
        tags: list[Tags],
        lengths: array[int],
        sums: array[int],
        blocks: array[int],
        unless: list[tuple[int, list[tuple[str | None, int]]]],
        keys: list[tuple[int, str, bytes, int]],
    ) -> None:
        self.books = books
        self.unit_records = unit_records
        self.tags = tags
        self.lengths = lengths
        self.sums = sums
        self.blocks = blocks
        self.unless = unless
        """(unit, [(tag or None, after), ...])"""
        self.keys = keys
        """(unit, key, 16-byte hash over tags and bytes, horizon in s)"""
        self.units = len(tags) if unit_records is None else len(unit_records)
        self.payload_bytes = sum(lengths)
        self.system_units = _system_units(tags, unit_records)
        """Units with a tag of the libraries', ascending: they are void if its library has ended it,
        which only the fold knows (P22).
        """
        self.encoded: bytes = b""
        self.problem = ""
        """Why these columns are `malformed`; empty for all that decode."""

    @property
    def records(self) -> int:
        """How many records, and so how many seqnums, the frame takes."""
        return len(self.tags)

    @property
    def needs_verdict(self) -> bool:
        """Whether the outcome of some unit is decided in the fold, not by the order alone."""
        return bool(self.unless or self.keys or self.system_units or self.problem)

    def encode(self) -> bytes:
        """The columns as bytes; made once, kept."""
        if not self.encoded:
            self.encoded = pack(
                (
                    self.books,
                    self.unit_records,
                    self.tags,
                    _to_bytes(self.lengths),
                    _to_bytes(self.sums),
                    _to_bytes(self.blocks),
                    self.unless,
                    self.keys,
                )
            )
        return self.encoded

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Columns:
        """Columns from a peer's bytes, checked in full.

        Raises:
            RemoteProtocolError: something does not fit; nothing of the frame may be used (P34).
        """
        parts = row(unpack(data, text_bytes_max=_TEXT_BYTES_MAX), 8)
        books, unit_records, tags, lengths, sums, blocks, unless, keys = parts
        if not type(lengths) is type(sums) is type(blocks) is bytes:
            raise _bad("number columns that are not bytes")
        if len(lengths) % 4 or len(sums) % 8 or len(blocks) % 8:
            raise _bad("number columns of odd sizes")
        columns = cls.__new__(cls)
        columns.tags = check_tags(tags)
        columns.units = check_units(unit_records, len(tags))
        columns.books = check_books(books, columns.units)
        columns.unit_records = unit_records
        columns.lengths = _from_bytes("I", lengths)
        columns.sums = _from_bytes("Q", sums)
        columns.blocks = _from_bytes("Q", blocks)
        columns.payload_bytes = sum(columns.lengths)
        columns.system_units = _system_units(tags, unit_records)
        columns.unless = _checked_conditions(unless, columns.units) if unless != [] else []
        columns.keys = _checked_keys(keys, columns.units) if keys != [] else []
        columns.encoded = bytes(data)
        columns.problem = ""
        columns._check_sizes()
        return columns

    @classmethod
    def malformed(
        cls, encoded: bytes, problem: str, *, units: int, records: int, payload_bytes: int
    ) -> Columns:
        """Columns that an engine signed and that do not decode: nothing of them is used but what
        their header says of them, since these records have LocalIds and are ordered like others
        (P34).

        Raises:
            RemoteProtocolError: not even the header may be one of an engine.
        """
        if not (0 < units <= records <= INFLIGHT_RECORDS_MAX and encoded):
            raise _bad(f"{units} units of {records} records, and {problem}")
        columns = cls(
            books=[],
            unit_records=None if units == records else [1] * (units - 1) + [records - units + 1],
            tags=[None] * records,
            lengths=array("I", bytes(4 * records)),
            sums=array("Q", bytes(8 * records)),
            blocks=array("Q"),
            unless=[],
            keys=[],
        )
        columns.payload_bytes, columns.encoded, columns.problem = payload_bytes, encoded, problem
        return columns

    def _check_sizes(self) -> None:
        """Counts and lengths agree, and are within the limits."""
        if not len(self.lengths) == len(self.sums) == len(self.tags) <= INFLIGHT_RECORDS_MAX:
            raise _bad(f"columns of different lengths, or of over {INFLIGHT_RECORDS_MAX} records")
        blocks = 0
        if self.payload_bytes > BLOCK_BYTES:  # else no record is larger than a block
            most = UNIT_BYTES_MAX if self.units == 1 else FRAME_BYTES_MAX
            if self.payload_bytes > most:
                raise _bad(f"{self.units} units of over {most} bytes")
            if max(self.lengths) > BLOCK_BYTES:
                blocks = sum(map(block_count, self.lengths))
        if len(self.blocks) != blocks:
            raise _bad("block checksums that do not match the lengths")

    def unit_bounds(self) -> list[tuple[int, int]]:
        """[start, until) of each unit's records inside the frame."""
        if self.unit_records is None:
            return [(i, i + 1) for i in range(len(self.tags))]
        bounds, start = [], 0
        for count in self.unit_records:
            bounds.append((start, start + count))
            start += count
        return bounds

    def book_of(self, unit: int) -> BookNumber:
        """The LogBook that a unit belongs to."""
        return BookNumber(self.books if isinstance(self.books, int) else self.books[unit])


# --- checksums ----------------------------------------------------------------------------------


def first_bad_record(columns: Columns, payload: memoryview) -> int | None:
    """Index of the first record whose bytes do not match their checksum."""
    if columns.problem:
        return None  # nobody knows their checksums, and nobody reads them
    if not columns.blocks:  # small records only: one pass without a branch per record
        ends = list(accumulate(columns.lengths))
        starts = [0, *ends]
        found = [xxh3_64_intdigest(payload[a:b]) for a, b in zip(starts, ends, strict=False)]
        if found == columns.sums.tolist():
            return None
    start = block = 0
    for index, (length, expected) in enumerate(zip(columns.lengths, columns.sums, strict=True)):
        data = payload[start : start + length]
        if length <= BLOCK_BYTES:
            if xxh3_64_intdigest(data) != expected:
                return index
        else:
            blocks = columns.blocks[block : block + block_count(length)]
            block += len(blocks)
            if record_sum(data) != (expected, blocks):
                return index
        start += length
    return None


def record_sum(data: Buffer) -> tuple[int, array[int]]:
    """A record's checksum, and one per 64 KiB block if it is larger than a block.

    A large record's checksum is that of its blocks' checksums, so that its bytes are hashed once.
    """
    blocks: array[int] = array("Q")
    if len(data) <= BLOCK_BYTES:
        return xxh3_64_intdigest(data), blocks
    view = memoryview(data)
    for start in range(0, len(view), BLOCK_BYTES):
        blocks.append(xxh3_64_intdigest(view[start : start + BLOCK_BYTES]))
    return xxh3_64_intdigest(_to_bytes(blocks)), blocks


def block_count(length: int) -> int:
    """How many block checksums a record of `length` bytes has."""
    return -(-length // BLOCK_BYTES) if length > BLOCK_BYTES else 0


def _to_bytes(numbers: array[int]) -> bytes:
    if _SWAP:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(typecode: Literal["I", "Q"], data: bytes) -> array[int]:
    numbers = array(typecode, data)
    if _SWAP:
        numbers.byteswap()
    return numbers


# --- columns of a peer, checked -------------------------------------------------------------------


def check_books(books: object, units: int) -> int | list[int]:
    """The LogBooks of `units` units: one number, or one per unit.

    Raises:
        RemoteProtocolError: anything else.
    """
    if type(books) is not list:
        return natural(books)
    if len(books) != units:
        raise _bad("books and units of different lengths")
    return naturals(books)


def check_units(unit_records: object, records: int) -> int:
    """How many units these are: None stands for one per record.

    Raises:
        RemoteProtocolError: a unit of no or too many records, or units that are not the records.
    """
    if unit_records is None:
        return records
    counts = naturals(unit_records)
    if not counts or min(counts) < 1 or max(counts) > UNIT_RECORDS_MAX:
        raise _bad(f"a unit of no or over {UNIT_RECORDS_MAX} records")
    if sum(counts) != records:
        raise _bad("units that do not cover the records")
    return len(counts)


def check_tags(tags: object) -> list[Tags]:
    """A column of tags, without a Python loop in the usual cases: one string for every record, or
    a list for every record.

    Their lengths are the decoder's business (`text_bytes_max`).

    Raises:
        RemoteProtocolError: no records, an empty tag, one that is not text, twice the same, too
            many.
    """
    if type(tags) is not list or not tags:
        raise _bad("no column of tags")
    try:
        "".join(tags)  # the quickest way to see that all are strings
    except TypeError:
        if not _are_lists_of_tags(tags):
            for tag in tags:
                _check_record_tags(tag)
    else:
        if not all(tags):
            raise _bad("an empty tag")
    return cast("list[Tags]", tags)


def _are_lists_of_tags(column: list[object]) -> bool:
    """Whether every record has a list of tags, all of them well-formed: six passes in C."""
    if set(map(type, column)) != {list}:
        return False
    lists = cast("list[list[str]]", column)
    flat = list(chain.from_iterable(lists))
    try:
        "".join(flat)
    except TypeError:
        return False
    if not all(flat):
        return False
    counts = list(map(len, lists))
    return 0 < min(counts) <= max(counts) <= TAGS_MAX and sum(map(len, map(set, lists))) == len(
        flat
    )


def _system_units(tags: list[Tags], unit_records: list[int] | None) -> tuple[int, ...]:
    """Units with a tag that starts with `$`; no Python loop where no tag has one anywhere."""
    try:
        together = "".join(tags)  # type: ignore[arg-type]  # else: the TypeError
    except TypeError:
        together = "".join(chain.from_iterable(filter(None, tags)))
    if SYSTEM_TAG_PREFIX not in together:
        return ()
    marked = [record for record, each in enumerate(tags) if _is_system(each)]
    if unit_records is None or not marked:
        return tuple(marked)
    ends = list(accumulate(unit_records))
    return tuple(dict.fromkeys(bisect_right(ends, record) for record in marked))


def _is_system(tags: Tags) -> bool:
    if isinstance(tags, str):
        return tags.startswith(SYSTEM_TAG_PREFIX)
    return tags is not None and any(tag.startswith(SYSTEM_TAG_PREFIX) for tag in tags)


def _check_record_tags(tags: object) -> None:
    if tags is None:
        return
    several = [tags] if type(tags) is str else tags
    if type(several) is not list or not 0 < len(several) <= TAGS_MAX:
        raise _bad(f"no or over {TAGS_MAX} tags on a record, or a tag that is not text")
    if set(map(type, several)) != {str} or not all(several):
        raise _bad("a tag that is not text, or an empty one")
    if len(set(several)) != len(several):
        raise _bad("the same tag twice on a record")


def _checked_conditions(
    plain: object, units: int
) -> list[tuple[int, list[tuple[str | None, int]]]]:
    checked: dict[int, list[tuple[str | None, int]]] = {}
    for part in listed(plain):
        unit, tests = row(part, 2)
        if natural(unit) >= units or unit in checked:
            raise _bad("conditions of a unit that is not there, or twice of one that is")
        if not 0 < len(listed(tests)) <= CONDITIONS_MAX:
            raise _bad(f"no or over {CONDITIONS_MAX} conditions of a unit")
        checked[unit] = [_checked_condition(test) for test in tests]
    return list(checked.items())


def _checked_condition(plain: object) -> tuple[str | None, int]:
    tag, after = row(plain, 2)
    if tag is not None and not text(tag):
        raise _bad("a condition on an empty tag")
    return tag, natural(after)


def _checked_keys(plain: object, units: int) -> list[tuple[int, str, bytes, int]]:
    checked: dict[int, tuple[int, str, bytes, int]] = {}
    for part in listed(plain):
        unit, key, digest, horizon_s = row(part, 4)
        if natural(unit) >= units or unit in checked:
            raise _bad("a key of a unit that is not there, or two of one that is")
        if not text(key):
            raise _bad("an empty key")
        if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
            raise _bad(f"a key without a hash of {DIGEST_BYTES} bytes")
        checked[unit] = unit, key, digest, natural(horizon_s)
    return list(checked.values())


def _bad(problem: str) -> RemoteProtocolError:
    return RemoteProtocolError(problem=f"a frame with {problem}")
