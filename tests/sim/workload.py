"""Clients and what they do: real clients on virtual loops, random calls, everything written down.

Decides which calls are made, from the seed. A client has one connection to one engine at a time and
goes to the next when it is lost, as `bokilog.connect` does with several seeds; it may die at any
moment, also between a send and its ack, and comes back as another one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from random import Random
from typing import cast

from bokilog.client.admin import ClientLog
from bokilog.client.logbook import ClientLogBook
from bokilog.client.node import Client
from bokilog.client.port import Events
from bokilog.client.session import Session
from bokilog.errors import BokilogError, DataLost, LogBookConflict, Trimmed
from bokilog.ids import NodeId, Position
from bokilog.messages import AppendFrame, Message, Welcome
from bokilog.record import Buffer, Durability, Entry, Record, Trim
from tests.sim.cluster import WALL_START_MS, Cluster
from tests.sim.history import Following, History, Kind, Operation, Track
from tests.sim.loop import ProcessLoop, World
from tests.sim.network import Wire
from tests.sim.swarm import Knobs

Book = ClientLogBook[Buffer]
REDIAL_S = 0.03


class SimPort:
    """The way to one engine at a time."""

    def __init__(self, cluster: Cluster, name: str, loop: ProcessLoop, events: Events) -> None:
        self.name = name
        self._cluster = cluster
        self._loop = loop
        self._events = events
        self._wire: Wire | None = None
        self._welcomed = False
        self._seeds = itertools.cycle(
            cluster.world.chance(name).sample(cluster.engines, len(cluster.engines))
        )
        loop.call_soon(self._dial)

    # --- Port -------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        if self._wire is None or not self._welcomed or self._loop.dead:
            return False
        if isinstance(message, AppendFrame):
            message = message._replace(payload=[b"".join(message.payload)])
        return self._wire.send(self, message)

    def flush(self) -> None:
        pass  # the simulated network takes each message at once

    def leave(self) -> None:
        raise AssertionError("engines of this simulation do not leave")

    def close(self) -> None:
        self._drop()

    # --- End --------------------------------------------------------------------------------------

    def arrived(self, wire: Wire, message: Message) -> None:
        if wire is self._wire and not self._loop.dead:
            self._loop.call_soon(self._take, wire, message)

    def _take(self, wire: Wire, message: Message) -> None:
        if wire is not self._wire:
            return
        if not self._welcomed:
            assert isinstance(message, Welcome), f"the engine greeted by {message}"
            self._welcomed = True
            self._events.on_up(message)
            return
        self._events.on_messages([message])

    def up(self, wire: Wire, term: int) -> None:
        raise AssertionError("an engine greets a client by its Welcome")

    def lost(self, wire: Wire) -> None:
        if wire is self._wire and not self._loop.dead:
            self._loop.call_soon(self._lost, wire)

    def _lost(self, wire: Wire) -> None:
        if wire is not self._wire:
            return
        was_up, self._wire, self._welcomed = self._welcomed, None, False
        if was_up:
            self._events.on_down("the connection was reset")
        self._loop.call_later(REDIAL_S, self._dial)

    def clogged(self, wire: Wire, *, clear: bool) -> None:
        """A client does not mind: what is in flight is bounded."""

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._cluster.network.reset(wire, silent_to=self)

    def _dial(self) -> None:
        if self._wire is not None:
            return
        engine: NodeId = next(self._seeds)
        network = self._cluster.network
        process = self._cluster.processes.get(engine)
        if (
            process is None
            or process.loop.paused
            or network.is_cut(self.name, engine)
            or network.is_cut(engine, self.name)
        ):
            self._loop.call_later(REDIAL_S, self._dial)
            return
        wire = self._wire = network.connect(self, process)
        process.accept_client(wire)
        self._loop.call_later(0.5, self._not_greeted, wire)

    def _not_greeted(self, wire: Wire) -> None:
        """An engine without a primary does not greet: the next one may."""
        if wire is self._wire and not self._welcomed:
            self._drop()
            self._dial()


class SimClient:
    """One life of one client."""

    def __init__(
        self, cluster: Cluster, knobs: Knobs, history: History, number: int, life: int
    ) -> None:
        self.name = f"client-{number}"
        self.life = f"{self.name}.{life}"
        self.loop = ProcessLoop(cluster.world, self.life)
        self.stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._cluster = cluster
        self._world: World = cluster.world
        self._knobs = knobs
        self._history = history
        self._chance = cluster.world.chance(self.life)
        self._made = 0
        self._prepared: set[str] = set()
        self._log = self.loop.inside(self._connect)
        self._default = Track(f"{self.life} default")

    @property
    def _session0(self) -> Session:
        return self._log.client.default_session

    def _connect(self) -> ClientLog:
        client = Client(
            lambda events: SimPort(self._cluster, self.name, self.loop, events),
            timeout_s=self._knobs.timeout_s,
        )
        return ClientLog(client)

    def start(self) -> None:
        """Begin to work."""
        for worker in range(self._knobs.workers):
            self.spawn(self._work(worker))
        for follower in range(self._knobs.followers):
            self.spawn(self._follow(follower))

    def forget(self, name: str) -> None:
        """The LogBook was deleted."""
        self._prepared.discard(name)

    def spawn(self, work: Awaitable[None]) -> None:
        self._tasks.append(self.loop.create_task(_awaited(work)))

    def die(self) -> None:
        """`kill -9`: nobody hears the answers."""
        port = self._log.client.core.port
        self.loop.end()
        if port is not None:
            port.close()

    # --- work -------------------------------------------------------------------------------------

    async def _up(self) -> None:
        while self._log.client.core.welcome is None:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.02)

    async def _work(self, worker: int) -> None:
        await self._up()
        track, session = self._default, self._log.client.default_session
        names = list(self._knobs.weights)
        weights = list(self._knobs.weights.values())
        while not self.stopping:
            pause_s = self._chance.expovariate(1 / self._knobs.pause_s)
            await asyncio.sleep(pause_s)
            name = self._chance.choices(names, weights)[0]
            if name == "token":
                track, session = self._session(worker)
                continue
            book = self._log.book(self.book_name(), session=session)
            await Calls(self, book, track, session, self._chance).make(name)

    def book_name(self) -> str:
        """Of some LogBook."""
        return self._knobs.book_names[self._chance.randrange(self._knobs.books)]

    async def prepare(self, name: str) -> Operation | None:
        """Whoever appends to a LogBook that is not of class `sync` creates it first."""
        durability = self._knobs.durability_of(name)
        if durability == "sync" or name in self._prepared:
            return None
        calls = Calls(self, self._log.book(name), self._default, self._session0, self._chance)
        done = await calls.create(durability)
        if done.ok or isinstance(done.error, LogBookConflict):
            # An append that overtook a deletion may have made it anew, with the usual class.
            self._prepared.add(name)
            return None
        return done

    def _session(self, worker: int) -> tuple[Track, Session]:
        """Goes on with what somebody else has seen, and leaves what this one has for others."""
        track = self._default
        session: Session = self._log.client.default_session
        given = Track(f"token of {track.name}", track.positions, dict(track.trims))
        tokens = self._history.tokens
        tokens.append((session.token, given))
        token, theirs = self._chance.choice(tokens[-20:])
        mine = Track(f"{self.life} worker {worker}", theirs.positions, dict(theirs.trims))
        return mine, self._log.session(token)

    async def _follow(self, number: int) -> None:
        await self._up()
        book = self._log.book(self.book_name())
        tag = self._chance.choice((None, "t0"))
        start = 0
        while True:
            seen = Following(self.life, book.name, tag, start)
            self._history.followings.append(seen)
            try:
                async for record in book.follow(tag=tag, min_seqnum=start):
                    assert isinstance(record, Record)
                    seen.records.append(record)
            except Trimmed as error:
                start = error.trim_until
            except DataLost as error:
                start = error.seqnum + 1  # of a log space in memory; what comes next is there
            except BokilogError as error:
                self._world.note(f"{self.life} follow {number} {error!r}")
                await asyncio.sleep(0.1)
                start = seen.records[-1].seqnum + 1 if seen.records else start
            finally:
                seen.over = True

    # --- for Calls --------------------------------------------------------------------------------

    def data(self) -> bytes:
        """Bytes that nobody else appends."""
        self._made += 1
        name = f"{self.life}:{self._made}:".encode()
        size = self._chance.randrange(self._knobs.data_bytes)
        return name + b"x" * size

    def tags(self) -> str | tuple[str, ...]:
        amount = self._chance.choice((0, 1, 1, 1, 2))
        names = [f"t{number}" for number in range(self._knobs.tags)]
        return tuple(self._chance.sample(names, min(amount, len(names))))

    def history_tail(self, name: str) -> int:
        """About where the order of a LogBook's log space ends."""
        return self._cluster.oracles[self._knobs.space_of(name)].tail

    def positions(self, session: Session) -> tuple[Position, ...]:
        """What a session says that it has seen."""
        return tuple(session.position(space) for space in self._cluster.spaces)

    def wall_ms(self) -> int:
        """About the time of the last records."""
        return WALL_START_MS + int(self._world.now_s * 1000)

    @property
    def log(self) -> ClientLog:
        return self._log

    @property
    def knobs(self) -> Knobs:
        return self._knobs

    @property
    def history(self) -> History:
        return self._history


