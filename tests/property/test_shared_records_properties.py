"""Shared records: whatever is overwritten, torn or flipped meanwhile, a reader gets what was
written at that seqnum or nothing."""

from __future__ import annotations

import random
from mmap import mmap

import pytest
from hypothesis import given, settings, strategies as st

from bokilog.shared_records import BYTES_MIN, DATA_BYTES_MAX, SharedReader, SharedWriter

TAGS = st.one_of(st.none(), st.just("order:42"), st.just(["a", "b"]))


def memory() -> mmap:
    return mmap(-1, BYTES_MIN)


def data_of(seqnum: int, size: int) -> bytes:
    return random.Random(seqnum).randbytes(size)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 60), st.integers(0, 40_000), TAGS),
        max_size=80,
    )
)
def test_a_reader_gets_what_was_written_or_nothing(
    writes: list[tuple[int, int, int, str | list[str] | None]],
) -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    written: dict[tuple[int, int], tuple[bytes, str | list[str] | None]] = {}
    for space, seqnum, size, tags in writes:
        record = written.setdefault((space, seqnum), (data_of(seqnum, size), tags))
        writer.add(space, seqnum, book=9, data=record[0], tags=record[1], timestamp_ms=seqnum)
        found = reader.find(space, 9, seqnum)
        assert found is not None, "the one just written is there"
        for (other_space, other), (data, others_tags) in written.items():
            kept = reader.find(other_space, 9, other)
            assert kept is None or kept[:2] == (data, others_tags)
            assert reader.find(other_space, 8, other) is None, "it is of another LogBook"


@settings(max_examples=100)
@given(st.integers(0, 3_000), st.binary(min_size=1, max_size=64))
def test_torn_bytes_are_never_a_record(at: int, torn: bytes) -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    data = data_of(5, 1_024)
    writer.add(0, 5, book=9, data=data, tags="x", timestamp_ms=1)
    entry_at = shared[:].index(data) - 32  # what stands before the data, and a little more
    for start in (entry_at + at, at):
        shared[start : start + len(torn)] = torn
    found = reader.find(0, 9, 5)
    assert found is None or found == (data, "x", 1)


def test_the_oldest_are_overwritten_and_known_to_be() -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    for seqnum in range(1, 3_000):
        writer.add(0, seqnum, book=9, data=data_of(seqnum, 1_000), tags=None, timestamp_ms=1)
    assert reader.find(0, 9, 1) is None
    newest = reader.find(0, 9, 2_999)
    assert newest is not None
    assert newest[0] == data_of(2_999, 1_000)
    assert (writer.hits, writer.misses, reader.hit_count) == (0, 1, 1)
    for _ in range(40):
        assert reader.find(0, 9, 2_999) is not None
    assert (writer.hits, writer.misses, reader.hit_count) == (32, 1, 41)
    assert reader.find(0, 9, 1) is None
    assert (writer.hits, writer.misses) == (41, 2), "a miss tells of hits, too"


def test_what_is_dropped_or_forgotten_is_not_found() -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    for seqnum in (1, 2):
        writer.add(0, seqnum, book=9, data=b"x", tags=None, timestamp_ms=1)
    writer.drop(0, 1)
    writer.drop(0, 3)
    assert reader.find(0, 9, 1) is None
    assert reader.find(0, 9, 2) is not None
    writer.forget()
    assert reader.find(0, 9, 2) is None
    writer.add(0, 2, book=9, data=b"y", tags=None, timestamp_ms=1)
    again = reader.find(0, 9, 2)
    assert again is not None
    assert again[0] == b"y"


@settings(max_examples=20)
@given(st.integers(0, 11), st.integers(0, 3), st.integers(1, 2**40))
def test_every_nth_record_has_a_slot_of_its_own(step_bits: int, space: int, first: int) -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    aligned = first >> 20 << 20 | 1
    seqnums = range(aligned, aligned + (400 << step_bits), 1 << step_bits)
    for seqnum in seqnums:
        writer.add(space, seqnum, book=9, data=b"x", tags=None, timestamp_ms=1)
    for seqnum in seqnums:
        assert reader.find(space, 9, seqnum) is not None


def test_a_record_that_stands_is_not_written_again() -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    for seqnum in (1, 2, 1, 2):
        writer.add(0, seqnum, book=9, data=data_of(seqnum, 16), tags=None, timestamp_ms=1)
    assert writer.published_count == 2
    at = shared.find(data_of(1, 16))
    shared[at : at + 1] = bytes([shared[at] ^ 1])  # as if its place had been used again
    assert reader.find(0, 9, 1) is None
    writer.add(0, 1, book=9, data=data_of(1, 16), tags=None, timestamp_ms=1)
    assert reader.find(0, 9, 1) is not None


def test_a_large_record_is_not_published() -> None:
    shared = memory()
    writer, reader = SharedWriter(shared, 7), SharedReader(shared)
    data = bytes(DATA_BYTES_MAX + 1)
    writer.add(0, 1, book=9, data=data, tags=None, timestamp_ms=1)
    assert reader.find(0, 9, 1) is None


@pytest.mark.parametrize("incarnation", [6, 8])
def test_memory_of_another_start_of_the_engine_is_known(incarnation: int) -> None:
    shared = memory()
    SharedWriter(shared, 7)
    assert SharedReader(shared).is_of(7)
    assert not SharedReader(shared).is_of(incarnation)
    assert not SharedReader(memory()).is_of(0)
