"""When a primary lets go of the metalog's oldest entries, and up to where (P16).

Decides it from what everybody has said: a write quorum of replicas has stored a fold past them,
every follower and every connected backup was sent them, and they are published, and durable here.
Which whole segments those are is decided by `retention.py`; the journal is told, and the backups.

Invariant: of a primary that has just begun nothing goes, since an engine that has not found it yet
would lack what was let go.

Does not know: what an entry says, or why no fold is stored that an end of the term may lie before
(`synced.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bokilog.effects import Effect
from bokilog.histogram import Moment
from bokilog.journal import Journal
from bokilog.sequencer.followers import Followers
from bokilog.sequencer.ordered import Ordered
from bokilog.sequencer.replication import Replication
from bokilog.sequencer.retention import releasable, stored_by_quorum

RELEASE_AFTER_S: Final = 10.0
"""A primary lets go of nothing for so long after it began: an engine that has not found it yet
would lack what was let go, and have to begin anew (P16)."""


class LettingGo:
    """Pure; one term of one log space whose journal is its own.

    Args:
        ordered: the metalog.
        journal: where it lies.
        followers: who may need entries still.
        replication: backups, which may too; None: there are none.
        write_quorum: of the log space's replicas.
        moment: what time it is.
        after_s: nothing goes for so long, from the first report on.
    """

    __slots__ = (
        "_after_s",
        "_began_s",
        "_followers",
        "_journal",
        "_moment",
        "_ordered",
        "_replication",
        "_write_quorum",
    )

    def __init__(
        self,
        ordered: Ordered,
        journal: Journal,
        *,
        followers: Followers,
        replication: Replication | None,
        write_quorum: int,
        moment: Moment,
        after_s: float,
    ) -> None:
        self._ordered = ordered
        self._journal = journal
        self._followers = followers
        self._replication = replication
        self._write_quorum = write_quorum
        self._moment = moment
        self._after_s = after_s
        self._began_s: float | None = None
        """When a storage node first told what it has stored."""

    def release(self, stored: Iterable[int]) -> list[Effect]:
        """Lets go of segments that no replica folds from, and nobody is fed from.

        Args:
            stored: count of entries that each replica has stored its fold past.
        """
        if self._began_s is None:
            self._began_s = self._moment.now_s
        if self._moment.now_s - self._began_s < self._after_s:
            return []
        ordered, until = self._ordered, self._ordered.published_count
        count = min(stored_by_quorum(stored, self._write_quorum), until, *self._followers.told())
        if self._replication is not None:
            sent = self._replication.sent_count
            count = count if sent is None else min(count, sent)
            until = min(until, self._replication.standing.count)
        if count <= ordered.begins_at:
            return []  # a replica that was wiped since has stored less than its last life had
        found = releasable(self._journal, ordered.runs, count=count, until=until)
        if found is None:
            return []
        ordered.let_go(found.begins_at)
        for segment in found.segments:
            self._journal.release(segment)
        return [] if self._replication is None else self._replication.let_go(ordered.begins_at)
