"""A client process that makes random calls until it is told to stop, and says each over a pipe.

The child (`python -m tests.chaos.client SPEC`) makes the calls of `tests/sim/workload.py` through
`bokilog.connect`. A line goes out before a call is made and when its answer is known, in
one write each, with the machine's monotonic and wall time: nothing said is lost with the process,
and lines of several clients have one order. Standard input brings what other clients know (tokens,
keys) and the word to stop; it ends with it.

`ClientProcess` is the parent's side of it; what lines mean is `told.py`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import struct
import sys
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import cast

import bokilog
from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.errors import BokilogError, Trimmed
from bokilog.ids import SYSTEM_SPACE, Position, Term
from tests.sim.history import Answer, History, Kind, Operation, Positions, Track
from tests.sim.loop import World
from tests.sim.swarm import MORE_WEIGHTS, WEIGHTS, Knobs
from tests.sim.workload import Calls, SimClient

ROOT = Path(__file__).parents[2]
ONE_BOOK_ONLY = frozenset({"trim", "trim_tag", "hold", "release"})
"""These go to the first LogBook, so that the others keep every segment: the check needs them all
(`order.py`)."""
CALLS = WEIGHTS | {name: MORE_WEIGHTS[name] for name in ("key_batch", "aux", "seqnum_at")}
"""LogBooks are not deleted: the audit follows each to its end."""
LENGTH = struct.Struct(">I")
CONNECT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a client does."""

    life: str
    seed: str
    urls: list[str]
    """Of an auditor several; others take the first."""
    books: list[str]
    audits: bool = False
    """It appends once to each LogBook, reads everything at every URL, and is done."""
    workers: int = 3
    followers: int = 2
    pause_s: float = 0.02
    """Between two calls of a worker, on average."""
    timeout_s: float = 20.0
    knobs: dict[str, int] = field(default_factory=dict)


# --- the parent's side ----------------------------------------------------------------------------


