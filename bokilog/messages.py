"""Every message: who sends it to whom, what its fields hold, its number.

A message is a NamedTuple: cheap to build, comparable in tests, passed as it is between cores in one
process. What is not plain in a field's type has a name of its own there, by which `wire` checks it
when it arrives.

Invariants: kinds are numbers that are never reused. Does not know: bytes, sockets, nor what any
message means to its receiver. Differs from Boki, whose messages are fixed C structs: columns and
lists leave room for the next version.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

from bokilog.columns import Columns, Tags
from bokilog.frame import Frame
from bokilog.ids import Position, Shard, Term
from bokilog.metalog import Entry, Run
from bokilog.named import NamedTuple
from bokilog.record import Buffer

# --- what fields hold, by their annotation (checked on arrival, see `wire`) ------------------

_TERMS_UNTIL: Final = 1 << 32
"""No cluster gets so far; one hash in four billion is smaller, and then taken for a term."""

Sum64: TypeAlias = Annotated[int, "Sum64"]
"""A checksum: any 64 bits. A plain `int` is a number in 0..2**63-1."""
Offset: TypeAlias = Annotated[int, "Offset"]
"""A byte offset, or -1."""
ReadTag: TypeAlias = Annotated[str | None, "ReadTag"]
"""A tag within its limit, since stored keys are made of it; None: every record."""
AuxBytes: TypeAlias = Annotated[bytes, "AuxBytes"]
"""Aux data within its limit."""
WireError: TypeAlias = Annotated[list[object], "WireError"]
"""`errors.to_wire`; `errors.from_wire` takes any list."""
PositionRows: TypeAlias = Annotated[list[list[int]], "PositionRows"]
"""[log space, term, count, tail]"""
SpaceRows: TypeAlias = Annotated[list[list[object]], "SpaceRows"]
"""[log space, durability class]"""
CountRows: TypeAlias = Annotated[list[list[int]], "CountRows"]
"""[shard number, count]"""
AwaitedRows: TypeAlias = Annotated[list[list[int]], "AwaitedRows"]
"""[term, shard number, first count, first seqnum]"""
Outcomes: TypeAlias = Annotated[list[list[object]], "Outcomes"]
"""[unit, VERDICT_*, a, b]"""
SealedRows: TypeAlias = Annotated[list[list[int]], "SealedRows"]
"""[log space, term, count, tail, timestamp ms, ceiling]"""
EndRows: TypeAlias = Annotated[list[list[int]], "EndRows"]
"""[log space, term, count]"""
EntryRows: TypeAlias = Annotated[list[list[object]], "EntryRows"]
"""[first seqnum, books, unit_records, tags, void units, timestamp ms]: columns as in the frame"""
TrimRows: TypeAlias = Annotated[list[list[object]], "TrimRows"]
"""[book, tag or None, trim_until]"""
VerdictRows: TypeAlias = Annotated[list[list[object]], "VerdictRows"]
"""[term, shard number, first count, [outcome, ...]]"""
AnswerRows: TypeAlias = Annotated[list[list[object]], "AnswerRows"]
"""[request, values or None, error or None]"""
MarkRows: TypeAlias = Annotated[list[list[int]], "MarkRows"]
"""[term, count, chained hash]"""
StoreRows: TypeAlias = Annotated[list[list[bytes]], "StoreRows"]
"""[key, value] as in the fold's store"""

# --- greeting ------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """First message of every connection, from the side that dialled."""

    role: str
    """client, engine, storage, sequencer, or control (status and stop)."""
    node: str
    incarnation: int
    """Of the process that dials; a client's is a random number of its start."""
    cluster_id: str
    """Empty: the client takes whatever cluster it finds."""
    term: int
    bulk: bool
    """This connection is for frames; another one carries everything else (P32)."""


