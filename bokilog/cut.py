"""Progress, frontiers and cuts: which seqnum a LocalId gets. All ordering arithmetic is here.

A *frontier* is, per shard, how many records a write quorum holds: the W-th largest of its replicas'
progress (P9). A *cut* orders all records between the last frontier and this one: shards in the
order the cut lists them, inside a shard by LocalId. So a cut of a few numbers orders any number of
records.

Invariants: what was ordered stays ordered; spans are listed by shard number, and none is empty.

Does not know: nodes, metalogs, what a record is. Source: Boki (SOSP'21), section 4; differs from
Boki: W of N instead of all replicas, and progress moves at frame boundaries only, so a frame is
never cut in two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bokilog.named import NamedTuple


class CutSpan(NamedTuple):
    """The records `[start, until)` of one shard of the cut's log space and term."""

    number: int
    start: int
    until: int


def frontier(progress: Iterable[int], *, write_quorum: int) -> int:
    """How many records at least `write_quorum` replicas hold: the W-th largest of their counts.

    >>> frontier([5, 9, 7], write_quorum=2)
    7
    >>> frontier([5], write_quorum=2)
    0
    """
    counts = sorted(progress)
    return counts[-write_quorum] if len(counts) >= write_quorum else 0


def advance(last: Mapping[int, int], now: Mapping[int, int]) -> tuple[CutSpan, ...]:
    """The spans between two frontiers, by shard number; a frontier never goes back.

    >>> advance({1: 3}, {1: 5, 2: 4})
    (CutSpan(number=1, start=3, until=5), CutSpan(number=2, start=0, until=4))
    """
    return tuple(
        CutSpan(number, last.get(number, 0), until)
        for number, until in sorted(now.items())
        if until > last.get(number, 0)
    )


def record_count(spans: Iterable[CutSpan]) -> int:
    """How many records, and so how many seqnums, the spans take."""
    count = 0
    for _, start, until in spans:  # a third of what a sum over a generator costs
        count += until - start
    return count


def first_seqnums(first_seqnum: int, spans: Iterable[CutSpan]) -> list[tuple[int, CutSpan]]:
    """Each span with the seqnum of its first record.

    >>> first_seqnums(10, [CutSpan(1, 3, 5), CutSpan(2, 0, 4)])
    [(10, CutSpan(number=1, start=3, until=5)), (12, CutSpan(number=2, start=0, until=4))]
    """
    placed = []
    for span in spans:
        placed.append((first_seqnum, span))
        first_seqnum += span.until - span.start
    return placed
