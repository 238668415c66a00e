"""Whether a group is synced on the event loop: while the disk is fast, and not else.

A sync in the journal's thread costs two hand-overs, which on a fast disk are as dear as the sync
(LIMITS point 8). On the loop everything else stands still meanwhile, and a disk may take a second.
So one slow sync sends all later ones to the thread for a while. After that one is tried again, and
while the disk stays slow, the loop stands still once per pause, of which each is twice as long.

After a shallow group there is little to do meanwhile; behind a deep one the next is coming in
already. So a deep one is synced on the loop only while syncs take less than the hand-overs cost.

Decides nothing else. Does not know: what is synced, how deep a group is, clocks.
"""

from __future__ import annotations

from typing import Final

SLOW_S: Final = 0.01
"""Ten times what disks take that are worth it; about what a collection of garbage takes."""
PAUSE_S_MIN: Final = 5.0
PAUSE_S_MAX: Final = 80.0
FAST_SYNCS: Final = 1000
"""So many fast ones in a row, and the next slow one is the first again."""
DEEP_S: Final = 0.001
"""What syncs may take on average for deep groups to be synced on the loop: some times two
hand-overs on a machine whose cores are taken."""
WEIGHT: Final = 1 / 8
"""Of the last sync in the average."""


class InlineSyncs:
    """What is known of syncs on the loop."""

    __slots__ = ("_again_s", "_deep_again_s", "_fast_count", "_mean_s", "_pause_s")

    def __init__(self) -> None:
        self._again_s = 0.0
        self._pause_s = PAUSE_S_MIN
        self._fast_count = 0
        self._mean_s = 0.0
        self._deep_again_s = 0.0

    def allowed(self, now_s: float, *, deep: bool = False) -> bool:
        """Whether the next one may be on the loop."""
        return now_s >= self._again_s and not (deep and now_s < self._deep_again_s)

    def took(self, sync_s: float, now_s: float) -> None:
        """One on the loop has ended."""
        self._mean_s += WEIGHT * (sync_s - self._mean_s)
        if self._mean_s >= DEEP_S:
            self._mean_s = 0.0
            self._deep_again_s = now_s + PAUSE_S_MIN
        if sync_s < SLOW_S:
            self._fast_count += 1
            if self._fast_count == FAST_SYNCS:
                self._pause_s = PAUSE_S_MIN
            return
        self._fast_count = 0
        self._again_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
