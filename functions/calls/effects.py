"""Events and effects of the core that claims calls (`claims.py`).

Decides nothing. A *ticket* is the tag that an append's condition names, `call:ID` or
`schedule:FUNCTION`: there is at most one append under way for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from bokilog.functions.calls.records import CallRecord, Spawned
from bokilog.functions.runtime.messages import Done
from bokilog.functions.runtime.options import FunctionOptions


class Woke(NamedTuple):
    """The time asked for by `WakeAt` has come; also the first event, and again now and then."""

    wall_ms: int


class Changed(NamedTuple):
    """The state has taken in a step of a call, or of a schedule; what its `apply` returned."""

    what: str


class CaughtUpNow(NamedTuple):
    """The state has come to the tail: what is open now is open."""


class StateReplaced(NamedTuple):
    """The state is another one now, or has left records out that are lost."""


class Appended(NamedTuple):
    """The ticket's append is in the log."""

    ticket: str
    seqnum: int


class Refused(NamedTuple):
    """Its condition failed: `winner` is the newest record of the ticket's tag."""

    ticket: str
    winner: int
    position: int
    """What the state has taken in: everything below."""


class NotAppended(NamedTuple):
    """The log could not be reached, or it is not known what came of the append."""

    ticket: str


class RunOver(NamedTuple):
    """The runner has done what `Run` asked for; all items of a stream are appended."""

    call_id: str
    attempt: int
    done: Done
    ran_ms: int


class HostsAre(NamedTuple):
    """The hosts that live, this one among them."""

    hosts: tuple[str, ...]


class FunctionsAre(NamedTuple):
    """What can be called here now; empty: the app is not loaded."""

    functions: Mapping[str, FunctionOptions]


class CapacityIs(NamedTuple):
    """How many durable calls may run here at once."""

    capacity: int


class Drain(NamedTuple):
    """Claim nothing more; with `now`, also give up what runs."""

    now: bool


ClaimsEvent: TypeAlias = (
    Woke
    | Changed
    | CaughtUpNow
    | StateReplaced
    | Appended
    | Refused
    | NotAppended
    | RunOver
    | HostsAre
    | FunctionsAre
    | CapacityIs
    | Drain
)


class Append(NamedTuple):
    """Append the record unless the ticket's tag has one after `after`; answer with the ticket."""

    ticket: str
    record: CallRecord
    tags: tuple[str, ...]
    after: int
    key: str | None


class Run(NamedTuple):
    """Start the call; answer with `RunOver`."""

    call_id: str
    attempt: int
    spawned_seqnum: int
    """Where its arguments are."""
    spawned: Spawned | None
    """They themselves, if they are at hand."""


class StopRun(NamedTuple):
    """Cancel the run: whatever comes of it, nobody wants to know."""

    call_id: str
    attempt: int
    reason: str


class WakeAt(NamedTuple):
    """Send `Woke` at that time, and forget earlier wishes."""

    at_s: float


ClaimsEffect: TypeAlias = Append | Run | StopRun | WakeAt
