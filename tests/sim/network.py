"""The network: connections that delay, stall, clog, break and come back.

Decides when bytes arrive. One direction of a connection is ordered and loses nothing while the
connection stands, as TCP is; anything may happen between connections: messages overtake each other,
one direction of a link is cut while the other works, a reset loses whatever was on its way, and
each end learns of it at its own time. What is sent again after a reconnect is how duplicates come
about.

Messages travel encoded: nothing is shared between processes. Does not know what they mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bokilog.messages import Message
from bokilog.wire import decode, encode
from tests.sim.loop import World
from tests.sim.swarm import Knobs

Encoded = tuple[int, bytes, Sequence[memoryview]]
CLOGGED_BYTES = 6_000
"""As `LinkSettings.clogged_bytes`, for the sizes of this world."""


class End(Protocol):
    """One process's side of its connections."""

    @property
    def name(self) -> str: ...

    def arrived(self, wire: Wire, message: Message) -> None: ...

    def up(self, wire: Wire, term: int) -> None: ...

    def lost(self, wire: Wire) -> None: ...

    def clogged(self, wire: Wire, *, clear: bool) -> None: ...


@dataclass(slots=True)
class Greeting:
    """The acceptor's `Welcome`: the dialler's link is up from here on."""

    term: int


class Closed:
    """The end of a connection, as the receiver learns of it."""


Item = Encoded | Greeting | Closed


class Pipe:
    """One direction of a connection."""

    __slots__ = (
        "bytes",
        "clogged",
        "ends",
        "items",
        "last_s",
        "pump",
        "scheduled",
        "source",
        "target",
        "title",
        "wire",
    )

    def __init__(self, wire: Wire, source: End, target: End, pump: Callable[[Pipe], None]) -> None:
        self.wire = wire
        self.source = source
        self.target = target
        self.ends = source.name, target.name
        self.title = f"{source.name} > {target.name}"
        """In the trace."""
        self.pump = partial(pump, self)
        self.items: deque[tuple[float, int, Item]] = deque()
        """(when it arrives, size in bytes, what)"""
        self.last_s = 0.0
        self.bytes = 0
        self.clogged = False
        self.scheduled = False


class Wire:
    """One connection. `broken`: nothing more is taken, what was taken may still arrive."""

    __slots__ = ("_network", "broken", "bulk", "dialler", "pipes")

    def __init__(self, network: Network, dialler: End, acceptor: End, *, bulk: bool) -> None:
        self._network = network
        self.dialler = dialler
        self.bulk = bulk
        self.broken = False
        self.pipes = {
            id(dialler): Pipe(self, dialler, acceptor, network.pump),
            id(acceptor): Pipe(self, acceptor, dialler, network.pump),
        }

    def send(self, source: End, message: Message) -> bool:
        if self.broken:
            return False
        kind, head, attachments = encode(message)
        parts: Sequence[memoryview] = ()
        size_bytes = len(head)
        if attachments:
            parts = [memoryview(bytes(part)) for part in attachments]
            size_bytes += sum(map(len, parts))
        self._network.put(self.pipes[id(source)], (kind, bytes(head), parts), size_bytes)
        return True

    def greet(self, source: End, term: int) -> None:
        self._network.put(self.pipes[id(source)], Greeting(term))


