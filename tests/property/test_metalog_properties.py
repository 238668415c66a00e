"""A follower sees one order, however runs arrive: repeated, overlapping, out of turn."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, strategies as st

from bokilog.errors import RemoteProtocolError
from bokilog.ids import START, LogSpaceId, Position, Term
from bokilog.metalog import (
    Entry,
    ForgetKeys,
    MetalogFollower,
    Run,
    decode_run,
    encode_run,
)

SPACE = LogSpaceId(0)


def entries(first: int, until: int) -> tuple[Entry, ...]:
    """Entry number n carries n as its timestamp, so that a test sees which one it is."""
    return tuple(ForgetKeys(number) for number in range(first, until))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=30), st.randoms())
def test_p13_runs_in_any_order_yield_each_entry_once_and_in_order(
    pieces: list[tuple[int, int]], random: Random
) -> None:
    follower = MetalogFollower(SPACE, START)
    follower.end_term(Term(0), 0)
    runs = [Run(SPACE, Term(1), first, entries(first, first + size)) for first, size in pieces]
    seen: list[tuple[Position, Entry]] = []
    for run in runs:
        seen += follower.offer(run)
    covered = 0
    while any(run.first <= covered < run.until for run in runs):
        covered = max(run.until for run in runs if run.first <= covered < run.until)
    assert [entry.timestamp_ms for _, entry in seen] == list(range(covered))
    assert [position.count for position, _ in seen] == list(range(1, covered + 1))


@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 10))
def test_p13_entries_past_the_end_of_a_term_are_dropped(
    end: int, surplus: int, following: int
) -> None:
    follower = MetalogFollower(SPACE, Position(Term(1), 0))
    held = follower.offer(Run(SPACE, Term(2), end, entries(100, 100 + following)))
    assert not held, "a later term waits for the stored end of this one"
    ended = follower.end_term(Term(1), end)
    old = follower.offer(Run(SPACE, Term(1), 0, entries(0, end + surplus)))
    stamps = [entry.timestamp_ms for _, entry in [*ended, *old]]
    assert stamps == [*range(end), *range(100, 100 + following)]


def test_p13_a_follower_past_the_end_refuses_instead_of_going_back() -> None:
    follower = MetalogFollower(SPACE, Position(Term(1), 0))
    follower.offer(Run(SPACE, Term(1), 0, entries(0, 5)))
    with pytest.raises(RemoteProtocolError, match="ended at 3"):
        follower.end_term(Term(1), 3)


@given(st.binary(max_size=80))
def test_garbage_is_no_run(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_run(data)


@given(st.integers(0, 200), st.integers(0, 7))
def test_a_flipped_bit_is_no_run(byte: int, bit: int) -> None:
    data = bytearray(encode_run(Run(SPACE, Term(1), 7, entries(0, 40))))
    byte %= len(data)
    data[byte] ^= 1 << bit
    with pytest.raises(RemoteProtocolError):
        decode_run(bytes(data))
