"""LogBooks as the system LogBook has them: names, numbers, and which log space each lives in (P5).

Decides what a creation and a deletion look like as records, and where a LogBook's records go.
Invariants: a LogBook's number is the seqnum of the record that created it, so each incarnation has
another one; whoever reads the newest record of a name's tag knows whether the LogBook exists.

Does not know: how those records are appended or read. Records of version 1 are golden-tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bokilog.codec import pack, unpack
from bokilog.errors import FormatTooNew, NotSupported, RemoteProtocolError
from bokilog.ids import START, SYSTEM_BOOK, SYSTEM_SPACE, Position
from bokilog.limits import KEY_HORIZON_S
from bokilog.named import NamedTuple
from bokilog.record import DURABILITIES, Durability

RECORD_VERSION: Final = 1
BOOKS_TAG: Final = "$books"
"""On every creation and deletion."""


class Route:
    """Where a LogBook's records go, while this incarnation lives."""

    __slots__ = (
        "book",
        "durability",
        "key_horizon_s",
        "live",
        "name",
        "number",
        "retention_bytes",
        "retention_s",
        "seen_at",
        "space",
    )

    def __init__(
        self,
        *,
        name: str,
        number: int,
        space: int,
        durability: Durability,
        key_horizon_s: int = KEY_HORIZON_S,
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        seen_at: Position = START,
    ) -> None:
        self.name = name
        self.number = number
        self.space = space
        self.durability: Durability = durability
        self.key_horizon_s = key_horizon_s
        self.retention_s = retention_s
        self.retention_bytes = retention_bytes
        self.seen_at = seen_at
        """Position of the system log space at which it was seen to exist: every session that uses
        it has seen as much, so that whoever gets its token finds the LogBook too.
        """
        self.live = True
        self.book: object = None
        """Whose it is: there for as long as something is on its way to here."""

    def __repr__(self) -> str:
        return f"<Route {self.name!r} {self.number} in {self.space}>"


SYSTEM_ROUTE: Final = Route(
    name="$system", number=SYSTEM_BOOK, space=SYSTEM_SPACE, durability="sync"
)


class Created(NamedTuple):
    """A creation record; its seqnum is the LogBook's number."""

    name: str
    durability: Durability
    key_horizon_s: int
    retention_s: float | None = None
    retention_bytes: int | None = None


class Deleted(NamedTuple):
    """A deletion record."""

    number: int


def name_tag(name: str) -> str:
    """On the creations and deletions of that name."""
    return f"$book:{name}"


def encode_created(created: Created) -> bytes:
    """The data of a creation record."""
    return pack(
        {
            "v": RECORD_VERSION,
            "op": "create",
            "name": created.name,
            "durability": created.durability,
            "key_horizon_s": created.key_horizon_s,
            "retention_s": created.retention_s,
            "retention_bytes": created.retention_bytes,
        }
    )


def encode_deleted(deleted: Deleted) -> bytes:
    """The data of a deletion record."""
    return pack({"v": RECORD_VERSION, "op": "delete", "number": deleted.number})


def decode(data: bytes) -> Created | Deleted:
    """A record of the system LogBook.

    Raises:
        FormatTooNew: a later version wrote it.
        RemoteProtocolError: it is neither.
    """
    plain = unpack(data)
    if not isinstance(plain, dict) or type(plain.get("v")) is not int:
        raise RemoteProtocolError("a record of the system LogBook that names no version")
    if plain["v"] > RECORD_VERSION:
        raise FormatTooNew("a record of the system LogBook", plain["v"], RECORD_VERSION)
    if plain.get("op") == "delete" and type(plain.get("number")) is int:
        return Deleted(plain["number"])
    name, horizon_s = plain.get("name"), plain.get("key_horizon_s")
    kept_s, kept_bytes = plain.get("retention_s"), plain.get("retention_bytes")
    bounds = (kept_s is None or type(kept_s) in (int, float)) and (
        kept_bytes is None or type(kept_bytes) is int
    )
    for durability in DURABILITIES:
        if not bounds or durability != plain.get("durability"):
            continue
        if type(name) is str and type(horizon_s) is int:
            return Created(name, durability, horizon_s, kept_s, kept_bytes)
    raise RemoteProtocolError("a record of the system LogBook that is neither form of it")


def space_of(number: int, durability: str, spaces: Sequence[Sequence[object]]) -> int:
    """The log space of a LogBook: fixed by its number among the spaces of its class.

    Args:
        number: of the LogBook.
        durability: its class.
        spaces: [log space, durability class] of each, as in `Welcome`.

    Raises:
        NotSupported: the cluster has no log space of that class.
    """
    if number == SYSTEM_BOOK:
        return SYSTEM_SPACE
    of_class = sorted(
        space for space, its_class in spaces if its_class == durability and isinstance(space, int)
    )
    if not of_class:
        problem = "this cluster has no log space of that class"
        raise NotSupported(f"durability {durability!r}", problem)
    return of_class[number % len(of_class)]