class ClientProcess:
    """One life of a client."""

    def __init__(self, spec: Spec, process: Process, heard: Callable[[ClientProcess, Line], None]):
        self.spec = spec
        self.ended = False
        """Nothing more will be heard of it."""
        self._process = process
        self._listening = asyncio.create_task(self._listen(heard))

    @classmethod
    async def start(
        cls, spec: Spec, *, heard: Callable[[ClientProcess, Line], None]
    ) -> ClientProcess:
        words = [sys.executable, "-m", "tests.chaos.client", json.dumps(asdict(spec))]
        process = await create_subprocess_exec(*words, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        return cls(spec, process, heard)

    def say(self, *what: object) -> None:
        """A line for its standard input."""
        assert self._process.stdin is not None
        if not self.ended and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(what).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def end(self, timeout_s: float = 10.0) -> None:
        """It is told to end, and killed if it does not; everything it had said was heard."""
        assert self._process.stdin is not None
        self.signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._process.wait()
        await self._listening

    async def _listen(self, heard: Callable[[ClientProcess, Line], None]) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            while True:
                length = LENGTH.unpack(await pipe.readexactly(LENGTH.size))[0]
                heard(self, pickle.loads(await pipe.readexactly(length)))
        except asyncio.IncompleteReadError:
            self.ended = True  # a last line may be cut off by its death: nobody was told


@dataclass(frozen=True, slots=True)
class Line:
    """Something that a client said."""

    kind: str
    time_ns: int
    wall_ms: int
    what: tuple[object, ...]


# --- the child ------------------------------------------------------------------------------------


class TellingHistory(History):
    """What this client did; each line of it is said."""

    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__(World(0), lambda: ((0, 0),))
        self.tail = 1
        """Past everything that this client saw."""
        self._say = say
        self._numbers: dict[int, int] = {}

    def begin(
        self, kind: Kind, client: str, book: str, track: Track, args: dict[str, object]
    ) -> Operation:
        operation = super().begin(kind, client, book, track, args)
        number = self._numbers[id(operation)] = len(self.operations)
        seen = track.name, track.positions, dict(track.trims)
        self._say("begin", number, kind, client, book, seen, args)
        return operation

    def end(
        self,
        operation: Operation,
        positions: Sequence[Position],
        *,
        answer: Answer = None,
        error: BokilogError | None = None,
    ) -> None:
        self._say("end", self._numbers[id(operation)], tuple(positions), answer, error)
        super().end(operation, positions, answer=answer, error=error)
        if operation.kind == "append" and error is None:
            self.tail = max(self.tail, 1 + (answer if isinstance(answer, int) else 0))


class ChaosClient:
    """As `SimClient`, on this process's loop and with real connections."""

    def __init__(self, spec: Spec, log: ClientLog, say: Callable[..., None]) -> None:
        self.life = spec.life
        self.stopping = False
        self.history = TellingHistory(say)
        self.knobs = Knobs(**spec.knobs)  # type: ignore[arg-type]
        self._spec = spec
        self._log = log
        self._say = say
        self._chance = Random(spec.seed)
        self._default = Track(f"{spec.life} default")
        self._sessions = 0
        self._followings = 0
        self._made = 0

    async def run(self) -> None:
        """Until it is told to stop; follows go on until they are cancelled."""
        workers = [self._work(worker) for worker in range(self._spec.workers)]
        follows = [
            asyncio.create_task(self._follow(number)) for number in range(self._spec.followers)
        ]
        await asyncio.gather(*workers)
        self._say("stopped")
        await asyncio.gather(*follows)

    def told(self, verb: str, *what: object) -> None:
        """A line of standard input."""
        if verb == "stop":
            self.stopping = True
        elif verb == "token":
            token, name, positions, trims = what
            assert isinstance(trims, dict) and isinstance(positions, list)
            seen = tuple(Position(Term(term), count) for term, count in positions)
            self.history.tokens.append((str(token), Track(str(name), seen, trims)))
        elif verb == "keyed":
            book, key, data, tag = what
            shown = None if tag is None else str(tag)
            self.history.keyed.append((str(book), str(key), str(data).encode(), shown))

    # --- work -------------------------------------------------------------------------------------

    async def _work(self, worker: int) -> None:
        track, session = self._default, self._log.client.default_session
        names, weights = list(CALLS), list(CALLS.values())
        while not self.stopping:
            await asyncio.sleep(self._chance.expovariate(1 / self._spec.pause_s))
            name = self._chance.choices(names, weights)[0]
            if name == "token":
                track, session = self._session(worker)
                continue
            one = name in ONE_BOOK_ONLY
            book = self._spec.books[0] if one else self._chance.choice(self._spec.books)
            known = len(self.history.keyed)
            calls = Calls(
                cast(SimClient, self),
                self._log.book(book, session=session),
                track,
                session,
                self._chance,
            )
            await calls.make(name)
            for name, key, data, tag in self.history.keyed[known:]:
                if data.decode().startswith(f"{self.life}:"):  # others were told by others
                    self._say("keyed", name, key, data.decode(), tag)

    def _session(self, worker: int) -> tuple[Track, Session]:
        """Goes on with what somebody else has seen, and leaves what this one has for others."""
        track, session = self._default, self._log.client.default_session
        given = Track(f"token of {track.name}", track.positions, dict(track.trims))
        self.history.tokens.append((session.token, given))
        self._say("token", session.token, given.name, given.positions, given.trims)
        token, theirs = self._chance.choice(self.history.tokens[-20:])
        self._sessions += 1
        name = f"{self.life} worker {worker} session {self._sessions}"
        return Track(name, theirs.positions, dict(theirs.trims)), self._log.session(token)

    async def _follow(self, number: int) -> None:
        book = self._log.book(self._spec.books[number % len(self._spec.books)])
        tag, start = self._chance.choice((None, "t0")), 0
        while True:
            start = await self._follow_from(book, tag, start)

    async def _follow_from(self, book: bokilog.LogBook, tag: str | None, start: int) -> int:
        self._followings += 1
        number, last = self._followings, start - 1
        self._say("follow", number, book.name, tag, start)
        try:
            async for record in book.follow(tag=tag, min_seqnum=start):
                self._say("record", number, record)
                last = record.seqnum
        except Trimmed as error:
            return error.trim_until
        except BokilogError:
            await asyncio.sleep(0.1)
        finally:
            self._say("over", number)
        return last + 1

    # --- for Calls --------------------------------------------------------------------------------

    def data(self) -> bytes:
        """Bytes that nobody else appends."""
        self._made += 1
        name = f"{self.life}:{self._made}:".encode()
        return name + b"x" * self._chance.choice((0, 0, 10, 20, 100, 800))

    def tags(self) -> str | tuple[str, ...]:
        amount = self._chance.choice((0, 1, 1, 1, 2))
        names = [f"t{number}" for number in range(self.knobs.tags)]
        return tuple(self._chance.sample(names, min(amount, len(names))))

    def history_tail(self, name: str) -> int:
        return self.history.tail

    async def prepare(self, name: str) -> None:
        """Every LogBook is of class `sync`, so its first append creates it."""

    def positions(self, session: Session) -> Positions:
        return (session.position(SYSTEM_SPACE),)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # --- audits -----------------------------------------------------------------------------------

    async def audit(self, appends: bool) -> None:
        """Append once to each LogBook, then read all of it linearizably."""
        session = self._log.client.default_session
        for name in self._spec.books:
            book = self._log.book(name, session=session)
            calls = Calls(cast(SimClient, self), book, self._default, session, self._chance)
            done = None
            while appends and (done is None or not done.ok):
                done = await calls._append_one(self.data(), "t0")
            self._followings += 1
            self._say("follow", self._followings, name, None, 0)
            async for record in book.scan(consistency="linearizable"):
                self._say("record", self._followings, record)
            if done is not None:
                self._say("audited", name, done.answer)


async def serve(spec: Spec, pipe: int) -> None:
    def say(kind: str, *what: object) -> None:
        line = Line(kind, time.monotonic_ns(), time.time_ns() // 1_000_000, what)
        data = pickle.dumps(line)
        data = LENGTH.pack(len(data)) + data
        while data:
            data = data[os.write(pipe, data) :]

    words = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    if spec.audits:
        for number, url in enumerate(spec.urls):
            async with _connect(url, spec) as log:
                await ChaosClient(_part(spec, number), log, say).audit(number == 0)
        say("stopped")
        return
    async with _connect(spec.urls[0], spec) as log:
        client = ChaosClient(spec, log, say)
        running = asyncio.create_task(client.run())
        running.add_done_callback(lambda task: _check(task, say))
        while line := await words.readline():
            client.told(*json.loads(line))
        running.cancel()
        await asyncio.wait([running])


def _part(spec: Spec, number: int) -> Spec:
    return Spec(**{**asdict(spec), "life": f"{spec.life}-{number}"})


def _check(task: asyncio.Task[None], say: Callable[..., None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        say("bug", repr(task.exception()))


def _connect(url: str, spec: Spec) -> bokilog.client.connect.Opening:
    return bokilog.connect(url, timeout_s=spec.timeout_s, connect_timeout_s=CONNECT_TIMEOUT_S)


def main() -> None:
    pipe = os.dup(1)
    os.dup2(2, 1)  # nothing else may write into the pipe
    asyncio.run(serve(Spec(**json.loads(sys.argv[1])), pipe))


if __name__ == "__main__":
    # Pickled lines name this module, not `__main__`.
    from tests.chaos.client import main as imported_main

    imported_main()
