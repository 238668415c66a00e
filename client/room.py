"""What may be in flight on one connection: records and bytes that were sent and not answered yet.

Decides whether a frame may leave now. Invariant: with nothing in flight anything may, so that a
frame larger than the bound goes alone instead of never. What has no room waits in its lane, in
order, until its deadline.

Does not know: lanes, whose turn it is, what a frame holds.
"""

from __future__ import annotations

from bokilog.client.batching import Batch
from bokilog.limits import INFLIGHT_BYTES_MAX, INFLIGHT_RECORDS_MAX


class Room:
    """What may be in flight on one connection."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = self.bytes = 0

    def fits(self, batch: Batch) -> bool:
        """Whether it may be sent now; with nothing in flight anything may."""
        return not self.records or (
            self.records + batch.records <= INFLIGHT_RECORDS_MAX
            and self.bytes + batch.size_bytes <= INFLIGHT_BYTES_MAX
        )

    def take(self, batch: Batch) -> None:
        """It is in flight."""
        self.records += batch.records
        self.bytes += batch.size_bytes

    def give_back(self, batch: Batch) -> None:
        """It is not any more."""
        self.records -= batch.records
        self.bytes -= batch.size_bytes
