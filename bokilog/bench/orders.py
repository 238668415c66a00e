"""What a measuring process is told to do, and what it says when it has.

Decides the form: one JSON line each way, an `Order` in, an `Outcome` out. Processes that measure
are told by a parent, so that each contender has a process of its own and all of them take turns.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing to do; what an order does not need keeps its default."""

    do: str
    place: str = ""
    """Directory, URL or port of what is measured; empty: in memory."""
    book: str = "bench"
    durability: str = "sync"
    size_bytes: int = 1024
    outstanding: int = 1
    batch_count: int = 1
    """Records per call; from 2 on as one unit."""
    seconds: float = 1.0
    count: int = 0
    seqnum: int = 0
    sync_delay_ms: float = 0.0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an order."""

    count: int = 0
    """Records."""
    elapsed_s: float = 0.0
    p50_us: float = float("nan")
    p99_us: float = float("nan")
    seqnum: int = 0
    place: str = ""
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""
    """Why it could not be done; all else means nothing then."""

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.count / self.elapsed_s if self.elapsed_s else 0.0


_ORDER_FIELDS: Final = {each.name for each in fields(Order)}
_OUTCOME_FIELDS: Final = {each.name for each in fields(Outcome)}


def to_line(said: Order | Outcome) -> bytes:
    """One line of JSON."""
    return json.dumps(asdict(said)).encode() + b"\n"


def order_of(line: bytes) -> Order:
    """The order in a line."""
    plain = json.loads(line)
    assert plain.keys() <= _ORDER_FIELDS, plain.keys()
    return Order(**{**plain, "flags": tuple(plain["flags"])})


def outcome_of(line: bytes) -> Outcome:
    """The outcome in a line."""
    plain = json.loads(line)
    assert plain.keys() <= _OUTCOME_FIELDS, plain.keys()
    return Outcome(**plain)
