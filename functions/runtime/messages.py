"""Messages between those who call functions and those who run them, and their form on the wire.

Four kinds of processes meet here (ARCHITECTURE has the picture): *callers* (workers that call other
functions, and programs outside), *hosts* (one per function node), *templates* and *workers*. They
use the framing of all connections (`bokilog/framing.py`) with kinds of their own. The dialling side
says `Greeting`, the other answers `Greeted`.

What a call carries (arguments, results, items) travels as the only attachment, never inside the
head, and the host hands it on as it came: only caller and worker know what it means (`encoding`).

Invariants: kinds are numbers that are never reused; whatever arrives is checked, so that garbage
ends a link and reaches nobody. Does not know sockets, nor what any message means to its receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, TypeAlias

from bokilog.codec import (
    flag,
    listed,
    natural,
    naturals,
    pack,
    row,
    text,
    unexpected,
    unpack,
)
from bokilog.errors import RemoteProtocolError
from bokilog.framing import WireMessage
from bokilog.metalog import annotation_text
from bokilog.record import Buffer

CALLS_VERSION: Final = 1
"""Of these messages; a host refuses another one by name."""
DEPTH_MAX: Final = 64
"""Calls within calls: recursion without end is found before it has taken every worker."""
STREAM_WINDOW: Final = 64
"""Items of a stream under way at most; the receiver's `Credit` makes room again."""

Payload: TypeAlias = Buffer
"""Arguments or a result: the message's attachment."""
Payloads: TypeAlias = Sequence[Buffer]
"""The attachments of a message that has several."""
WireError: TypeAlias = list[object]
"""`errors.to_wire`; empty: no error."""
FunctionRows: TypeAlias = list[list[object]]
"""[name, options as `options.to_plain`, signature as text, what its first line of help says]"""
PartRows: TypeAlias = list[list[object]]
"""[what, microseconds]: the parts of a cold start, in order"""


class Encoding(IntEnum):
    """How a payload is to be read; values never change their meaning."""

    MSGPACK = 0
    """Arguments: [positional, by name]; a result: one value; plain values, and typed ones by the
    function's annotations."""
    JSON = 1
    """Arguments: an object by name, or an array; a result: one value. From and to HTTP."""
    RAW = 2
    """Arguments: the bytes of the only argument; a result: bytes."""
    PICKLE = 3
    """By cloudpickle, between Python programs of one app; never read by a host or a gateway."""
    REFERENCE = 4
    """msgpack [LogBook, seqnum, encoding, host]: the payload is the data of that record."""


class Flag(IntFlag):
    """What is special about a call."""

    STREAM = 1
    """The function yields: `Item`s come before `Done`, at most `STREAM_WINDOW` without credit."""
    DURABLE = 2
    """Its result becomes a record: nobody needs to stay connected for it."""


# --- greeting -------------------------------------------------------------------------------------


class Greeting(NamedTuple):
    """First message of a connection to a host, from the side that dialled."""

    version: int
    role: str
    """worker, template, caller or host."""
    name: str
    """Of the host that dials; of others for people only."""
    app: str
    number: int
    """Of the worker or of the template, as the host gave it; 0 for others."""


class Greeted(NamedTuple):
    """The host's answer to callers and hosts; said again when a reload changed the functions."""

    host: str
    app: str
    app_version: int
    """How often this host has loaded the app."""
    functions: FunctionRows


# --- calls: caller to host, host to worker, host to host; answers go back the same way ------------


class Start(NamedTuple):
    """Run a function. `call` is the sender's number for it on this link, never used twice."""

    call: int
    function: str
    encoding: int
    deadline_ms: int
    """What is left of its time; 0: as the function's own `timeout_s` says."""
    depth: int
    """0 for a call from outside; one more for each call within a call."""
    attempt: int
    """0, then one more each time it is started again."""
    flags: int
    call_id: str
    """What people and records call it by."""
    token: str
    """What the caller has seen of the log; empty: nothing."""
    trace: str
    """A W3C traceparent; empty: not traced."""
    payload: Payload


class StartMany(NamedTuple):
    """Run one function many times: calls `first_call`, `first_call + 1`, and so on (tree start)."""

    first_call: int
    function: str
    encoding: int
    deadline_ms: int
    depth: int
    flags: int
    first_call_id: str
    """The others' ids are this one's with their place after a dot."""
    token: str
    trace: str
    payloads: Payloads


class Item(NamedTuple):
    """The next value of a stream."""

    call: int
    place: int
    """0, 1, 2 and so on."""
    encoding: int
    payload: Payload


class Credit(NamedTuple):
    """To who runs a stream: so many more items may come."""

    call: int
    items: int


class Done(NamedTuple):
    """A call is over. With an error, `payload` may hold the exception itself (PICKLE)."""

    call: int
    encoding: int
    token: str
    error: WireError
    queued_us: int
    """How long it waited at hosts."""
    ran_us: int
    cold: bool
    """A worker was started for it."""
    payload: Payload


class Cancel(NamedTuple):
    """Whoever asked for the call does not want it any more; `Done` follows all the same."""

    call: int
    reason: str


class Leaving(NamedTuple):
    """Host to callers and hosts: it is about to close this link, make your calls elsewhere. Said
    back by whoever makes none here any more: without that the last ones would be cut off unread."""

    name: str
    """Of the host that says it; empty: a caller."""


# --- worker and template to host, and back --------------------------------------------------------


class WorkerReady(NamedTuple):
    """Worker to host, once: it takes calls now."""

    worker: int
    pid: int
    parts: PartRows