class Welcome(NamedTuple):
    """Answer to `Hello`."""

    node: str
    incarnation: int
    cluster_id: str
    history_id: str
    term: int
    positions: PositionRows
    """To clients: [log space, term, count, tail] of each, as the primary reported them."""
    spaces: SpaceRows
    """To clients: [log space, durability class] of each."""


# --- client to engine, and back ------------------------------------------------------------------


class AppendFrame(NamedTuple):
    """Client to engine: a frame that has no LocalIds yet; numbered per (client, log space) (P4)."""

    space: int
    number: int
    columns: Columns
    payload: Sequence[Buffer]


class FrameOrdered(NamedTuple):
    """Engine to client: the frame's records stand at `first_seqnum` and on. Units that need a
    verdict wait for it."""

    space: int
    number: int
    first_seqnum: int
    position: Position
    timestamp_ms: int


class FrameVerdicts(NamedTuple):
    """Engine to client: what became of those units of an ordered frame that needed a verdict, or
    are void.

    `outcomes` has one `[unit, VERDICT_*, a, b]` each.
    """

    space: int
    number: int
    position: Position
    outcomes: Outcomes


class FrameRefused(NamedTuple):
    """Engine to client: this frame was not taken, nor will be any later one until it returns (P4).

    Storage node to engine: frames are not taken here for now, as the disk is full. The engine may
    send them again, and what another replica has stored may be ordered yet.
    """

    space: int
    number: int
    """From an engine, 0: none of those under way is refused, but the next ones will be. From a
    storage node the first count that it does not hold."""
    error: WireError


class FrameLost(NamedTuple):
    """Engine to client: the frame was taken, and whether it was ordered cannot be known any
    more."""

    space: int
    number: int
    reason: str


class Leaving(NamedTuple):
    """Engine to client: it is about to stop. What was sent is still answered; the client sends no
    more frames here, and goes to another engine once nothing is under way."""

    reason: str


VERDICT_VISIBLE = 0
"""a: first seqnum"""
VERDICT_CONDITION_FAILED = 1
"""a: tag or None, b: winner's seqnum"""
VERDICT_DUPLICATE = 2
"""a: first seqnum of the original, b: its length in records"""
VERDICT_KEY_REUSED = 3
"""a: first seqnum of the original, b: the key"""
VERDICT_BOOK_DELETED = 4
VERDICT_TAGS_ENDED = 5
"""a: the prefix"""
VERDICT_MALFORMED = 6
"""The frame did not decode: void on every replica (P34)."""


# --- reads: client to engine, engine to storage node, and back ------------------------------------


class Read(NamedTuple):
    """Visible records of a LogBook (`tag` None) or of one tag with `start <= seqnum < until`.

    Answered once the receiver's index has reached `position`; with `wait_ms` only when there is a
    record or the wait is over. In `reverse`, from the end.
    """

    request: int
    space: int
    book: int
    tag: ReadTag
    start: int
    until: int
    limit: int
    max_bytes: int
    reverse: bool
    position: Position
    wait_ms: int
    linearizable: bool
    bytes_start: Offset
    """Byte range of each record's data, -1: whole."""
    bytes_until: Offset


class CancelRead(NamedTuple):
    """Client to engine, engine to storage node: nobody waits for the answer to this `Read` any
    more, so that it need not wait for a record until its time is over."""

    space: int
    request: int


class ReadReply(NamedTuple):
    """The records found, in the asked order, with what that says of the rest.

    Forward, everything in `[start, next_seqnum)` is here; in reverse, everything in
    `[next_seqnum, until)`. So an answer is a fact about its range, for ever but for trims. `more`:
    the range holds more below `tail`.
    """

    request: int
    position: Position
    """The index position answered at."""
    tail: int
    trim_until: int
    next_seqnum: int
    more: bool
    seqnums: list[int]
    tags: list[Tags]
    timestamps_ms: list[int]
    auxes: list[bytes | None] | None
    """None when no record has aux data."""
    payload: Sequence[Buffer]
    """One buffer per record."""


