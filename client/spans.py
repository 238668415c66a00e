"""What a read's arguments mean: a span of seqnums, and how much of it is wanted.

Decides for each way of reading where its span starts and ends, how much of it is wanted from which
end, and which bytes of each record. Invariants: a span lies in what a seqnum can be, whatever the
caller's numbers; 0 is no explicit position, and stays 0.

Does not know: who asks, LogBooks, sessions. Arguments were checked before.
"""

from __future__ import annotations

from bokilog.limits import NO_END, PAGE_BYTES_MAX, RECORD_BYTES_MAX
from bokilog.named import NamedTuple


class Span(NamedTuple):
    """Visible records of `tag` with `start <= seqnum < until`, as `Read` has them."""

    tag: str | None = None
    start: int = 0
    until: int = NO_END
    limit: int = 1
    max_bytes: int = PAGE_BYTES_MAX
    reverse: bool = False
    bytes_start: int = -1
    """Byte range of each record's data, -1: whole."""
    bytes_until: int = -1


def first_of(tag: str | None, min_seqnum: int) -> Span:
    """The first record at or after `min_seqnum`."""
    return Span(tag, min_seqnum)


def last_of(tag: str | None, max_seqnum: int | None) -> Span:
    """The last record at or before `max_seqnum`; None: the newest."""
    until = NO_END if max_seqnum is None else min(max_seqnum + 1, NO_END)
    return Span(tag, until=until, reverse=True)


def one(seqnum: int) -> Span:
    """The record at `seqnum`."""
    return Span(None, seqnum, min(seqnum + 1, NO_END))


def bytes_of(seqnum: int, start: int, until: int | None) -> Span:
    """The bytes `[start, until)` of the record at `seqnum`; None: to its end."""
    return Span(
        None,
        seqnum,
        min(seqnum + 1, NO_END),
        bytes_start=min(start, RECORD_BYTES_MAX),
        bytes_until=RECORD_BYTES_MAX if until is None else min(until, RECORD_BYTES_MAX),
    )


def page_of(
    tag: str | None,
    min_seqnum: int,
    until: int | None,
    *,
    limit: int,
    max_bytes: int,
    reverse: bool,
) -> Span:
    """Some of the records in `[min_seqnum, until)`, from one of its ends; None: no end."""
    return Span(tag, min_seqnum, NO_END if until is None else until, limit, max_bytes, reverse)