class Network:
    """All connections, and what is wrong with them."""

    def __init__(self, world: World, knobs: Knobs) -> None:
        self._world = world
        self._knobs = knobs
        self._chance = world.chance("network")
        self._cuts: dict[tuple[str, str], int] = {}
        self._clogs: dict[tuple[str, str], float] = {}
        self._stalled: list[Pipe] = []
        self._wires: dict[Wire, None] = {}
        self._busy: dict[Pipe, None] = {}
        """Those with something on its way."""
        self.messages_count = 0

    # --- carrying ---------------------------------------------------------------------------------

    def connect(self, dialler: End, acceptor: End, *, bulk: bool = False) -> Wire:
        wire = Wire(self, dialler, acceptor, bulk=bulk)
        self._wires[wire] = None
        return wire

    def delay_s(self, source: str, target: str) -> float:
        return self._delay_s(clogged=self._is_clogged((source, target)))

    def _delay_s(self, *, clogged: bool) -> float:
        knobs, chance = self._knobs, self._chance.random
        delay_s = knobs.latency_s * (0.5 + chance())
        if chance() < knobs.slow_share:
            delay_s += self._chance.expovariate(1 / knobs.slow_s)
        return delay_s + knobs.clog_s if clogged else delay_s

    def is_cut(self, source: str, target: str) -> bool:
        return bool(self._cuts.get((source, target)))

    def _is_clogged(self, ends: tuple[str, str]) -> bool:
        return self._clogs.get(ends, 0.0) > self._world.now_s

    def put(self, pipe: Pipe, item: Item, size_bytes: int = 0) -> None:
        clogged = bool(self._clogs) and self._is_clogged(pipe.ends)
        delay_s = self._delay_s(clogged=clogged)
        at_s = self._world.now_s + delay_s
        behind_s = pipe.last_s + delay_s if clogged else pipe.last_s
        pipe.last_s = at_s = max(behind_s, at_s)
        pipe.items.append((at_s, size_bytes, item))
        pipe.bytes += size_bytes
        if pipe.bytes > CLOGGED_BYTES and not pipe.clogged and not pipe.wire.broken:
            pipe.clogged = True
            pipe.source.clogged(pipe.wire, clear=False)
        if not pipe.scheduled:
            self._schedule(pipe)

    def _schedule(self, pipe: Pipe) -> None:
        if not pipe.items:
            self._busy.pop(pipe, None)
        elif not pipe.scheduled:
            self._busy[pipe] = None
            pipe.scheduled = True
            self._world.at(pipe.items[0][0], pipe.pump)

    def pump(self, pipe: Pipe) -> None:
        """What is due at the end of a pipe arrives, one thing at a time."""
        pipe.scheduled = False
        if not pipe.items:
            return
        if self._cuts.get(pipe.ends):
            self._stalled.append(pipe)
            return
        at_s, size_bytes, item = pipe.items[0]
        if at_s <= self._world.now_s:
            pipe.items.popleft()
            pipe.bytes -= size_bytes
            self._arrive(pipe, item, size_bytes)
            if pipe.clogged and pipe.bytes < CLOGGED_BYTES // 4:
                pipe.clogged = False
                if not pipe.wire.broken:
                    pipe.source.clogged(pipe.wire, clear=True)
        self._schedule(pipe)

    def _arrive(self, pipe: Pipe, item: Item, size_bytes: int) -> None:
        if isinstance(item, tuple):
            message = decode(*item)
            self.messages_count += 1
            self._world.note(f"{pipe.title} {type(message).__name__} {size_bytes}")
            pipe.target.arrived(pipe.wire, message)
        elif isinstance(item, Greeting):
            pipe.target.up(pipe.wire, item.term)
        else:
            pipe.target.lost(pipe.wire)

    # --- breaking ---------------------------------------------------------------------------------

    def reset(self, wire: Wire, *, silent_to: End | None = None) -> None:
        """A connection ends: each direction still delivers some of what was on its way.

        Args:
            wire: the connection.
            silent_to: an end that need not be told: it is dead, or did it itself.
        """
        if wire.broken:
            return
        wire.broken = True
        self._wires.pop(wire, None)
        for pipe in wire.pipes.values():
            kept = self._chance.randrange(len(pipe.items) + 1)
            while len(pipe.items) > kept:
                pipe.bytes -= pipe.items.pop()[1]
            if pipe.target is silent_to:
                pipe.items.clear()
            else:
                self.put(pipe, Closed())

    def wires_of(self, *ends: str) -> list[Wire]:
        """Standing connections that all of these are ends of."""
        return [
            wire
            for wire in self._wires
            if set(ends) <= {pipe.source.name for pipe in wire.pipes.values()}
        ]

    def cut(self, source: str, target: str) -> None:
        """Nothing arrives any more in one direction, until it is mended."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        self._cuts[source, target] -= 1
        self._resume()

    def clog(self, source: str, target: str, until_s: float) -> None:
        self._clogs[source, target] = until_s

    def heal(self) -> None:
        """No cut and no clog is left, and what these have held up is soon there."""
        self._cuts.clear()
        self._clogs.clear()
        for pipe in list(self._busy):
            pipe.last_s = self._world.now_s + self._knobs.latency_s
            pipe.items = deque((pipe.last_s, size, item) for _, size, item in pipe.items)
            pipe.scheduled = False
            self._schedule(pipe)
        self._resume()

    def _resume(self) -> None:
        stalled, self._stalled = self._stalled, []
        for pipe in stalled:
            self._schedule(pipe)
