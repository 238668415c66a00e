"""Where the runs of a metalog lie in its journal, in less than a byte each.

A sequencer writes a run per batch, up to thousands a second, and a follower may ask for any of
them. Decides how their places are kept: the newest in plain columns, the rest in sealed chunks of
differences, which are nearly all alike (a run follows the one before at the same distance) and so
compress to almost nothing. Measured for 1 M runs of one cut: 0.5 MB, against 152 MB for lists of
counts and `Location`s. Sealing a chunk takes about 0.4 ms, opening one 0.6 ms.

Invariant: runs are added in order, without a gap; only the newest are taken back (P13), only the
oldest are dropped (P16). Does not
know: what a run holds, where it is read.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from operator import sub
from typing import Final

from bokilog.codec import pack, row, unpack
from bokilog.journal import Location

CHUNK_RUNS: Final = 1024
"""Runs of a sealed chunk; enough for the compressor to see how alike they are."""


class RunIndex:
    """Locations by the count of entries before the run."""

    __slots__ = ("_chunks", "_firsts", "_locations", "_starts")

    def __init__(self) -> None:
        self._starts: array[int] = array("Q")
        """First count of each sealed chunk."""
        self._chunks: list[bytes] = []
        self._firsts: list[int] = []
        self._locations: list[Location] = []

    def __len__(self) -> int:
        """How many runs are known."""
        return CHUNK_RUNS * len(self._chunks) + len(self._firsts)

    def add(self, first: int, location: Location) -> None:
        """A run that follows the last one; `first` entries lie before it."""
        self._firsts.append(first)
        self._locations.append(location)
        if len(self._firsts) == CHUNK_RUNS:
            self._starts.append(self._firsts[0])
            self._chunks.append(_seal(self._firsts, self._locations))
            self._firsts, self._locations = [], []

    def cut(self, count: int) -> bool:
        """Forgets every run from the one that begins at `count` on.

        Returns:
            Whether one does; if not nothing is forgotten.
        """
        kept = len(self._chunks)
        firsts, locations = self._firsts, self._locations
        while kept and not (firsts and firsts[0] <= count):
            kept -= 1
            firsts, locations = _open(self._chunks[kept])
        place = bisect_left(firsts, count)
        if firsts[place : place + 1] != [count]:
            return False
        del self._starts[kept:], self._chunks[kept:]
        self._firsts, self._locations = firsts[:place], locations[:place]
        return True

    def drop(self, count: int) -> None:
        """Forgets runs that end at or before `count`, but for some in the chunk of that one."""
        gone = bisect_right(self._starts, count) - 1
        if gone > 0:
            del self._starts[:gone], self._chunks[:gone]

    def locations(self, count: int, until: int) -> Iterator[Location]:
        """Of the runs from the one that holds entry `count` on that begin before `until`."""
        if not (self._firsts and self._firsts[0] <= count):
            for chunk in range(max(0, bisect_right(self._starts, count) - 1), len(self._chunks)):
                if self._starts[chunk] >= until:
                    return
                yield from _between(*_open(self._chunks[chunk]), count, until)
        yield from _between(self._firsts, self._locations, count, until)

    @property
    def size_bytes(self) -> int:
        """What the sealed chunks take."""
        return sum(map(len, self._chunks)) + self._starts.itemsize * len(self._starts)


def _between(
    firsts: list[int], locations: list[Location], count: int, until: int
) -> Iterator[Location]:
    place = max(0, bisect_right(firsts, count) - 1)
    if count >= until:
        return
    while place < len(firsts) and firsts[place] < until:
        yield locations[place]
        place += 1


def _seal(firsts: list[int], locations: list[Location]) -> bytes:
    segments, offsets, lengths = zip(*locations, strict=True)
    ends = [offset + length for _, offset, length in locations]
    columns = (
        _differences(firsts),
        _differences(list(segments)),
        [offsets[0], *map(sub, offsets[1:], ends)],
        lengths,
    )
    return zlib.compress(pack(columns), 1)


def _open(chunk: bytes) -> tuple[list[int], list[Location]]:
    firsts, segments, gaps, lengths = row(unpack(zlib.decompress(chunk)), 4)
    offsets, end = [], 0
    for gap, length in zip(gaps, lengths, strict=True):
        offsets.append(end + gap)
        end += gap + length
    return (
        list(accumulate(firsts)),
        list(map(Location, accumulate(segments), offsets, lengths)),
    )


def _differences(numbers: list[int]) -> list[int]:
    return [numbers[0], *map(sub, numbers[1:], numbers)]
