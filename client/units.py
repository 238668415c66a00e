"""A unit as its client has it until its outcome is known: what is sent, and whom to tell.

Decides what a unit is made of, what it costs of a frame and of what may be in flight, and what its
key names. Invariants: its data and tags are checked and nobody else's to change; its caller is told
through its waiter, and told once.

Does not know: frames, the order of units, which outcome there is.
"""

from __future__ import annotations

from typing import Final, Protocol, cast

from xxhash import xxh3_128

from bokilog.client.session import Session
from bokilog.codec import pack
from bokilog.columns import Tags
from bokilog.limits import FRAME_BYTES_MAX, INFLIGHT_RECORDS_MAX
from bokilog.record import Conditions

NEVER: Final = float("inf")
# What a record costs beside its data and tag: so an empty record counts, and the records of one
# frame stay within what may be in flight.
RECORD_COST_BYTES: Final = FRAME_BYTES_MAX // INFLIGHT_RECORDS_MAX


class Waiter(Protocol):
    """Where an append's outcome goes: a future of the shell. Gets the unit's first seqnum."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: int, /) -> None:
        """The unit is visible."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """It is not, or nobody knows."""
        ...


class Settled:
    """The waiter of a unit that left its batch."""

    __slots__ = ()

    def done(self) -> bool:
        """Always: the outcome goes elsewhere."""
        return True

    def set_result(self, result: int, /) -> None:
        """Nobody waits."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Nobody waits."""


SETTLED: Final = Settled()


class Unit:
    """One unit with all that is needed to send it, and to send it again."""

    __slots__ = (
        "conditions",
        "datas",
        "deadline_s",
        "key",
        "sent_before",
        "session",
        "size_bytes",
        "tags",
        "waiter",
    )

    def __init__(
        self,
        *,
        datas: list[bytes],
        tags: list[Tags],
        conditions: Conditions,
        key: tuple[str, bytes] | None,
        session: Session,
        waiter: Waiter,
        deadline_s: float = NEVER,
        sent_before: bool = False,
    ) -> None:
        self.datas = datas
        self.tags = tags
        self.conditions = conditions
        self.key = key
        """The key and the hash of what it names."""
        self.session = session
        self.waiter = waiter
        self.deadline_s = deadline_s
        """NEVER: the connection's default, counted from when it is sealed."""
        self.sent_before = sent_before
        """An earlier attempt under the same key may have been ordered."""
        self.size_bytes = sum(map(len, datas)) + tags_cost(tags)


def unit_digest(datas: list[bytes], tags: list[Tags]) -> bytes:
    """What a key names: a 128-bit hash over the tags and bytes of a unit, not its conditions."""
    hasher = xxh3_128(pack((tags, [len(data) for data in datas])))
    for data in datas:
        hasher.update(data)
    return hasher.digest()


def in_column(tags: tuple[str, ...]) -> Tags:
    """Checked tags as they stand in a frame's column."""
    return None if not tags else tags[0] if len(tags) == 1 else list(tags)


def tag_bytes(tags: Tags) -> int:
    """The size of one record's tags."""
    return 0 if tags is None else len(tags) if isinstance(tags, str) else sum(map(len, tags))


def tags_cost(tags: list[Tags]) -> int:
    """Of records, beside their data; a column of one tag each, the usual one, is measured without
    a loop."""
    cost = RECORD_COST_BYTES * len(tags)
    if set(map(type, tags)) == {str}:
        return cost + sum(map(len, cast("list[str]", tags)))
    return cost + sum(map(tag_bytes, tags))
