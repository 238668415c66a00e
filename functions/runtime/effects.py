"""What happens to the scheduler of a host, and what it asks of its shell.

Decides nothing; timers and the end of a batch are those of all cores (`bokilog/effects.py`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from bokilog.effects import BatchEnded, SetTimer, TimerFired
from bokilog.functions.runtime.messages import CallMessage, FunctionRows

Role: TypeAlias = Literal["worker", "template", "caller", "host", "peer", "local"]
Address: TypeAlias = tuple[Role, int | str]
"""Who is at the other end: workers and templates by their number; callers, hosts that dialled this
one and calls from this process (`local`) by a number of the shell; `peer`: a host that this one
dialled, by its name."""


class Received(NamedTuple):
    """A message from a link that is up."""

    source: Address
    message: CallMessage


class LinkUp(NamedTuple):
    """A worker, caller, host or peer has greeted."""

    peer: Address


class LinkDown(NamedTuple):
    """Its connection is gone."""

    peer: Address
    whole: bool = False
    """All that it had written was read before."""


class TemplateEnded(NamedTuple):
    """The process of a template is gone."""

    template: int
    why: str


class MemoryUsed(NamedTuple):
    """What a worker has of memory that it did not have when it got ready."""

    worker: int
    used_bytes: int


class PeerLeaves(NamedTuple):
    """Another host has said that it ends, though it still answers: it finishes what it has."""

    name: str


class WorkerSilent(NamedTuple):
    """A worker has been asked whether it lives, and has not answered for long."""

    worker: int


class Reload(NamedTuple):
    """The app's files have changed: load it again."""

    why: str


class Stopping(NamedTuple):
    """The host is about to stop: no new calls; what runs may finish."""


class SendAway(NamedTuple):
    """What ran is over: callers and hosts are to make their calls elsewhere."""


class RetireAll(NamedTuple):
    """The time for that is over: calls that are left are told, workers end."""


Event: TypeAlias = (
    Received
    | LinkUp
    | LinkDown
    | TemplateEnded
    | MemoryUsed
    | PeerLeaves
    | WorkerSilent
    | Reload
    | Stopping
    | SendAway
    | RetireAll
    | TimerFired
    | BatchEnded
)


class Send(NamedTuple):
    """To a link; dropped if it does not stand."""

    to: Address
    message: CallMessage


class StartTemplate(NamedTuple):
    """Start the process of a template."""

    template: int


class EndTemplate(NamedTuple):
    """End it: its workers are gone."""

    template: int


class KillWorker(NamedTuple):
    """End a worker's process at once, and its connection."""

    worker: int
    pid: int
    """0: it is not known yet."""
    reason: str
    was_told: bool
    """It had been told to end and did not; else a `WorkerEnded` tells the same."""


class Disconnect(NamedTuple):
    """End a connection: what it said cannot be."""

    peer: Address
    reason: str


class AppLoaded(NamedTuple):
    """Calls run in this version from now on."""

    version: int
    functions: FunctionRows
    parts: list[list[object]]
    """Of the template's start: what, microseconds."""
    files: tuple[str, ...]
    """Whose change means a reload."""


class AppNotLoaded(NamedTuple):
    """The app cannot be loaded; an earlier version goes on serving, if there is one."""

    trace: str
    files: tuple[str, ...]
    serving: bool


class CallBegan(NamedTuple):
    """A worker was given a call: for people who watch."""

    call_id: str
    function: str
    attempt: int
    waited_s: float


class CallOver(NamedTuple):
    """A call was answered: for people who watch, and for metrics."""

    call_id: str
    function: str
    error: list[object]
    """As on the wire; empty: it went well."""
    took_s: float
    """Since it came."""
    cold: bool


class WorkerEnded(NamedTuple):
    """A worker is gone that nobody had told to end."""

    worker: int
    function: str
    reason: str


class TemplateLost(NamedTuple):
    """The template of the version that serves ended of itself; another one is started."""

    reason: str


Effect: TypeAlias = (
    Send
    | StartTemplate
    | EndTemplate
    | KillWorker
    | Disconnect
    | AppLoaded
    | AppNotLoaded
    | CallBegan
    | CallOver
    | WorkerEnded
    | TemplateLost
    | SetTimer
)
