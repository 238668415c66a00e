"""Which calls a host takes, as what, and with which error it refuses the others.

Decides by what can be known when a call comes: whether the host still takes calls, how deep it is,
whether the app has its function; and what the call is on this host: its number, id and deadline.

Invariants: whatever comes is either a call from then on or is answered, once; numbers of this host
are given in order and never twice. Does not know which host or worker runs a call, or how long
queues are: `no_room` and `unknown_function` are for whoever does.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from bokilog.call_errors import AppFailed, CallTooDeep, UnknownFunction
from bokilog.errors import BokilogError, NotReady, Overloaded
from bokilog.functions.runtime.effects import Address, Disconnect, Effect
from bokilog.functions.runtime.fleet import Fleet
from bokilog.functions.runtime.messages import DEPTH_MAX, Payload, Start, StartMany
from bokilog.functions.runtime.open_calls import OpenCalls
from bokilog.functions.runtime.other_hosts import OtherHosts
from bokilog.functions.runtime.pool import Call, Pool
from bokilog.functions.runtime.versions import Versions


class Admission:
    """The door of one host.

    Args:
        name: of the host.
        out: takes the effects.
    """

    __slots__ = ("_calls", "_fleet", "_hosts", "_name", "_numbers", "_out", "_versions")

    def __init__(
        self,
        name: str,
        *,
        calls: OpenCalls,
        hosts: OtherHosts,
        versions: Versions,
        fleet: Fleet,
        out: list[Effect],
    ) -> None:
        self._name = name
        self._calls = calls
        self._hosts = hosts
        self._versions = versions
        self._fleet = fleet
        self._out = out
        self._numbers = 0

    def take(
        self,
        source: Address,
        start: Start | StartMany,
        payload: Payload,
        now_s: float,
        *,
        asked: int,
    ) -> Call | None:
        """A call that may run here; else it is answered already."""
        pool = self._fleet.pools.get(start.function)
        problem = self._problem(source, start, pool)
        if problem is not None or pool is None:
            assert problem is not None
            # Names that no function has are counted as one: there is no end to them.
            shown = "" if pool is None else start.function
            self._calls.refuse(source, asked, problem, function=shown)
            return None
        limit_s = start.deadline_ms / 1e3 if start.deadline_ms else pool.options.timeout_s
        call = Call(
            self._numbers + 1,
            source=source,
            asked=asked,
            function=start.function,
            encoding=start.encoding,
            depth=start.depth,
            attempt=0 if isinstance(start, StartMany) else start.attempt,
            flags=start.flags,
            call_id=id_in_many(start.first_call_id, asked - start.first_call)
            if isinstance(start, StartMany)
            else start.call_id,
            token=start.token,
            trace=start.trace,
            payload=payload,
            received_s=now_s,
            deadline_s=now_s + limit_s,
        )
        call.home = source[0] == "host"
        if source[0] == "worker":
            call.parent = self._fleet.workers.get(int(source[1]))
        if not self._calls.add(call):
            self._out.append(Disconnect(source, f"call {asked} twice"))
            return None
        self._numbers += 1
        if call.parent is not None and not call.parent.pool.calls_others:
            call.parent.pool.calls_others = True
            self._fleet.recall(call.parent.pool.recall_all())
        return call

    def leaving(self) -> NotReady:
        """This host takes no more calls."""
        return NotReady(f"host {self._name} is about to stop")

    def _problem(
        self, source: Address, start: Start | StartMany, pool: Pool | None
    ) -> BokilogError | None:
        versions = self._versions
        if self._fleet.retired or (versions.stopping and self._cannot_go_on(source)):
            return self.leaving()
        if start.depth > DEPTH_MAX:
            return CallTooDeep(start.function, start.depth, DEPTH_MAX)
        if pool is not None:
            return None
        if not versions.loaded:
            if versions.failed:
                return AppFailed(versions.app, versions.failed)
            return NotReady(f"app {versions.app} is being loaded")
        return unknown_function(start.function, self._fleet.pools)

    def _cannot_go_on(self, source: Address) -> bool:
        """To another host, or as a part of a call that runs here."""
        return source[0] == "host" or (source[0] != "worker" and self._hosts.alone)


def unknown_function(function: str, known: Iterable[str]) -> UnknownFunction:
    """The app has no such function, or not any more; it has the known ones."""
    return UnknownFunction(function, _hint(function, known))


def no_room(pool: Pool) -> Overloaded:
    """One call more waits for a function than may."""
    retry_after_s = round(pool.retry_after_s(), 3)
    return Overloaded(retry_after_s, f"one more call of {pool.function}")


def id_in_many(first: str, place: int) -> str:
    """The id of a call of a fan-out.

    >>> id_in_many("0123456789abcdef", 0), id_in_many("0123456789abcdef", 2)
    ('0123456789abcdef', '0123456789abcdef.2')
    >>> id_in_many("0123456789abcdef.40", 2)
    '0123456789abcdef.42'
    """
    if place == 0:
        return first
    base, _, before = first.partition(".")
    return f"{base}.{(int(before) if before.isdigit() else 0) + place}"


def _hint(function: str, known: Iterable[str]) -> str:
    names = [name for name in known if not name.startswith("$")]
    near = get_close_matches(function, names, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": the app has {', '.join(sorted(names)[:20])}" if names else ": the app has none"
