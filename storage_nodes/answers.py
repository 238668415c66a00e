"""What others ask of one fold and its frames: answered now, kept waiting, or sent elsewhere.

Engines read and follow, peers ask for frames that they lack, backups for all that a snapshot names.

Decides which requests can be answered now and which wait: for their position, for a record of
their LogBook (P27, P28), or for bytes that lie in the object store; and what is said while there is
no fold (P33).

Invariants: nothing is answered below the position that a request names; a request waits in one
place; a peer is never told that bytes are gone when they are only out of reach; aux data costs time
when it is lost, never truth.

Does not know: how entries are folded, which connection is whose, nor what a record is: the reader
does.
"""

from __future__ import annotations

from collections.abc import Callable

from bokilog.cold import ColdMiss, ColdOutcome, FetchRange
from bokilog.effects import Address, CancelTimer, Effect, Send, SetTimer
from bokilog.errors import BokilogError, CorruptRecord, NotReady, to_wire
from bokilog.ids import START, LogSpaceId, NodeId, Shard, Term
from bokilog.messages import (
    Answer,
    BookState,
    CancelRead,
    FetchFrames,
    FetchStored,
    FollowIndex,
    FramesSent,
    Read,
    RequestFailed,
    SeqnumAt,
    SetAux,
    StillReading,
    StoredSent,
)
from bokilog.storage_nodes.backfill import give_stored
from bokilog.storage_nodes.cold_reads import ColdReads, ColdRequest, VerdictsWanted
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.loading import Loading
from bokilog.storage_nodes.pending import Pending
from bokilog.storage_nodes.reader import Reader
from bokilog.storage_nodes.releases import Releases
from bokilog.storage_nodes.repair import give
from bokilog.storage_nodes.streams import Streams
from bokilog.storage_nodes.unit_verdicts import verdicts_of
from bokilog.storage_nodes.waiting import WAITING_MAX, Request, Touched, WaitingRoom

EARLY_AUX_MAX = 256
"""Aux data kept for records that are not folded here yet, of at most 64 KiB each; beyond it the
oldest is lost, as aux data may be, so that seqnums that never come keep nobody out."""


