"""The entries of the next run: which, in which order, at what time, with which seqnums.

Decides what becomes of everything that waits when a batch ends: a start over, then closings and
openings of shards, the cut, what clients proposed, what is lost, and now and then that keys are to
be forgotten. All of a run carries one time.

Invariants: seqnums have no gap (P13), and none at or past the ceiling is given (P11); timestamps
never go back (P10); a shard is closed before its engine's next one is opened, and never opened
again (P1, P2, P3); of a log space of which perhaps nothing is left, nothing is ordered until that
is decided (P20).

Does not know: how proposals are answered, the journal, what becomes of a run. What is held of each
shard is kept by `progress.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bokilog.cut import record_count
from bokilog.effects import Address
from bokilog.messages import OpenShardRequest, Propose
from bokilog.metalog import CloseShard, Cut, Entry, ForgetKeys, Lost, OpenShard, StartOver
from bokilog.sequencer.progress import Progress
from bokilog.sequencer.survival import Survival
from bokilog.view import End, LogSpace

OPENINGS_MAX: Final = 4096
"""Openings of shards of one run; whoever is left out asks again."""
FORGET_KEYS_MS: Final = 3_600_000
"""A `ForgetKeys` entry at most this often, by cut timestamps, and one when a term begins."""


class NextRun:
    """What waits to be ordered in one log space.

    Args:
        space: its configuration in this term.
        end: where the term before ended.
        progress: what each storage node holds.
        survival: whether anything of a `memory` log space is left.
    """

    __slots__ = (
        "_keys_forgotten_ms",
        "_losses",
        "_progress",
        "_replicas",
        "_survival",
        "_wanted",
        "tail",
        "timestamp_ms",
    )

    def __init__(
        self, space: LogSpace, end: End, *, progress: Progress, survival: Survival
    ) -> None:
        self.tail = end.tail
        """First seqnum not ordered, also by what is in flight."""
        self.timestamp_ms = end.timestamp_ms
        """Of the last batch that had anything to order."""
        self._replicas = space.replicas
        self._progress = progress
        self._survival = survival
        self._wanted: dict[int, OpenShardRequest] = {}
        self._losses: list[Lost] = []
        self._keys_forgotten_ms = 0

    def open_shard(self, message: OpenShardRequest) -> None:
        """Idempotent: an engine asks until the metalog tells it; an engine's new start closes its
        old shard."""
        if message.number not in self._progress.shards and len(self._wanted) < OPENINGS_MAX:
            self._wanted[message.number] = message

    def lost(self, loss: Lost) -> None:
        """Records that no replica has; said once, however often it is found (P24)."""
        if loss not in self._losses:
            self._losses.append(loss)

    @property
    def due(self) -> bool:
        """Whether there may be anything to order beside frames and proposals; most batches only
        publish, or feed."""
        return bool(self._wanted or self._losses or self._survival.undecided)

    def entries(
        self, wall_ms: int, *, ceiling: int, proposed: Iterable[tuple[Address, Propose]]
    ) -> list[Entry]:
        """Everything that waits, which does so no more.

        Args:
            wall_ms: what time it is.
            ceiling: no seqnum at or past it may be given.
            proposed: what clients asked for.
        """
        timestamp_ms = self.timestamp_ms
        if wall_ms > timestamp_ms:
            self.timestamp_ms = timestamp_ms = wall_ms
        entries: list[Entry] = []
        if self._survival.undecided:
            if not self._survival.nothing_left:
                return []
            self._survival.started_over()
            entries.append(StartOver(timestamp_ms, self.tail))
        if self._wanted:
            for request in self._wanted.values():
                entries += self._open(request, timestamp_ms)
            self._wanted.clear()
        spans = self._progress.take_cut(room=ceiling - self.tail)
        if spans:
            entries.append(Cut(timestamp_ms, self.tail, spans))
            self.tail += record_count(spans)
        for _, proposal in proposed:
            entries.append(proposal.entry._replace(timestamp_ms=timestamp_ms))
        if self._losses:
            entries += [loss._replace(timestamp_ms=timestamp_ms) for loss in self._losses]
            self._losses.clear()
        if entries and timestamp_ms - self._keys_forgotten_ms >= FORGET_KEYS_MS:
            self._keys_forgotten_ms = timestamp_ms
            entries.append(ForgetKeys(timestamp_ms))
        return entries

    def _open(self, request: OpenShardRequest, timestamp_ms: int) -> list[Entry]:
        """An engine's new start supersedes its old one: that shard is closed first (P1, P2, P3)."""
        older = [
            number
            for number, shard in self._progress.shards.items()
            if shard.engine == request.engine
        ]
        if any(number > request.number for number in older):
            return []
        entries: list[Entry] = [
            CloseShard(timestamp_ms, number, self._progress.close(number)) for number in older
        ]
        replicas = self._replicas
        self._progress.open(request.number, engine=request.engine, replicas=replicas)
        entries.append(OpenShard(timestamp_ms, request.number, request.engine, replicas))
        return entries
