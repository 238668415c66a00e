"""How much of a metalog outlives the power of the machines, where commits do not wait for that.

Metalogs of the classes `flush` and `memory` are written and left to the operating system, so that
a loss of power takes their last entries, and a term may end before what was published (P11). What a
majority of the sequencers has synced no end of a term lies before: the seal hears of it from one of
them at least (P14), and all of it is synced again before another disk gets a vote (P13). Storage
nodes store no fold past that, so that none of them ever has to go back behind what it has stored,
and what they have stored may be let go (P16, P19).

Decides when a sequencer syncs what it has written: once somebody wants more than was synced, and
that is written; one sync at a time, of all there is. And who is told, once a majority has.

Invariants: what counts was written when its sync began; a term counts anew, since what was written
in the one before may have been dropped.

Does not know: disks, what entries say. With class `sync` there is nothing to do: nobody asks.
"""

from __future__ import annotations

from bokilog.effects import Address, Effect, Send, SyncWritten
from bokilog.ids import LogSpaceId, Term
from bokilog.messages import MetalogSynced
from bokilog.sequencer.replication import Replication


class OwnSync:
    """Of one sequencer's own journal, in one term."""

    __slots__ = ("_space", "_term", "_under_way", "_wanted", "count")

    def __init__(self, space: LogSpaceId, term: Term) -> None:
        self.count = 0
        """Entries that are synced."""
        self._space = space
        self._term = term
        self._wanted: set[int] = set()
        """Counts that somebody waits for; who wants one waits for no other."""
        self._under_way = False

    @property
    def waits(self) -> bool:
        """Whether more is wanted than is synced."""
        return bool(self._wanted)

    def want(self, count: int, *, written: int) -> list[Effect]:
        """So many entries are to be synced."""
        if count > self.count:
            self._wanted.add(count)
        return self.moved(written)

    def moved(self, written: int) -> list[Effect]:
        """So many are written: all of them are synced, if that is enough for anybody. What is more
        than the term's end is wanted in vain."""
        if self._under_way or all(wanted > written for wanted in self._wanted):
            return []
        self._under_way = True
        return [SyncWritten(self._space, self._term, written)]

    def synced(self, term: Term, count: int, *, written: int) -> list[Effect]:
        """A sync has ended; what was asked for in another term says nothing of this one."""
        if term != self._term:
            return []
        self._under_way = False
        self.count = max(self.count, count)
        self._wanted = {wanted for wanted in self._wanted if wanted > self.count}
        return self.moved(written)


class Synced:
    """Of one log space, as its primary sees it.

    Args:
        space: the log space.
        term: of the view.
        replication: its backups; None: there are none.
    """

    __slots__ = ("_replication", "_space", "_term", "_waiting", "own")

    def __init__(self, space: LogSpaceId, term: Term, replication: Replication | None) -> None:
        self._space = space
        self._term = term
        self._replication = replication
        self._waiting: dict[Address, int] = {}
        """By storage node, how many entries it wants synced."""
        self.own = OwnSync(space, term)
        """Of the primary's own journal."""

    @property
    def count(self) -> int:
        """Entries that no loss of power takes from a majority."""
        own, replication = self.own.count, self._replication
        return own if replication is None else replication.synced_count(own)

    @property
    def waits(self) -> bool:
        """Whether this sequencer is to sync more than it could."""
        return self.own.waits

    def want(self, source: Address, count: int, *, written: int) -> list[Effect]:
        """A storage node is to be told once so many entries are synced."""
        self._waiting[source] = count
        effects = self._tell()
        if source in self._waiting:
            effects += self.own.want(count, written=written)
            if self._replication is not None:
                effects += self._replication.ask_sync(count)
        return effects

    def moved(self, written: int) -> list[Effect]:
        """So many entries are written here."""
        return self.own.moved(written)

    def own_synced(self, term: Term, count: int, *, written: int) -> list[Effect]:
        """A sync of this sequencer has ended."""
        return [*self.own.synced(term, count, written=written), *self._tell()]

    def backup_synced(self) -> list[Effect]:
        """A backup has told that it has synced more."""
        return self._tell()

    def link_down(self, source: Address) -> None:
        """It asks again."""
        self._waiting.pop(source, None)

    def _tell(self) -> list[Effect]:
        count = self.count
        told = [source for source, wanted in self._waiting.items() if wanted <= count]
        for source in told:
            del self._waiting[source]
        message = MetalogSynced(self._space, self._term, count)
        return [Send(source, message) for source in told]
