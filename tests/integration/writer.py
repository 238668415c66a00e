"""A process that appends until it is killed, and says over a pipe what it was told.

The child (`python -m tests.integration.writer SPEC`) opens a directory or connects to a cluster and
keeps several sessions appending: single records, bursts, units of several records, conditional ones
that race for a tag, keyed ones, repeated keys of writers before it, trims. A line goes out before
each append is issued and when its outcome is known, in one `write` each, so that nothing said is
lost with the process (`history.py` says what lines mean). It stops in order at the end of its
standard input, so it never outlives the test.

`Writer` is the parent's side of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import bokilog
from bokilog.client.connect import Opening
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    ConditionFailed,
    NodeUnreachable,
)
from bokilog.io.journal_file import JournalFile
from bokilog.limits import MIB
from bokilog.logbook import Log, LogBook
from bokilog.record import Entry
from bokilog.shapes import embedded, embedded_disk
from tests.integration.history import Attempt, Counts, History, Name, payload

ROOT = Path(__file__).parents[2]
ORDERS, STOCK, SPOOL = BOOKS = ("orders", "stock", "spool")
"""`spool` is of class `flush` and is trimmed by writers; the others are of class `sync`."""
TAGS = ("a", "b", "c", "d")
SEGMENT_BYTES = 1 * MIB  # so that rounds fill, pass and recycle segments
BURSTS = (1, 1, 1, 4, 16, 40)
SIZES = (0, 40, 40, 100, 100, 100, 400, 3_000, 40_000)
LARGE_BYTES = 150_000  # several blocks
CLAIMS = 40  # tags that conditional appends of a run race for


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """An append under a key, by an earlier writer."""

    run: int
    number: int
    book: str
    sizes: list[int]
    tags: list[list[str]]
    key: str
    stands: bool
    """Then also other bytes under the same key are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a writer does."""

    run: int
    seed: int
    url: str = ""
    directory: str = ""
    sessions: int = 6
    pause_s: float = 0.0
    """At most, between a session's bursts: what is written has to be read back."""
    repeats: list[Repeat] = field(default_factory=list)
    sync_delay_ms: float = 0.0
    checkpoint_s: float = 10.0


def repeats_of(history: History, rng: random.Random, *, count: int = 12) -> list[Repeat]:
    """Some of the keyed appends of writers that are dead."""
    found = [each for book in BOOKS for each in history.keyed(book)]
    return [_repeat(each) for each in rng.sample(found, min(count, len(found)))]


def _repeat(attempt: Attempt) -> Repeat:
    assert attempt.key is not None
    return Repeat(
        run=attempt.name.run,
        number=attempt.name.number,
        book=attempt.book,
        sizes=attempt.sizes,
        tags=[list(tags) for tags in attempt.tags],
        key=attempt.key,
        stands=attempt.first > 0,
    )


# --- the parent's side ----------------------------------------------------------------------------


class Writer:
    """A writer process, and what it has said so far. A context manager that ends it."""

    def __init__(self, spec: Spec, history: History, *, errors: Path) -> None:
        self.spec = spec
        self.acked_count = 0
        self.is_ready = False
        self.is_done = False
        self._history = history
        self._errors = errors
        self._rest = b""
        self._eof = False
        with errors.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.writer", json.dumps(asdict(spec))],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def wait_acked(self, count: int, *, timeout_s: float) -> None:
        """Until it was acknowledged `count` appends."""
        deadline_s = time.monotonic() + timeout_s
        while self.acked_count < count:
            self.hear(deadline_s)
            assert not self._eof, f"writer {self.spec.run} died:\n{self._errors.read_text()}"
            late = time.monotonic() > deadline_s
            assert not late, f"{self.acked_count} of {count} acknowledged within {timeout_s} s"

    def kill(self) -> Counts:
        """SIGKILL, then everything that it had said."""
        self.process.kill()
        return self._end(timeout_s=10)

    def stop(self, *, timeout_s: float) -> Counts:
        """Have it stop in order: each of its appends gets an outcome."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        counts = self._end(timeout_s=timeout_s)
        assert self.is_done, f"writer {self.spec.run} did not end well:\n{self._errors.read_text()}"
        return counts

    def hear(self, deadline_s: float) -> None:
        """Take what it says, at the latest until the deadline."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline_s - time.monotonic()))
        if not ready:
            return
        heard = os.read(pipe, 1 << 16)
        self._eof = not heard
        *lines, self._rest = (self._rest + heard).split(b"\n")
        for line in lines:
            kind = self._history.said(self.spec.run, line)
            self.acked_count += kind == "acked"
            self.is_ready = self.is_ready or kind == "ready"
            self.is_done = self.is_done or kind == "done"

    def _end(self, *, timeout_s: float) -> Counts:
        deadline_s = time.monotonic() + timeout_s
        while not self._eof:
            self.hear(deadline_s)
            late = time.monotonic() > deadline_s
            assert not late, f"writer {self.spec.run} did not end within {timeout_s} s"
        self.process.wait()
        return self._history.ended(self.spec.run)


