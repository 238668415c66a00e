"""Whether a group is synced on the event loop: while the disk is fast, and not else.

A sync in the journal's thread costs two hand-overs, which on a fast disk are as dear as the sync
(LIMITS point 8). On the loop everything else stands still meanwhile, and a disk may take a second.
So a slow sync sends later ones to the thread, for twenty times as long as it took: slow syncs hold
the loop for a twentieth of the time at most, and a fast disk that is slow once in a thousand syncs
is hardly ever left. While each try is slow again, pauses grow to twice as long each.

After a shallow group there is little to do meanwhile; behind a deep one the next is coming in
already. So a deep one is synced on the loop only while syncs take less than the hand-overs cost.

Decides nothing else. Does not know: what is synced, how deep a group is, clocks.
"""

from __future__ import annotations

from typing import Final

SLOW_S: Final = 0.01
"""Ten times what disks take that are worth it; about what a collection of garbage takes."""
PAUSE_PER_SYNC: Final = 20
"""So many times as long as a slow one took, later ones are not on the loop."""
PAUSE_S_MAX: Final = 80.0
FAST_SYNCS: Final = 100
"""So many fast ones in a row, and the next slow one is the first again."""
DEEP_S: Final = 0.001
"""What syncs may take on average for deep groups to be synced on the loop: some times two
hand-overs on a machine whose cores are taken."""
DEEP_PAUSE_S: Final = 1.0
WEIGHT: Final = 1 / 8
"""Of the last sync in the average."""
COUNTED_S_MAX: Final = 2 * DEEP_S
"""As so long the last sync counts there at most: one that is far out says little of the next."""


class InlineSyncs:
    """What is known of syncs on the loop."""

    __slots__ = ("_again_s", "_deep_again_s", "_fast_count", "_longer", "_mean_s")

    def __init__(self) -> None:
        self._again_s = 0.0
        self._longer = 1
        """How many times the usual a pause lasts."""
        self._fast_count = 0
        self._mean_s = 0.0
        self._deep_again_s = 0.0

    def allowed(self, now_s: float, *, deep: bool = False) -> bool:
        """Whether the next one may be on the loop."""
        return now_s >= self._again_s and not (deep and now_s < self._deep_again_s)

    def took(self, sync_s: float, now_s: float) -> None:
        """One on the loop has ended."""
        self._mean_s += WEIGHT * (min(sync_s, COUNTED_S_MAX) - self._mean_s)
        if self._mean_s >= DEEP_S:
            self._mean_s = 0.0
            self._deep_again_s = now_s + DEEP_PAUSE_S
        if sync_s < SLOW_S:
            self._fast_count += 1
            if self._fast_count == FAST_SYNCS:
                self._longer = 1
            return
        self._fast_count = 0
        pause_s = PAUSE_PER_SYNC * sync_s * self._longer
        if pause_s < PAUSE_S_MAX:
            self._longer *= 2
        self._again_s = now_s + min(pause_s, PAUSE_S_MAX)