class Output(NamedTuple):
    """Worker to host: what a call wrote (`call` 0: what no call wrote); 1 is stdout, 2 stderr."""

    call: int
    stream: int
    written: str


class Retire(NamedTuple):
    """Host to worker: finish what runs, then end."""

    worker: int


class Pulse(NamedTuple):
    """Host to worker, and back at once: its loop turns."""

    worker: int


class Recall(NamedTuple):
    """Host to worker: give back a call whose turn has not come; `Returned` follows, if so."""

    call: int


class Returned(NamedTuple):
    """Worker to host: its turn had not come, and it is not here any more."""

    call: int


class TemplateReady(NamedTuple):
    """Template to host: the app is imported and initialised; workers can be forked now."""

    template: int
    pid: int
    app: str
    functions: FunctionRows
    parts: PartRows
    files: list[object]
    """Paths of the modules that came from the user's folders: a change of one means a reload."""


class TemplateFailed(NamedTuple):
    """Template to host: the app cannot be loaded; it ends."""

    template: int
    trace: str
    files: list[object]


class Fork(NamedTuple):
    """Host to template: start workers of these numbers for one function."""

    function: str
    workers: list[int]


class Forked(NamedTuple):
    """Template to host: they run; pids in the order of `Fork.workers`."""

    workers: list[int]
    pids: list[int]


class WorkerExited(NamedTuple):
    """Template to host: a worker is gone; `status` as in `os.waitstatus_to_exitcode`, plus 256."""

    worker: int
    pid: int
    status: int


# --- what calls wrote, asked for by people --------------------------------------------------------


class OutputsRequest(NamedTuple):
    """Caller to host: what did a call write? An empty id: which calls are remembered?"""

    call_id: str


class Outputs(NamedTuple):
    """The answer; of a call that is not remembered, nothing."""

    call_id: str
    pieces: list[object]
    """[stream, text] in order; or, without an id, [id, function, outcome], the newest last."""


CallMessage: TypeAlias = (
    Greeting
    | Greeted
    | Start
    | StartMany
    | Item
    | Credit
    | Done
    | Cancel
    | Leaving
    | WorkerReady
    | Output
    | Retire
    | Recall
    | Returned
    | Pulse
    | TemplateReady
    | TemplateFailed
    | Fork
    | Forked
    | WorkerExited
    | OutputsRequest
    | Outputs
)

KINDS: Final[dict[type[CallMessage], int]] = {
    Greeting: 160,
    Greeted: 161,
    Start: 162,
    StartMany: 163,
    Item: 164,
    Credit: 165,
    Done: 166,
    Cancel: 167,
    WorkerReady: 168,
    Output: 169,
    Retire: 170,
    TemplateReady: 171,
    TemplateFailed: 172,
    Fork: 173,
    Forked: 174,
    WorkerExited: 175,
    OutputsRequest: 176,
    Outputs: 177,
    Recall: 178,
    Returned: 179,
    Pulse: 180,
    Leaving: 181,
}
_BY_KIND: Final = {kind: message for message, kind in KINDS.items()}


# --- the wire -------------------------------------------------------------------------------------


def encode(message: CallMessage) -> tuple[int, bytes, Sequence[Buffer]]:
    """A message as (kind, msgpack head, attachments)."""
    kind = KINDS[type(message)]
    if isinstance(message, (Start, Done, Item)):
        return kind, pack(message[:-1]), (message.payload,)
    if isinstance(message, StartMany):
        return kind, pack(message[:-1]), message.payloads
    return kind, pack(message), ()


def decode(wire: WireMessage) -> CallMessage:
    """The message in a frame; payloads are slices of the read, so copy what is kept for long.

    Raises:
        RemoteProtocolError: it is none of this version.
    """
    kind, head, attachments = wire
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise RemoteProtocolError(problem=f"a message of kind {kind}")
    return decoder(head, attachments)


def _decoder_of(
    message: type[CallMessage],
) -> Callable[[memoryview, Sequence[memoryview]], CallMessage]:
    texts = [annotation_text(each) for each in message.__annotations__.values()]
    attached = texts[-1] if texts[-1] in ("Payload", "Payloads") else None
    checks = [_CHECK_OF[each] for each in texts[: -1 if attached else None]]
    width = len(checks)

    def decode_one(head: memoryview, attachments: Sequence[memoryview]) -> CallMessage:
        values = row(unpack(head), width)
        for place, check in enumerate(checks):
            check(values[place])
        if attached is None:
            if attachments:
                raise unexpected(attachments, "no attachment")
            return message._make(values)
        if attached == "Payloads":
            return message._make([*values, attachments])
        if len(attachments) != 1:
            raise unexpected(attachments, "one attachment")
        return message._make([*values, attachments[0]])

    return decode_one


def _function_rows(value: object) -> object:
    for each in listed(value):
        name, options, signature, help_line = row(each, 4)
        text(name)
        text(signature)
        text(help_line)
        if type(options) is not dict:
            raise unexpected(options, "options by name")
    return value


def _part_rows(value: object) -> object:
    for each in listed(value):
        what, took_us = row(each, 2)
        text(what)
        natural(took_us)
    return value


_CHECK_OF: Final[dict[str, Callable[[object], object]]] = {
    "int": natural,
    "str": text,
    "bool": flag,
    "list[int]": naturals,
    "list[object]": listed,
    "WireError": listed,
    "FunctionRows": _function_rows,
    "PartRows": _part_rows,
}
_DECODERS: Final = {kind: _decoder_of(message) for kind, message in _BY_KIND.items()}
