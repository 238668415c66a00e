"""Framing over arbitrary messages, splits and garbage."""

from itertools import pairwise

from hypothesis import given, settings, strategies as st

from bokilog.errors import BokilogError
from bokilog.framing import (
    PREAMBLE,
    MessageReader,
    WireMessage,
    append_message,
    encode_message,
    join_small,
)
from bokilog.record import Buffer

Plain = tuple[int, bytes, list[bytes]]

# Sizes on both sides of the reader's small scratch (below), so that every path is taken.
PARTS = st.one_of(
    st.binary(max_size=12),
    st.builds(lambda n, b: bytes([b]) * n, st.integers(0, 300), st.integers(0, 255)),
)
MESSAGES = st.lists(st.tuples(st.integers(0, 255), PARTS, st.lists(PARTS, max_size=4)), max_size=8)
CUTS = st.lists(st.integers(0, 6_000), max_size=12)


def plain(messages: list[WireMessage]) -> list[Plain]:
    return [(kind, bytes(head), [bytes(part) for part in parts]) for kind, head, parts in messages]


def encoded(messages: list[Plain]) -> bytes:
    return b"".join(b for message in messages for b in encode_message(*message))


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(ends)]


def read_all(parts: list[bytes], scratch_bytes: int) -> tuple[list[Plain], str | None]:
    """What a reader makes of the parts: its messages, and its error if it has one."""
    reader = MessageReader(message_bytes_max=2_000, scratch_bytes_max=scratch_bytes)
    got: list[WireMessage] = []
    for part in parts:
        try:
            got += reader.feed(part)
        except BokilogError:
            break
    return plain(got), str(reader.error) if reader.error else None


@settings(max_examples=80, deadline=None)
@given(messages=MESSAGES, cuts=CUTS, scratch_bytes=st.sampled_from([9, 64, 257, 4_096]))
def test_messages_survive_any_split(
    messages: list[Plain], cuts: list[int], scratch_bytes: int
) -> None:
    parts = pieces(PREAMBLE + encoded(messages), cuts)
    assert read_all(parts, scratch_bytes) == (messages, None)


@settings(max_examples=80, deadline=None)
@given(
    messages=MESSAGES,
    garbage=st.binary(max_size=40),
    cuts=CUTS,
    scratch_bytes=st.sampled_from([9, 64, 257, 4_096]),
)
def test_garbage_means_the_same_however_it_is_split(
    messages: list[Plain], garbage: bytes, cuts: list[int], scratch_bytes: int
) -> None:
    stream = PREAMBLE + encoded(messages) + garbage
    assert read_all(pieces(stream, cuts), scratch_bytes) == read_all([stream], 4_096)


@settings(max_examples=80, deadline=None)
@given(garbage=st.binary(min_size=8, max_size=64))
def test_garbage_never_becomes_more_memory_than_the_bound(garbage: bytes) -> None:
    for stream in (garbage, PREAMBLE + garbage):
        reader = MessageReader(message_bytes_max=2_000, scratch_bytes_max=64)
        try:
            reader.feed(stream)
        except BokilogError:
            continue
        assert reader.error is not None or 0 < len(reader.get_buffer(-1)) <= 2_000


@settings(max_examples=60, deadline=None)
@given(messages=MESSAGES)
def test_one_list_of_buffers_for_many_messages_is_their_bytes_in_order(
    messages: list[Plain],
) -> None:
    buffers: list[Buffer] = []
    counted = sum(append_message(buffers, *message) for message in messages)
    assert b"".join(join_small(buffers)) == encoded(messages)
    assert counted == len(encoded(messages))
