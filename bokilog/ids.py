"""Names of things: the small value types that every floor speaks.

Decides nothing but what a name is made of. A shard and a position are tuples, so that comparing and
hashing them costs nothing extra and positions order as (term, count) by themselves (P12).

Does not know: who gives names out, or what they name.
"""

from __future__ import annotations

from typing import NewType

from bokilog.named import NamedTuple

Seqnum = NewType("Seqnum", int)
"""Position of a record in its LogBook's order: 1..2**53-1, growing, with gaps."""

Term = NewType("Term", int)
"""Number of a view; it only grows."""

LogSpaceId = NewType("LogSpaceId", int)
"""Number of a log space, fixed when the cluster is created."""

BookNumber = NewType("BookNumber", int)
"""Incarnation of a LogBook: the seqnum of the record in the system LogBook that created it (P5)."""

NodeId = NewType("NodeId", str)
"""Name of a process of the cluster: `sequencer-1`, `storage-2`, `engine-1`."""

SYSTEM_BOOK = BookNumber(0)
"""The LogBook that every cluster is born with; it lives in log space 0 and names all others."""

SYSTEM_SPACE = LogSpaceId(0)


class Shard(NamedTuple):
    """One engine start's records in a log space and term. Never reused (P1)."""

    space: LogSpaceId
    term: Term
    number: int
    """The engine's registered incarnation, unique in the cluster."""


class Position(NamedTuple):
    """A place in a metalog: how many entries lie before it, and the term that wrote the last one.

    `count` goes on over terms, so the greater position covers more of the metalog.
    """

    term: Term
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


START = Position(Term(0), 0)
"""Before the first entry of any metalog."""