class StillReading(NamedTuple):
    """Storage node to engine, again and again: the answer to this `Read` waits for the cold store,
    and not for a node that is silent."""

    request: int


class RequestFailed(NamedTuple):
    """Answer to any numbered request."""

    request: int
    error: WireError
    position: Position


class SeqnumAt(NamedTuple):
    """First seqnum of the log space whose cut is at or after `timestamp_ms`, or the tail."""

    request: int
    space: int
    timestamp_ms: int
    position: Position


class BookState(NamedTuple):
    """What the fold knows of a LogBook."""

    request: int
    space: int
    book: int
    position: Position
    linearizable: bool


class SetAux(NamedTuple):
    """Best-effort derived bytes beside a record; to every storage node of the log space."""

    request: int
    space: int
    book: int
    seqnum: int
    aux: AuxBytes


class Answer(NamedTuple):
    """Answer to `SeqnumAt`, `BookState`, `SetAux`, `Propose`: plain values whose meaning the
    request fixes, so whoever asked looks at them.

    SeqnumAt: [seqnum]. BookState: [trim_until, records, last seqnum, [[hold, seqnum, expiry ms],
    ...]]. SetAux: []. Propose: of a trim [until, held_by or None], of others [].
    """

    request: int
    position: Position
    values: list[object]


# --- ordering: engines, storage nodes and the sequencer -------------------------------------------


class OpenShardRequest(NamedTuple):
    """Engine to primary: this start's shard in the log space and term (P1)."""

    space: int
    term: int
    engine: str
    number: int


class ShardProgress(NamedTuple):
    """Storage node to primary: per shard how many records it holds to the class's standard (P6,
    P9)."""

    space: int
    term: int
    disk_id: str
    incarnation: int
    counts: CountRows


class FollowMetalog(NamedTuple):
    """Storage node or engine to primary: send runs from `position` on. `shard` 0: every entry
    (P18)."""

    space: int
    position: Position
    shard: int


class Metalog(NamedTuple):
    """Primary to storage nodes and engines: published entries."""

    run: Run


class MetalogPosition(NamedTuple):
    """Primary to engines: published so far, also when nothing touched their shards (P18)."""

    space: int
    position: Position
    tail: int


class Propose(NamedTuple):
    """Client to engine to primary: a trim, hold, release, deletion or end of tags. The fold's
    `Answer` answers it."""

    request: int
    space: int
    entry: Entry


class TailRequest(NamedTuple):
    """Client to engine to primary: a linearizable tail (P26)."""

    request: int
    space: int


class Tail(NamedTuple):
    """Primary to engine to client: everything acknowledged before the request lies below `tail`."""

    request: int
    space: int
    position: Position
    tail: int


class IndexReport(NamedTuple):
    """Index replica to primary: how far its fold is, and how far it is stored (P21, P32)."""

    space: int
    folded: Position
    stored: Position
    term: Sum64
    """Of the view that the replica works by. Versions before had the hash of their fold here, which
    nobody read (`said_in`)."""
    empty: bool
    """The fold holds no record of the log space, and will hold none by what is here in memory: it
    is new, or in memory and began anew. It says so of its term only (P20)."""

    @property
    def said_in(self) -> Term | None:
        """The term that it says something of; None: its sender is of a version that does not say.

        No replica tells a primary anything in term 0, which has none.
        """
        return Term(self.term) if 0 < self.term < _TERMS_UNTIL else None


class FramesLacking(NamedTuple):
    """Index replica to primary: the ordered records `[start, until)` of a shard hold its fold up,
    no other replica had them when asked, and no engine's copy of them is taken here any more, so
    long as this process runs (P24). Empty: it is held up no more."""

    space: int
    term: int
    """Of the shard."""
    number: int
    start: int
    until: int


# --- sequencers among themselves ------------------------------------------------------------------


class ReplicateRun(NamedTuple):
    """Primary to backup: entries to hold. `term` is the sender's (P17); the run's own may be an
    older one when a backup catches up."""

    term: int
    run: Run


