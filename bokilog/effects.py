"""What cores are told and what they ask for: the events and effects that all of them share.

A core is `handle(event, now_s) -> list[Effect]`. It never waits and never does I/O; whatever
depends on bytes being durable is produced while handling `Persisted`, never while handling the
request (A3).

Named tuples, which cost half of what a frozen dataclass costs to make and to import; they are
compared by their type only with `match` and `isinstance`.
"""

from collections.abc import Hashable
from typing import Protocol

from bokilog.cold import ColdJob, ColdOutcome
from bokilog.ids import Term
from bokilog.messages import Message
from bokilog.named import NamedTuple
from bokilog.view import View

Address = Hashable
"""Who a message came from or goes to: a node's name, or the number a shell gave a client's
connection."""


class Received(NamedTuple):
    """A message from a peer or a client."""

    source: Address
    message: Message


class LinkUp(NamedTuple):
    """A connection to (or from) `peer` stands; what was sent on an earlier one may be lost."""

    peer: Address


class LinkDown(NamedTuple):
    """The connection to `peer` is gone; what was sent on it may or may not have arrived."""

    peer: Address


class LinkClogged(NamedTuple):
    """`peer` takes bytes more slowly than they are sent; `clear`: it has caught up (P8)."""

    peer: Address
    clear: bool


class ViewInstalled(NamedTuple):
    """The next view was read from the view store; views are delivered in order, none left out
    (P15)."""

    view: View


class TimerFired(NamedTuple):
    """The time of a `SetTimer` has come."""

    timer: Hashable


class Persisted(NamedTuple):
    """Everything up to the commit with this token is held to its log space's standard."""

    token: int


class PersistFailed(NamedTuple):
    """The commit with this token, and all since, could not be made durable; the node is read-only
    (P7)."""

    token: int
    reason: str


class ReadOnlyChanged(NamedTuple):
    """The journal of `space` takes nothing for now, or (an empty reason) takes bytes again; nothing
    was lost."""

    space: int
    reason: str


class CeilingRaised(NamedTuple):
    """Seqnums below `seqnum` may be given in `space`: that is synced, whatever becomes of its
    metalog (P11)."""

    space: int
    seqnum: int


class WrittenSynced(NamedTuple):
    """Of the metalog of `space`, as of `term`, no loss of power takes the first `count` entries any
    more (P11)."""

    space: int
    term: Term
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class CheckpointStored(NamedTuple):
    """The generation of `space` that was frozen is on disk, and with it the position it stands at
    (P19)."""

    space: int


class ColdDone(NamedTuple):
    """A `StartCold` has ended, in whatever way."""

    space: int
    job: ColdJob
    outcome: ColdOutcome


class BatchEnded(NamedTuple):
    """The inbox is drained: here the primary cuts, the storage node groups, the client flushes.

    `wall_ms` is the wall clock, for cut timestamps only (P10).
    """

    wall_ms: int


class PromiseStored(NamedTuple):
    """The promise not to acknowledge anything of `term` any more is synced (P14)."""

    term: Term


class LeaseHeld(NamedTuple):
    """This node's controller is the active one for as long as it renews; safety never rests on
    that."""

    intent: tuple[Term, str] | None
    """The stored intent to end a term, with its reason, if no later view is stored (P15)."""


class LeaseLost(NamedTuple):
    """Another node's controller is the active one, or nobody's, or the view store does not
    answer."""

    holder: str
    """Who holds the lease, empty if that is not known."""


class IntentStored(NamedTuple):
    """The intent to end `term` is in the view store: sealing may start (P15)."""

    term: Term


class ViewSwapped(NamedTuple):
    """The compare-and-swap that was to store the view of `term` has an outcome."""

    term: Term
    ok: bool
    """False: another view of that term is stored, or nobody knows: load views and look."""


Event = (
    Received
    | LinkUp
    | LinkDown
    | LinkClogged
    | ViewInstalled
    | TimerFired
    | Persisted
    | PersistFailed
    | ReadOnlyChanged
    | CeilingRaised
    | WrittenSynced
    | CheckpointStored
    | ColdDone
    | PromiseStored
    | LeaseHeld
    | LeaseLost
    | IntentStored
    | ViewSwapped
    | BatchEnded
)


class Send(NamedTuple):
    """To a peer; dropped with a count if no connection to it stands (protocols here resume by
    themselves)."""

    to: Address
    message: Message


class Commit(NamedTuple):
    """What was appended to the journal of `space` so far is to be made durable;
    `Persisted(token)` tells when it is.

    Commits of one batch on one journal share one sync (a group).
    """

    space: int
    token: int


class SetTimer(NamedTuple):
    """`TimerFired(timer)` after a delay; set again, only the new time counts."""

    timer: Hashable
    delay_s: float


class CancelTimer(NamedTuple):
    """No `TimerFired(timer)` any more; one that was not set is no error."""

    timer: Hashable


class Disconnect(NamedTuple):
    """End the connection to `peer`: it broke the protocol or is of another cluster."""

    peer: Address
    reason: str


class LoadView(NamedTuple):
    """Some peer knows a newer term: read the next view from the view store and deliver it (P17)."""

    term: int


class Checkpoint(NamedTuple):
    """The fold of `space` has a generation ready to be written to its store, off the commit path
    (P19)."""

    space: int


class StartCold(NamedTuple):
    """Work on a segment of `space` in the object store for cold ones, off the loop; `ColdDone`
    tells."""

    space: int
    job: ColdJob


class RaiseCeiling(NamedTuple):
    """Sync somewhere that seqnums of `space` below `seqnum` may be in use; `CeilingRaised` tells
    when (P11)."""

    space: int
    seqnum: int


class SyncWritten(NamedTuple):
    """Sync all that is written of the journal of `space`, also where commits are left to the
    operating system; `WrittenSynced` tells, with the same fields (P11). Without an answer it has
    failed: nothing more may be counted on."""

    space: int
    term: Term
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls here


class StorePromise(NamedTuple):
    """Sync that nothing of `term`, or an older one, is acknowledged here any more;
    `PromiseStored` tells when (P14)."""

    term: Term


class AcquireLease:
    """Get or renew the lease of the active controller; `LeaseHeld` or `LeaseLost` tells."""

    __slots__ = ()


class ReleaseLease:
    """Let another controller be the active one at once."""

    __slots__ = ()


class StoreIntent(NamedTuple):
    """Store that `term` is to end, and why; `IntentStored` tells when. Without an answer the
    controller asks again (P15)."""

    term: Term
    reason: str


class SwapView(NamedTuple):
    """Store `view` as the next one iff the last stored term is `expected_term`; `ViewSwapped`
    tells (P13)."""

    expected_term: Term
    view: View


class EndTerm(NamedTuple):
    """This sequencer's term cannot go on: the process ends, and its next start is a new term."""

    reason: str


Effect = (
    Send
    | Commit
    | SetTimer
    | CancelTimer
    | Disconnect
    | LoadView
    | Checkpoint
    | StartCold
    | RaiseCeiling
    | SyncWritten
    | StorePromise
    | AcquireLease
    | ReleaseLease
    | StoreIntent
    | SwapView
    | EndTerm
)


class Core(Protocol):
    """What every core is: a pure state machine."""

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What follows from an event at `now_s` seconds of a monotonic clock."""
        ...