# --- the child ------------------------------------------------------------------------------------


class Appender:
    """The child's log, and the way its lines go out."""

    def __init__(self, spec: Spec, log: Log, pipe: int) -> None:
        self.spec = spec
        self.stopping = asyncio.Event()
        self._log = log
        self._pipe = pipe
        self._last = 0
        self._seen: dict[str, int] = {}
        """Last seqnum acknowledged here under each tag of `ORDERS`."""

    def say(self, kind: str, number: int, *what: object) -> None:
        line = json.dumps([kind, number, time.monotonic_ns(), *what]).encode() + b"\n"
        os.write(self._pipe, line)

    async def run(self) -> None:
        self.say("ready", 0)
        async with asyncio.TaskGroup() as group:
            for session in range(self.spec.sessions):
                group.create_task(self._session(session))
            group.create_task(self._repeat_all())
        self.say("done", 0)

    async def _session(self, session: int) -> None:
        """Bursts of appends, until it is told to stop."""
        spec = self.spec
        rng = random.Random(f"{spec.seed} {spec.run} {session}")
        seen_by = self._log.session()
        books = {name: self._log.book(name, session=seen_by) for name in BOOKS}
        while not self.stopping.is_set():
            burst = [self._choose(rng, session, books) for _ in range(rng.choice(BURSTS))]
            await asyncio.gather(*burst)
            if rng.random() < 0.03:
                await self._trim(rng, books[SPOOL])
            await asyncio.sleep(rng.uniform(0, spec.pause_s))

    def _choose(
        self, rng: random.Random, session: int, books: dict[str, LogBook]
    ) -> asyncio.Task[None]:
        """One append, on its way once the loop turns."""
        book = rng.choice((ORDERS, ORDERS, ORDERS, STOCK, SPOOL))
        kind = rng.random()
        count = rng.randrange(2, 9) if 0.55 < kind < 0.7 else 1
        sizes = [rng.choice(SIZES) for _ in range(count)]
        if rng.random() < 0.003:
            sizes[0] = LARGE_BYTES
        tags = [rng.sample(TAGS, rng.choice((0, 1, 1, 2))) for _ in range(count)]
        unless: dict[str | None, int] = {}
        key = None
        if 0.7 < kind < 0.85:
            book = ORDERS
            claim = f"claim {self.spec.run} {rng.randrange(CLAIMS)}"
            tags[0].append(claim)
            unless = {claim: 0}
            if kind > 0.78:
                tested = rng.choice(TAGS)
                unless = {tested: self._seen.get(tested, 0)}
        self._last += 1
        if kind > 0.85:
            key = f"key {self.spec.run} {self._last}"
        name = Name(self.spec.run, self._last)
        return asyncio.get_running_loop().create_task(
            self._append(name, books[book], session, sizes, tags, key=key, unless=unless)
        )

    async def _append(
        self,
        name: Name,
        book: LogBook,
        session: int,
        sizes: Sequence[int],
        tags: Sequence[Sequence[str]],
        *,
        key: str | None = None,
        unless: dict[str | None, int] | None = None,
        again: Name | None = None,
    ) -> None:
        """Say it, append it, say what came of it."""
        pairs = list((unless or {}).items())
        shown = [[size, *names] for size, names in zip(sizes, tags, strict=True)]
        datas = [payload(again or name, place, size) for place, size in enumerate(sizes)]
        number = name.number
        self.say("issue", number, book.name, session, shown, key, pairs, again)
        try:
            if len(datas) == 1:
                first = await book.append(datas[0], tags[0], unless=unless, key=key)
            else:
                unit = [Entry(data, tuple(of)) for data, of in zip(datas, tags, strict=True)]
                first = (await book.append_batch(unit, unless=unless, key=key)).start
        except AppendUnknown as error:
            self.say("unknown", number, 0, str(error))
        except ConditionFailed as error:
            self.say("void", number, error.winner, "")
            self._saw([[str(error.tag)]], error.winner)
        except BokilogError as error:
            what = "failed" if error.definite else "unknown"
            self.say(what, number, 0, type(error).__name__)
        else:
            self.say("acked", number, first, "")
            if book.name == ORDERS and again is None:
                self._saw(tags, first)

    def _saw(self, tags: Sequence[Sequence[str]], first: int) -> None:
        for place, names in enumerate(tags):
            for tag in names:
                self._seen[tag] = max(self._seen.get(tag, 0), first + place)

    async def _repeat_all(self) -> None:
        """Keys of writers before this one: the same bytes, under a condition that fails; others."""
        for each in self.spec.repeats:
            book, original = self._log.book(each.book), Name(each.run, each.number)
            name = self._next_name()
            unless: dict[str | None, int] = {None: 0} if self._last % 2 else {}
            await self._append(
                name, book, -1, each.sizes, each.tags, key=each.key, unless=unless, again=original
            )
            if each.stands:
                other = [*each.sizes[:-1], each.sizes[-1] + 50]
                await self._append(self._next_name(), book, -1, other, each.tags, key=each.key)

    async def _trim(self, rng: random.Random, book: LogBook) -> None:
        number = self._next_name().number
        try:
            until = max(0, await book.tail() - rng.randrange(2_000))
            self.say("trim", number, book.name, until)
            self.say("trimmed", number, (await book.trim(until)).until)
        except BokilogError:
            pass  # it may or may not have happened

    def _next_name(self) -> Name:
        self._last += 1
        return Name(self.spec.run, self._last)