class Calls:
    """Random calls on one LogBook, through one session."""

    def __init__(
        self, client: SimClient, book: Book, track: Track, session: Session, chance: Random
    ) -> None:
        self._client = client
        self._book = book
        self._track = track
        self._session = session
        self._chance = chance

    async def make(self, name: str) -> None:
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "append": self._append,
            "burst": self._burst,
            "batch": self._batch,
            "unless": self._unless,
            "key": self._key,
            "read_next": self._read_next,
            "read_prev": self._read_prev,
            "read": self._read,
            "page": self._page,
            "linearizable": self._linearizable,
            "tail": self._tail,
            "trim": self._trim,
            "trim_tag": self._trim_tag,
            "hold": self._hold,
            "release": self._release,
            "key_batch": self._key_batch,
            "aux": self._aux,
            "seqnum_at": self._seqnum_at,
            "delete": self._delete,
        }
        await calls[name]()

    async def _call(
        self, kind: Kind, call: Callable[[], Awaitable[object]], **args: object
    ) -> Operation:
        history = self._client.history
        operation = history.begin(kind, self._client.life, self._book.name, self._track, args)
        try:
            answer = await call()
        except BokilogError as error:
            history.end(operation, self._positions(), error=error)
        except asyncio.CancelledError:
            history.given_up(operation)
            raise
        else:
            history.end(operation, self._positions(), answer=answer)
            if kind == "trim" and args["tag"] is None:
                trims = self._track.trims
                until = cast(Trim, answer).until
                trims[self._book.name] = max(trims.get(self._book.name, 0), until)
        history.answered()
        return operation

    def _positions(self) -> tuple[Position, ...]:
        return self._client.positions(self._session)

    # --- appends ----------------------------------------------------------------------------------

    async def _append(self) -> None:
        await self._append_one(self._client.data(), self._client.tags())

    async def _append_one(
        self, data: bytes, tags: str | tuple[str, ...], **more: object
    ) -> Operation:
        args = {key: value for key, value in more.items() if value is not None}
        refused = await self._client.prepare(self._book.name)
        if refused is not None and not refused.ok:
            return refused
        return await self._call(
            "append",
            lambda: self._book.append(data, tags, **args),  # type: ignore[arg-type]
            datas=(data,),
            tags=(tags,),
            **args,
        )

    async def _burst(self) -> None:
        """Several at once: they share frames."""
        count = self._chance.randrange(2, 12)
        made = [(self._client.data(), self._client.tags()) for _ in range(count)]
        await asyncio.gather(*(self._append_one(data, tags) for data, tags in made))

    async def _batch(self) -> None:
        count = self._chance.randrange(1, 5)
        datas = tuple(self._client.data() for _ in range(count))
        tags = tuple(self._client.tags() for _ in range(count))
        entries = [Entry(data, tag) for data, tag in zip(datas, tags, strict=True)]
        unless = {"t0": self._seqnum()} if self._chance.random() < 0.3 else None
        refused = await self._client.prepare(self._book.name)
        if refused is not None and not refused.ok:
            return
        await self._call(
            "append",
            lambda: self._book.append_batch(entries, unless=unless),
            datas=datas,
            tags=tags,
            unless=unless,
        )

    async def _unless(self) -> None:
        """As one takes a lock: nobody after the last one that was seen."""
        tag = f"t{self._chance.randrange(self._client.knobs.tags)}"
        tested = self._chance.choice((tag, tag, None))
        found = await self._call(
            "read_prev",
            lambda: self._book.read_prev(tag=tested),
            tag=tested,
            max_seqnum=None,
            linearizable=False,
        )
        after = found.answer.seqnum if isinstance(found.answer, Record) else 0
        await self._append_one(self._client.data(), tag, unless={tested: after})

    async def _key(self) -> None:
        """A new key, or one that was used already, with the same content or (rarely) another."""
        keyed, chance = self._client.history.keyed, self._chance
        if keyed and chance.random() < 0.6:
            name, key, data, tag = chance.choice(keyed[-12:])
            if name != self._book.name:
                return
            if chance.random() < 0.1:
                data = self._client.data()
        else:
            data, tag = self._client.data(), f"t{chance.randrange(self._client.knobs.tags)}"
            key = f"key of {data.decode()[:20]}"
            keyed.append((self._book.name, key, data, tag))
        for _ in range(4):
            done = await self._append_one(data, tag or (), key=key)
            if not done.unknown:
                return

    async def _key_batch(self) -> None:
        """A unit with a key, tried again as it is: the same span, or nothing was ordered before."""
        chance = self._chance
        refused = await self._client.prepare(self._book.name)
        if refused is not None and not refused.ok:
            return
        count = chance.randrange(2, 6)
        datas = tuple(self._client.data() for _ in range(count))
        tags = tuple(self._client.tags() for _ in range(count))
        entries = [Entry(data, tag) for data, tag in zip(datas, tags, strict=True)]
        key = f"key of unit {datas[0].decode()[:20]}"
        for _ in range(chance.choice((1, 2, 3))):
            await self._call(
                "append",
                lambda: self._book.append_batch(entries, key=key),
                datas=datas,
                tags=tags,
                key=key,
            )

    # --- LogBooks ---------------------------------------------------------------------------------

    async def create(self, durability: Durability) -> Operation:
        """Create the LogBook with a class of its own."""
        log, name = self._client.log, self._book.name
        return await self._call(
            "create",
            lambda: log.create_book(
                name, durability=durability, retention_bytes=self._client.knobs.retention_bytes
            ),
            durability=durability,
        )

    async def _delete(self) -> None:
        """Delete the LogBook; whoever appends next makes another one of that name."""
        log, name = self._client.log, self._book.name
        done = await self._call("delete", lambda: log.delete_book(name))
        if done.ok or done.unknown:
            self._client.forget(name)

    # --- reads ------------------------------------------------------------------------------------

    def _seqnum(self) -> int:
        """Some place: mostly near the end of what is known."""
        tail = max(2, self._client.history_tail(self._book.name))
        if self._chance.random() < 0.2:
            return 0
        if self._chance.random() < 0.5:
            return max(1, tail - self._chance.randrange(12))
        return self._chance.randrange(1, tail + 3)

    def _tag(self) -> str | None:
        if self._chance.random() < 0.3:
            return None
        return f"t{self._chance.randrange(self._client.knobs.tags)}"

    def _wait_s(self) -> float:
        return self._chance.choice((0.0, 0.0, 0.02, 0.3))

    async def _read_next(self, *, linearizable: bool = False) -> None:
        tag, start, wait_s = self._tag(), self._seqnum(), self._wait_s()
        await self._call(
            "read_next",
            lambda: self._book.read_next(
                tag=tag,
                min_seqnum=start,
                wait_s=wait_s,
                consistency="linearizable" if linearizable else "session",
            ),
            tag=tag,
            min_seqnum=start,
            linearizable=linearizable,
        )

    async def _read_prev(self, *, linearizable: bool = False) -> None:
        tag = self._tag()
        most = None if self._chance.random() < 0.6 else self._seqnum()
        await self._call(
            "read_prev",
            lambda: self._book.read_prev(
                tag=tag,
                max_seqnum=most,
                consistency="linearizable" if linearizable else "session",
            ),
            tag=tag,
            max_seqnum=most,
            linearizable=linearizable,
        )

    async def _read(self, *, linearizable: bool = False) -> None:
        seqnum, wait_s = max(1, self._seqnum()), self._wait_s()
        await self._call(
            "read",
            lambda: self._book.read(
                seqnum,
                wait_s=wait_s,
                consistency="linearizable" if linearizable else "session",
            ),
            seqnum=seqnum,
            linearizable=linearizable,
        )

    async def _page(self, *, linearizable: bool = False) -> None:
        tag, start = self._tag(), self._seqnum()
        until = None if self._chance.random() < 0.7 else start + self._chance.randrange(20)
        limit, reverse = self._chance.choice((1, 3, 100)), self._chance.random() < 0.3
        await self._call(
            "page",
            lambda: self._book.read_range(
                tag=tag,
                min_seqnum=start,
                until=until,
                limit=limit,
                reverse=reverse,
                consistency="linearizable" if linearizable else "session",
            ),
            tag=tag,
            min_seqnum=start,
            until=until,
            limit=limit,
            reverse=reverse,
            linearizable=linearizable,
        )

    async def _linearizable(self) -> None:
        call = self._chance.choice((self._read_next, self._read_prev, self._read, self._page))
        await call(linearizable=True)

    async def _tail(self) -> None:
        await self._call("tail", lambda: self._book.tail(), linearizable=True)

    async def _seqnum_at(self) -> None:
        at_ms = self._client.wall_ms() - self._chance.choice((-50, 0, 20, 200, 2_000, 1 << 40))
        at_ms = max(0, at_ms)
        await self._call(
            "seqnum_at", lambda: self._book.seqnum_at(at_ms), timestamp_ms=at_ms, linearizable=False
        )

    async def _aux(self) -> None:
        """Derived bytes beside a record: they say beside which one, so a wrong place shows."""
        found = await self._call(
            "read_prev",
            lambda: self._book.read_prev(),
            tag=None,
            max_seqnum=None,
            linearizable=False,
        )
        seqnum = found.answer.seqnum if isinstance(found.answer, Record) else self._seqnum()
        seqnum = max(1, seqnum - self._chance.choice((0, 0, 0, 1, 5)))
        aux = f"{self._book.name} {seqnum} {self._client.data().decode()[:24]}".encode()
        await self._call("aux", lambda: self._book.set_aux(seqnum, aux), seqnum=seqnum, aux=aux)
        await self._page()

    # --- trims and holds --------------------------------------------------------------------------

    async def _trim(self) -> None:
        tail = self._client.history_tail(self._book.name)
        until = max(0, tail - self._chance.randrange(-2, 40))
        await self._call("trim", lambda: self._book.trim(until), until=until, tag=None)

    async def _trim_tag(self) -> None:
        until, tag = self._seqnum(), f"t{self._chance.randrange(self._client.knobs.tags)}"
        await self._call("trim", lambda: self._book.trim(until, tag), until=until, tag=tag)

    async def _hold(self) -> None:
        name, seqnum = f"hold-{self._chance.randrange(2)}", max(1, self._seqnum())
        ttl_s = self._chance.choice((0.05, 0.5, 60.0))
        await self._call(
            "hold", lambda: self._book.hold(name, seqnum, ttl_s), name=name, seqnum=seqnum
        )

    async def _release(self) -> None:
        name = f"hold-{self._chance.randrange(2)}"
        await self._call("release", lambda: self._book.release(name), name=name)


async def _awaited(work: Awaitable[None]) -> None:
    try:
        await work
    except BokilogError:
        pass  # the client is closing
