"""How the calls of one function leave, whichever way it was called.

Decides what a call inherits from its caller (depth, what is left of the time, session token,
trace), whether its payload travels in the message or as a record, which calls share a message, and
when one that was lost is started again.

Invariants: what was started is among its caller's children until it is over, and so is cancelled
with it; no call has more time than its caller; of calls that start together either all are under
way or those that were are cancelled.

Does not know: signatures and values (`function.py` makes payloads), links (`caller.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from bokilog.call_errors import CallTimeout, CallTooDeep, WorkerLost
from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.errors import NotSupported, UnavailableError, from_wire
from bokilog.functions.runtime import references
from bokilog.functions.runtime.caller import HostCalls, OpenCall, Request
from bokilog.functions.runtime.context import Place
from bokilog.functions.runtime.messages import DEPTH_MAX, Done, Encoding, Flag
from bokilog.functions.runtime.streaming import SLICE_BYTES
from bokilog.record import Buffer

Packed: TypeAlias = tuple[str, Encoding, bytes]
"""(function, encoding, payload): a call, as its host is to get it."""


class Caller(Protocol):
    """What carries calls: the call that code runs in (`Context`), or a connection of the app."""

    @property
    def calls(self) -> HostCalls:
        """Where they go."""
        ...

    @property
    def child_depth(self) -> int:
        """Their depth."""
        ...

    @property
    def left_s(self) -> float:
        """They have no more time than this."""
        ...

    @property
    def trace(self) -> str:
        """What they belong to, as a W3C traceparent."""
        ...

    @property
    def host(self) -> str:
        """Of the node that the caller is on; empty: none."""
        ...

    @property
    def place(self) -> Place:
        """The process."""
        ...

    @property
    def children(self) -> set[OpenCall]:
        """Those under way."""
        ...

    def token(self) -> str:
        """What they have to see."""
        ...

    def merge(self, token: str) -> None:
        """One of them has seen this."""
        ...

    def session_for(self, log: ClientLog) -> Session:
        """For payloads by reference."""
        ...

    async def connected_log(self) -> ClientLog | None:
        """The log; None where there is none."""
        ...


class Outgoing:
    """The calls of one function with one set of options.

    Args:
        app: whose function it is.
        function: its name, for errors: hosts may know it by another one.
        timeout_s: of each call, unless its caller has less.
        retries: how often a call is started again when it is lost.
        retry_delay_s: before the first time; doubled each time, up to a minute.
    """

    __slots__ = ("_app", "_function", "_retries", "_retry_delay_s", "timeout_s")

    def __init__(
        self, app: str, function: str, *, timeout_s: float, retries: int, retry_delay_s: float
    ) -> None:
        self._app = app
        self._function = function
        self.timeout_s = timeout_s
        self._retries = retries
        self._retry_delay_s = retry_delay_s

    # --- to the host ---

    async def run(self, caller: Caller, packed: Packed) -> Done:
        """What came of one call; one that was lost is started again, as often as was said."""
        name, encoding, payload = packed
        attempt = 0
        while True:
            try:
                # Every attempt keeps a large payload anew: what lost the call may have had it.
                carried: tuple[int, bytes] = encoding, payload
                if len(payload) > references.BY_REFERENCE_BYTES:
                    carried = await references.carried(
                        caller, self._app, encoding=encoding, payload=payload
                    )
                if not caller.calls.up:
                    await self._wait_up(caller)
                request = self._request(caller, name, carried[0], attempt=attempt)
                opened = caller.calls.start(request, carried[1])
                caller.children.add(opened)
                try:
                    done = await caller.calls.wait(opened)
                finally:
                    caller.children.discard(opened)
            except UnavailableError:
                if attempt >= self._retries:
                    raise
            else:
                if attempt >= self._retries or not _was_lost(done):
                    return done
            attempt += 1
            await asyncio.sleep(_retry_delay_s(self._retry_delay_s, attempt))

    async def start_stream(self, caller: Caller, packed: Packed) -> OpenCall:
        """A call that gives items as its reader takes them."""
        name, encoding, payload = packed
        await self._wait_up(caller)
        carried = await references.carried(caller, self._app, encoding=encoding, payload=payload)
        request = self._request(caller, name, carried[0], flags=Flag.STREAM)
        return _child(caller, caller.calls.start(request, carried[1]))

    async def start_many(self, caller: Caller, calls: Iterable[Packed]) -> list[OpenCall]:
        """Several calls, in as few messages as they allow."""
        await self._wait_up(caller)
        opened: list[OpenCall] = []
        together: list[Buffer] = []
        kind, size_bytes = (self._function, 0), 0
        try:
            for name, encoding, payload in calls:
                carried = await references.carried(
                    caller, self._app, encoding=encoding, payload=payload
                )
                if kind != (name, carried[0]) or size_bytes + len(carried[1]) > SLICE_BYTES:
                    opened += self._start_together(caller, kind, together)
                    together, size_bytes = [], 0
                kind = name, carried[0]
                together.append(carried[1])
                size_bytes += len(carried[1])
            opened += self._start_together(caller, kind, together)
        except BaseException:
            for each in opened:
                caller.calls.cancel(each, "others of its map could not be started")
            raise
        return opened

    def _start_together(
        self, caller: Caller, kind: tuple[str, int], payloads: Sequence[Buffer]
    ) -> list[OpenCall]:
        if not payloads:
            return []
        opened = caller.calls.start_many(self._request(caller, *kind), payloads)
        return [_child(caller, each) for each in opened]

    async def _wait_up(self, caller: Caller) -> None:
        await caller.calls.wait_up(min(self.timeout_s, caller.left_s))

    # --- what goes along ---

    def depth_within(self, caller: Caller) -> int:
        """The depth of its calls.

        Raises:
            CallTooDeep: it is more than calls within calls may have.
        """
        depth = caller.child_depth
        if depth > DEPTH_MAX:
            raise CallTooDeep(self._function, depth, DEPTH_MAX)
        return depth

    def _request(
        self, caller: Caller, name: str, encoding: int, *, attempt: int = 0, flags: int = 0
    ) -> Request:
        depth = self.depth_within(caller)
        timeout_s = min(self.timeout_s, caller.left_s)
        if timeout_s <= 0:
            raise CallTimeout(self._function, self.timeout_s)
        return Request(
            name,
            encoding,
            timeout_s,
            depth,
            attempt,
            flags,
            f"{random.getrandbits(64):016x}",
            caller.token(),
            caller.trace,
        )

    # --- payloads by reference ---

    async def fetched(self, caller: Caller, reference: Buffer) -> tuple[int, bytes]:
        """The (encoding, payload) that stands behind what came back.

        Raises:
            NotSupported: there is no log here.
        """
        log = await caller.connected_log()
        if log is None:
            problem = "its result is a record, and no log is connected here"
            raise NotSupported(self._function, problem)
        return await references.fetch(log, reference, caller.session_for(log))


def _was_lost(done: Done) -> bool:
    """Whether it is no fault of the function that the call is over."""
    return bool(done.error) and isinstance(from_wire(done.error), (WorkerLost, UnavailableError))


def _retry_delay_s(first_s: float, attempt: int) -> float:
    doubled: float = min(first_s * 2.0 ** (attempt - 1), 60.0)
    return doubled * (1.0 - random.random() / 2.0)


def _child(caller: Caller, opened: OpenCall) -> OpenCall:
    """A call that its caller does not wait for at once is cancelled with it all the same."""
    caller.children.add(opened)
    opened.done.add_done_callback(lambda _: caller.children.discard(opened))
    return opened