class RunsHeld(NamedTuple):
    """Backup to primary: in `term` it holds everything up to `count`, to the class's standard
    (P11)."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class ReplicateFrom(NamedTuple):
    """Backup to primary, after a new link or view, or when entries are missing: send everything
    past `count`."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class FetchRuns(NamedTuple):
    """Sequencer to sequencer: entries `first` until `until` of the metalog as it was sealed in
    `term`."""

    space: int
    term: int
    first: int
    until: int


class Runs(NamedTuple):
    """Answer to `FetchRuns`: whole runs, in order, as many as fit; none: it does not have them."""

    space: int
    term: int
    runs: tuple[Run, ...]


class RunsGone(NamedTuple):
    """Sequencer to sequencer, from a primary or before `Runs`: entries before `count` are let go
    (P16). Who holds more may let them go too, who holds less goes on from there."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class HoldCeiling(NamedTuple):
    """Primary to backup: sync that seqnums below `seqnum` may be in use (P11)."""

    space: int
    term: int
    seqnum: int


class CeilingHeld(NamedTuple):
    """Answer to `HoldCeiling`, once it is synced."""

    space: int
    term: int
    seqnum: int


class SyncRuns(NamedTuple):
    """Primary to backup: sync the first `count` entries, which this class leaves to the operating
    system else (P11)."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class RunsSynced(NamedTuple):
    """Answer to `SyncRuns`: so many entries outlive a loss of power here."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class ConfirmTerm(NamedTuple):
    """Primary to backup: is the term unsealed still? One round per tick for all tails that wait
    (P26)."""

    space: int
    term: int
    round: int


class TermConfirmed(NamedTuple):
    """Answer to `ConfirmTerm`; none comes once the term is sealed (P14)."""

    space: int
    term: int
    round: int


# --- views: controllers, sequencers and everybody's sign of life ----------------------------------


class Heartbeat(NamedTuple):
    """Every node to every sequencer, every so often: it lives."""

    node: str
    role: str
    incarnation: int
    """As registered in the view store (P3)."""
    disk_id: str
    """Empty for a node that keeps nothing."""
    term: int
    """The newest that the node has heard of."""
    installed: int
    """The term of the view that it works by."""
    wall_ms: int
    """A sequencer's wall clock when it sent this, so that nobody far ahead becomes primary (P10);
    of others 0."""
    leaving: bool
    """A sequencer is about to stop, and asks for another primary. A storage node lacks records, or
    an index, that it gets from its peers (P33): none of them can be given up."""
    controller: bool
    """Its controller holds the lease."""


class Seal(NamedTuple):
    """Controller to sequencer: promise that nothing of `term` is acknowledged any more (P14)."""

    term: int


class Sealed(NamedTuple):
    """Sequencer to controller: the promise is synced; `ends` holds everything it ever acknowledged
    in any term up to `term`."""

    term: int
    disk_id: str
    incarnation: int
    ends: SealedRows
    """Of each log space it is a sequencer of: what it holds to the class's standard."""


class Extend(NamedTuple):
    """Controller to a sequencer of the next view: hold the metalogs of `term` up to these ends,
    and fetch what is missing from `source` (P13).

    Nothing past an end is dropped for this: another controller's end may be the one that is stored.
    """

    term: int
    ends: EndRows
    source: str


class Extended(NamedTuple):
    """Sequencer to controller: everything up to `ends` is synced here."""

    term: int
    disk_id: str
    incarnation: int
    ends: EndRows
    """As in the `Extend` that this answers: a controller may have asked for more since."""


# --- replication ----------------------------------------------------------------------------------


class Replicate(NamedTuple):
    """Engine to storage node (and storage node to storage node, in repair): a frame."""

    frame: Frame


class ResumeShard(NamedTuple):
    """Engine to storage node on link-up: how much of the shard do you hold? (P8)"""

    shard: Shard