class Answers:
    """The requests to one replica.

    Args:
        node: this node, for errors.
        space: the log space.
        index: the fold.
        reader: of that fold.
        loading: whether there is a fold.
        pending: frames that are not folded yet.
        cold: bytes that lie in the object store.
        streams: who follows the index.
        releases: whose backup is broken.
        suspect: is told of a seqnum whose record does not verify.
    """

    __slots__ = (
        "_cold",
        "_index",
        "_loading",
        "_node",
        "_pending",
        "_reader",
        "_releases",
        "_space",
        "_streams",
        "_suspect",
        "_waiting",
        "early_aux",
        "touched",
    )

    def __init__(
        self,
        *,
        node: NodeId,
        space: LogSpaceId,
        index: Index,
        reader: Reader,
        loading: Loading,
        pending: Pending,
        cold: ColdReads,
        streams: Streams,
        releases: Releases,
        suspect: Callable[[int], None],
    ) -> None:
        self._node = node
        self._space = space
        self._index = index
        self._reader = reader
        self._loading = loading
        self._pending = pending
        self._cold = cold
        self._streams = streams
        self._releases = releases
        self._suspect = suspect
        self._waiting = WaitingRoom(space)
        self.touched = Touched()
        self.early_aux: dict[int, SetAux] = {}
        """By seqnum, of records that this fold has not come to."""

    def stand_on(self, index: Index, reader: Reader, loading: Loading) -> None:
        """Another fold took the place of the one before."""
        self._index, self._reader, self._loading = index, reader, loading

    def succeed(self, before: Answers) -> None:
        """What others asked of the replica before is asked of this one."""
        self._streams, self._waiting = before._streams, before._waiting

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    # --- reads ------------------------------------------------------------------------------------

    def read(self, source: Address, read: Read) -> list[Effect]:
        """Answers, or waits for the read's position, then for a record if it may (P27, P28)."""
        position = self._index.position
        if self._loading.writing:
            return self._not_here(source, read)
        if read.position > position:
            return self._wait(source, read)
        if read.wait_ms and self._is_ahead(read):
            return self._wait(source, read)
        reply = self._reader.read(read, position)
        if isinstance(reply, ColdMiss):
            return self._wait_for_bytes(source, read, reply)
        if isinstance(reply, BokilogError):
            if isinstance(reply, CorruptRecord):
                self._suspect(reply.seqnum)
            return [Send(source, RequestFailed(read.request, to_wire(reply), position))]
        if reply.seqnums or not read.wait_ms or self._is_over(read):
            return [Send(source, reply)]
        return self._wait(source, read)

    def _is_ahead(self, read: Read) -> bool:
        """Whether a read that may wait is of nothing but what is not folded yet, as the polls of
        those who follow are: then there is nothing to look for."""
        start = read.start
        ahead = start >= self._index.tail and start >= self._reader.lost_until
        return ahead and read.until > start and not self._is_over(read)

    def _is_over(self, read: Read) -> bool:
        """Whether nothing can come any more: the LogBook was deleted (P5). Its followers look for
        the next one of that name as soon as they hear so.
        """
        return read.book in self._index.deleted_books

    def read_timer(self, key: int) -> list[Effect]:
        """The wait is over: whatever there is now."""
        waiting = self._waiting.take(key)
        if waiting is None or not isinstance(waiting.request, Read):
            return []
        return self.read(waiting.source, waiting.request._replace(wait_ms=0))

    def cancel(self, source: Address, message: CancelRead) -> list[Effect]:
        """An engine's client does not wait for a record any more."""
        return [*self._waiting.cancel(source, message.request)]

    def seqnum_at(self, source: Address, message: SeqnumAt) -> list[Effect]:
        """The first seqnum that was ordered at that time or later."""
        if self._loading.writing:
            return self._not_here(source, message)
        if message.position > self._index.position:
            return self._wait(source, message)
        seqnum = self._index.seqnum_at(message.timestamp_ms)
        return [Send(source, Answer(message.request, self._index.position, [seqnum]))]

    def book_state(self, source: Address, message: BookState) -> list[Effect]:
        """What a LogBook holds, for people."""
        if self._loading.writing:
            return self._not_here(source, message)
        if message.position > self._index.position:
            return self._wait(source, message)
        trim_until, records, last, holds = self._index.book_state(message.book)
        values: list[object] = [trim_until, records, last, [list(hold) for hold in holds]]
        return [Send(source, Answer(message.request, self._index.position, values))]

    def set_aux(self, message: SetAux) -> list[Effect]:
        """Kept if the record is visible here; losing it costs time, never truth."""
        if self._loading.writing:
            return []
        if self._index.contains(message.book, message.seqnum):
            self._index.set_aux(message.seqnum, message.aux)
        elif message.seqnum >= self._index.tail:
            if len(self.early_aux) >= EARLY_AUX_MAX:
                del self.early_aux[next(iter(self.early_aux))]
            self.early_aux[message.seqnum] = message
        return []

    def take_early_aux(self) -> None:
        """Aux data of records that were folded meanwhile."""
        for seqnum in [each for each in self.early_aux if each < self._index.tail]:
            self.set_aux(self.early_aux.pop(seqnum))

    # --- followers --------------------------------------------------------------------------------

    def follow(self, source: Address, message: FollowIndex) -> list[Effect]:
        """An engine follows the index, or more LogBooks of it; verdicts it lacks are worked out
        again (P23)."""
        if self._loading.writing:  # told once there is a fold
            self._streams.follow(source, number=message.number, books=message.books, position=START)
            return []
        follower, new = self._streams.follow(
            source, number=message.number, books=message.books, position=self._index.position
        )
        follower.deleted += sorted(self._index.deleted_books)
        for book in sorted(new):
            follower.trims += self._index.trims_of(book)
        effects: list[Effect] = []
        for wanted in message.verdicts:
            effects += self._tell_verdicts(source, VerdictsWanted(*wanted))
        return effects

    def _tell_verdicts(self, source: Address, wanted: VerdictsWanted) -> list[Effect]:
        term, number, first, first_seqnum = wanted
        follower = self._streams.follower(source)
        if follower is None or self._loading.writing:
            return []
        try:
            found = self._verdicts_again(Shard(self._space, Term(term), number), first_seqnum)
        except ColdMiss as miss:
            return self._wait_for_bytes(source, wanted, miss)
        if found is not None:
            follower.verdicts.append([term, number, first, found])
        return []

    def _verdicts_again(self, shard: Shard, first_seqnum: int) -> list[list[object]] | None:
        """A frame's verdicts from the fold's state: what became of its units does not change."""
        if first_seqnum >= self._index.tail:
            return None  # not folded yet: they will be streamed
        found = self._reader.frame_at(first_seqnum)
        if found is None or found[0].shard != shard:
            return None
        return verdicts_of(self._index, *found)

    # --- frames for peers and backups -------------------------------------------------------------

    def fetch(self, source: Address, message: FetchFrames) -> list[Effect]:
        """A peer lacks ordered frames (P8)."""
        if self._loading.writing:
            return [Send(source, FramesSent(self._space, 0))]
        try:
            return give(source, message, pending=self._pending, reader=self._reader)
        except ColdMiss as miss:
            return self._wait_for_bytes(source, message, miss)

    def fetch_stored(self, source: Address, message: FetchStored) -> list[Effect]:
        """A peer has loaded a fold, and lacks frames that it names; or a backup does."""
        if self._loading.writing:
            return []
        if self._releases.has_broken_backup(source):
            start = message.first_seqnum
            return [Send(source, StoredSent(self._space, start, start, START, []))]
        dead_too = self._releases.has_backup(source)
        try:
            return [*give_stored(source, message, self._index, self._reader, dead_too=dead_too)]
        except ColdMiss as miss:
            return self._wait_for_bytes(source, message, miss)

    # --- waiting ----------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether anybody waits, for a position or for a record."""
        return bool(self._waiting)

    def wake(self, effects: list[Effect]) -> None:
        """Requests whose position has come, and reads of what the fold changed."""
        position = self._index.position
        for waiting in self._waiting.reached(position):
            effects += self._ask(waiting.source, waiting.request)
        for key, waiting in self._waiting.touched(self.touched):
            assert isinstance(waiting.request, Read) and waiting.timer is not None
            reply = self._reader.read(waiting.request, position)
            if isinstance(reply, ColdMiss):
                effects += self._wait_for_bytes(waiting.source, waiting.request, reply)
                effects.append(CancelTimer(waiting.timer))
            elif isinstance(reply, BokilogError):
                failed = RequestFailed(waiting.request.request, to_wire(reply), position)
                effects += [Send(waiting.source, failed), CancelTimer(waiting.timer)]
            elif reply.seqnums or self._is_over(waiting.request):
                effects += [Send(waiting.source, reply), CancelTimer(waiting.timer)]
            else:
                continue
            self._waiting.take(key)

    def link_down(self, source: Address) -> list[Effect]:
        """Nobody waits for an answer there any more."""
        self._streams.drop(source)
        return [*self._waiting.drop(source), *self._cold.drop(source)]

    def send_away(self) -> list[Effect]:
        """There is no fold any more: everybody who waits asks another replica."""
        effects = self._cold.drop_all(self._refuse, self._loading_error())
        for waiting in self._waiting.drop_all():
            effects += self._not_here(waiting.source, waiting.request)
            if waiting.timer is not None:
                effects.append(CancelTimer(waiting.timer))
        return effects

    def _ask(self, source: Address, request: Request) -> list[Effect]:
        match request:
            case Read():
                return self.read(source, request)
            case SeqnumAt():
                return self.seqnum_at(source, request)
            case BookState():
                return self.book_state(source, request)

    def _wait(self, source: Address, request: Request) -> list[Effect]:
        position = self._index.position
        if self._waiting.full:
            error = NotReady(f"{WAITING_MAX} requests are waiting on {self._node} already")
            return [Send(source, RequestFailed(request.request, to_wire(error), position))]
        if request.position > position:
            self._waiting.for_position(source, request)
            return []
        assert isinstance(request, Read), "only reads wait for records"
        return [SetTimer(self._waiting.for_record(source, request), request.wait_ms / 1000)]

    def _not_here(self, source: Address, request: Request) -> list[Effect]:
        """There is no fold: another replica is asked (P33)."""
        error = to_wire(self._loading_error())
        return [Send(source, RequestFailed(request.request, error, START))]

    def _loading_error(self) -> NotReady:
        return NotReady(f"{self._node} loads the index of log space {self._space} from a peer")

    # --- bytes that lie cold ----------------------------------------------------------------------

    def fetched(self, job: FetchRange, outcome: ColdOutcome) -> list[Effect]:
        """A range of a cold segment has come, or will not."""
        return self._cold.fetched(job, outcome, ask=self._ask_again, refuse=self._refuse)

    def cold_timer(self, key: int) -> list[Effect]:
        """A request has waited for cold bytes for a while, or for too long."""
        return self._cold.timer(key, still=_still, refuse=self._refuse)

    def _wait_for_bytes(
        self, source: Address, request: ColdRequest, miss: ColdMiss
    ) -> list[Effect]:
        waits = self._cold.wait(source, request, miss)
        return self._refuse(source, request, waits) if isinstance(waits, NotReady) else waits

    def _ask_again(self, source: Address, request: ColdRequest) -> list[Effect]:
        match request:
            case Read():
                return self.read(source, request)
            case FetchFrames():
                return self.fetch(source, request)
            case FetchStored():
                return self.fetch_stored(source, request)
            case VerdictsWanted():
                return self._tell_verdicts(source, request)

    def _refuse(self, source: Address, request: ColdRequest, error: NotReady) -> list[Effect]:
        """Readers and backups are told; a peer asks another one, and must not take this for an
        answer: that would say that the bytes are gone."""
        number = request.request if isinstance(request, Read) else 0
        if isinstance(request, Read) or isinstance(source, int):
            return [Send(source, RequestFailed(number, to_wire(error), self._index.position))]
        return []


def _still(source: Address, request: ColdRequest) -> list[Effect]:
    """Engines take a node that says nothing for silent; peers and backups have more patience."""
    return [Send(source, StillReading(request.request))] if isinstance(request, Read) else []
