"""Frames for tests: columns from records, with everything that a client computes for them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from bokilog.columns import Columns, Tags, record_sum
from bokilog.frame import Frame
from bokilog.ids import LogSpaceId, Shard, Term

SHARD = Shard(LogSpaceId(1), Term(2), 3)


def columns_of(
    payload: Sequence[bytes],
    *,
    tags: list[Tags] | None = None,
    books: int | list[int] = 7,
    unit_records: list[int] | None = None,
    unless: list[tuple[int, list[tuple[str | None, int]]]] | None = None,
    keys: list[tuple[int, str, bytes, int]] | None = None,
) -> Columns:
    """What a client says of these records."""
    sums, blocks = array("Q"), array("Q")
    for data in payload:
        its_sum, its_blocks = record_sum(data)
        sums.append(its_sum)
        blocks += its_blocks
    return Columns(
        books=books,
        unit_records=unit_records,
        tags=list(tags) if tags is not None else [None] * len(payload),
        lengths=array("I", map(len, payload)),
        sums=sums,
        blocks=blocks,
        unless=unless or [],
        keys=keys or [],
    )


def frame_of(columns: Columns, payload: Sequence[bytes], *, first: int = 0) -> Frame:
    """The frame that an engine makes of it."""
    return Frame(shard=SHARD, first=first, columns=columns, payload=list(payload))