class ShardHeld(NamedTuple):
    """Storage node to engine: its contiguous count of the shard."""

    shard: Shard
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class FetchFrames(NamedTuple):
    """Storage node to a peer: the ordered frames of a shard that it lacks (P8, P24)."""

    shard: Shard
    start: int
    until: int
    first_seqnum: int
    """Where the record `start` stands."""
    until_seqnum: int
    """Frames of any shard that hold seqnums up to here are wanted too, as many as fit."""


class FramesSent(NamedTuple):
    """Storage node to a peer: the end of its answer to `FetchFrames`, after the frames."""

    space: int
    frames: int
    """0: it does not have the first one that was asked for, whatever else it sent."""


class FoldMarks(NamedTuple):
    """Storage node to a peer: the chained hash of its fold at some positions (P24)."""

    space: int
    marks: MarkRows


# --- a fold from a peer ---------------------------------------------------------------------------


class SyncMetalog(NamedTuple):
    """Storage node to primary: a fold of the first `count` entries waits to be stored until no loss
    of power takes one of them any more (P11, P19)."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class MetalogSynced(NamedTuple):
    """Answer to `SyncMetalog`: a majority of the sequencers has synced so many entries, so that no
    end of a term lies before them (P11)."""

    space: int
    term: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class MetalogGone(NamedTuple):
    """Primary to a storage node: what you asked for is not kept any more; load a peer's fold
    (P16)."""

    space: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here
    """A fold that stands at so many entries, or more, can go on from there."""


class MetalogBegins(NamedTuple):
    """Primary to an engine that starts, first of all: earlier entries were let go, and with them
    which LogBooks they deleted; index replicas know (P5, P16, P18)."""

    space: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here
    """An index that stands at so many entries, or more, knows all the primary may not."""


class FetchSnapshot(NamedTuple):
    """Storage node to a peer: a part of your fold; the first part (0) begins a snapshot."""

    space: int
    number: int
    """Of the attempt, by the one who asks."""
    part: int


class SnapshotPart(NamedTuple):
    """Storage node to a peer: rows of the fold as it stood at `position`, in order of their keys.

    No rows and the position (0, 0): there is none to be given.
    """

    space: int
    number: int
    part: int
    position: Position
    rows: StoreRows
    last: bool


class FetchStored(NamedTuple):
    """Storage node to a peer: the live frames of these seqnums, which I have in my fold only."""

    space: int
    first_seqnum: int
    until_seqnum: int


class StoredFrame(NamedTuple):
    """Storage node to a peer: a frame that it lacks, and where it stands."""

    first_seqnum: int
    frame: Frame


class StoredSent(NamedTuple):
    """Storage node to a peer: the end of its answer to `FetchStored`, after the frames.

    Of the seqnums up to `until_seqnum`, what was neither sent nor is `lacking` is not live at
    `position`: no reader asks for it from there on.
    """

    space: int
    first_seqnum: int
    until_seqnum: int
    position: Position
    lacking: list[int]
    """First seqnums of frames that this node cannot give either."""


# --- index stream ---------------------------------------------------------------------------------


class FollowIndex(NamedTuple):
    """Engine to index replica: stream (position, tail) from now on, entries of `books`, verdicts of
    `number` (P27)."""

    space: int
    number: int
    """The engine's shard number: verdicts and proposals of its own are streamed to it."""
    books: list[int]
    verdicts: AwaitedRows
    """[term, shard number, first count, first seqnum] of ordered frames whose verdicts are awaited
    still (P23)."""


class IndexStream(NamedTuple):
    """Index replica to engine, at most once per tick: what was folded since the last one.

    `entries` has one `[first seqnum, books, unit_records, tags, void units, timestamp ms]` per
    ordered frame that holds a followed LogBook's units, columns as in the frame. `following` lists
    LogBooks whose entries are complete from `since` on.
    """

    space: int
    since: Position
    position: Position
    tail: int
    entries: EntryRows
    trims: TrimRows
    verdicts: VerdictRows
    answers: AnswerRows
    """[request, values or None, error or None] of the engine's own proposals."""
    following: list[int]
    deleted: list[int]