async def serve(spec: Spec, pipe: int) -> None:
    """Append until standard input ends."""
    async with _open(spec) as log:
        await log.create_book(SPOOL, durability="flush")
        appender = Appender(spec, log, pipe)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(0)
            appender.stopping.set()

        loop.add_reader(0, stop)
        try:
            await appender.run()
        except BaseException as error:
            appender.say("error", 0, repr(error))
            raise


def _open(spec: Spec) -> Opening:
    if spec.url:
        return bokilog.connect(spec.url, timeout_s=20, connect_timeout_s=20)
    small_segments(setattr)
    settings = embedded.EmbeddedSettings(
        sync_delay_ms=spec.sync_delay_ms, checkpoint_s=spec.checkpoint_s
    )
    return bokilog.open(spec.directory, settings=settings)


def small_segments(patch: Callable[[object, str, object], None]) -> None:
    """Embedded logs of this process fill many small segments instead of one."""
    patch(embedded_disk, "JournalFile", partial(JournalFile, segment_bytes=SEGMENT_BYTES))


def main() -> None:
    raw = json.loads(sys.argv[1])
    raw["repeats"] = [Repeat(**each) for each in raw["repeats"]]
    pipe = os.dup(1)
    os.dup2(2, 1)  # nothing else may write into the pipe
    try:
        asyncio.run(serve(Spec(**raw), pipe))
    except NodeUnreachable as error:
        os.write(pipe, json.dumps(["error", 0, 0, str(error)]).encode() + b"\n")


if __name__ == "__main__":
    main()