# --- control --------------------------------------------------------------------------------------


class StatusRequest(NamedTuple):
    """Anybody to anybody: what does this process say of itself?"""

    request: int


class Status(NamedTuple):
    """A process about itself, for `bokilog status`."""

    request: int
    facts: dict[str, object]


class TermChanged(NamedTuple):
    """Sequencer to everyone connected: a newer view is stored (P17)."""

    term: int


Message = (
    Hello
    | Welcome
    | AppendFrame
    | FrameOrdered
    | FrameVerdicts
    | FrameRefused
    | FrameLost
    | Leaving
    | Read
    | CancelRead
    | StillReading
    | ReadReply
    | RequestFailed
    | SeqnumAt
    | BookState
    | SetAux
    | Answer
    | OpenShardRequest
    | ShardProgress
    | FollowMetalog
    | Metalog
    | MetalogPosition
    | Propose
    | TailRequest
    | Tail
    | IndexReport
    | FramesLacking
    | FoldMarks
    | ReplicateRun
    | RunsHeld
    | ReplicateFrom
    | FetchRuns
    | Runs
    | RunsGone
    | HoldCeiling
    | CeilingHeld
    | SyncRuns
    | RunsSynced
    | ConfirmTerm
    | TermConfirmed
    | Replicate
    | ResumeShard
    | ShardHeld
    | FetchFrames
    | FramesSent
    | FetchSnapshot
    | SnapshotPart
    | FetchStored
    | StoredFrame
    | StoredSent
    | SyncMetalog
    | MetalogSynced
    | MetalogGone
    | MetalogBegins
    | FollowIndex
    | IndexStream
    | Heartbeat
    | Seal
    | Sealed
    | Extend
    | Extended
    | StatusRequest
    | Status
    | TermChanged
)

KINDS: dict[type[Message], int] = {
    Hello: 1,
    Welcome: 2,
    AppendFrame: 10,
    FrameOrdered: 11,
    FrameVerdicts: 12,
    FrameRefused: 13,
    FrameLost: 14,
    Leaving: 15,
    Read: 20,
    ReadReply: 21,
    RequestFailed: 22,
    SeqnumAt: 23,
    BookState: 24,
    SetAux: 25,
    Answer: 26,
    CancelRead: 27,
    StillReading: 28,
    OpenShardRequest: 40,
    ShardProgress: 41,
    FollowMetalog: 42,
    Metalog: 43,
    MetalogPosition: 44,
    Propose: 45,
    TailRequest: 46,
    Tail: 47,
    IndexReport: 48,
    ReplicateRun: 49,
    RunsHeld: 50,
    ReplicateFrom: 51,
    FetchRuns: 52,
    Runs: 53,
    HoldCeiling: 54,
    CeilingHeld: 55,
    ConfirmTerm: 56,
    TermConfirmed: 57,
    MetalogGone: 58,
    RunsGone: 59,
    Replicate: 60,
    ResumeShard: 61,
    ShardHeld: 62,
    FetchFrames: 63,
    FramesSent: 64,
    FetchSnapshot: 65,
    SnapshotPart: 66,
    FetchStored: 67,
    StoredFrame: 68,
    StoredSent: 69,
    FollowIndex: 70,
    IndexStream: 71,
    FramesLacking: 72,
    FoldMarks: 73,
    MetalogBegins: 74,
    SyncMetalog: 75,
    MetalogSynced: 76,
    SyncRuns: 77,
    RunsSynced: 78,
    Heartbeat: 80,
    Seal: 81,
    Sealed: 82,
    Extend: 83,
    Extended: 84,
    StatusRequest: 90,
    Status: 91,
    TermChanged: 92,
}
"""A message's number on the wire. Never reused."""
