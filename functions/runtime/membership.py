"""Which hosts of an app there are: records of the LogBook `functions/APP` with the tag `host`.

Decides what a host says of itself there (when it starts, every so often while it serves, and when
it ends), and who counts as present: the last record of a name, unless it says that the host ended,
or is so old that the host would have spoken since. Hosts and callers outside read the same records,
the newest first, and no further back than such a record would lie.

Invariants: the latest record of a name wins, so that a host that was killed is replaced by its next
start; a host whose name another one had as well says its own again when that one ends. Does not
know links: whether a host answers is found out by dialling it, and one that does is left alone
(`host.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple

from bokilog.client.admin import ClientLog
from bokilog.codec import flag, listed, natural, pack, row, text, unpack
from bokilog.errors import BokilogError, RemoteProtocolError
from bokilog.functions.books import app_book, ensure_app_book
from bokilog.record import Record

RECORD_VERSION: Final = 1
TAG: Final = "host"
SPEAK_S: Final = 60.0
"""How often a host says that it is there; also how soon the others notice who has not."""
SILENT_S: Final = 3 * SPEAK_S
"""A host that has not spoken for so long is gone."""
_PAUSE_S: Final = 1.0


class HostRecord(NamedTuple):
    """What a host says of itself."""

    name: str
    addresses: list[str]
    """Where it listens: `unix:PATH` for those on its machine, `tcp:HOST:PORT`."""
    functions: list[str]
    present: bool
    """False: it has ended."""


def encode_host(record: HostRecord) -> bytes:
    """As the data of a log record."""
    return pack([RECORD_VERSION, *record])


def decode_host(data: bytes) -> HostRecord | None:
    """What `encode_host` gave; None: it is none, or of another version."""
    try:
        version, name, addresses, functions, present = row(unpack(data), 5)
        if natural(version) != RECORD_VERSION:
            return None
        return HostRecord(
            text(name),
            [text(each) for each in listed(addresses)],
            [text(each) for each in listed(functions)],
            flag(present),
        )
    except RemoteProtocolError:
        return None


class Hosts:
    """The fold: who is present by the records so far."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[HostRecord, int]] = {}

    def apply(self, record: HostRecord, timestamp_ms: int) -> None:
        """The next record."""
        self._last[record.name] = (record, timestamp_ms)

    def last_of(self, name: str) -> HostRecord | None:
        """What was said last by a host of that name."""
        last = self._last.get(name)
        return None if last is None else last[0]

    def present(self, now_ms: int) -> dict[str, HostRecord]:
        """By name, as of a time of the log; whoever was silent before it is forgotten."""
        oldest_ms = now_ms - SILENT_S * 1e3
        self._last = {name: each for name, each in self._last.items() if each[1] >= oldest_ms}
        return {name: record for name, (record, _) in self._last.items() if record.present}


def reachable(record: HostRecord) -> str:
    """Which of its addresses to dial from here; empty: none."""
    for address in record.addresses:
        if address.startswith("unix:") and os.path.exists(address.removeprefix("unix:")):
            return address
    return next((each for each in record.addresses if each.startswith("tcp:")), "")


async def hosts_of(log: ClientLog, app: str) -> list[HostRecord]:
    """The hosts of an app that are present; for callers outside."""
    hosts, _, newest_ms = await _now(log, app)
    return list(hosts.present(newest_ms).values())


async def _now(log: ClientLog, app: str) -> tuple[Hosts, int, int]:
    """The fold as of the tail, the seqnum to go on from, and the time of the newest record."""
    book = log.book(app_book(app))
    async with aclosing(
        book.scan(tag=TAG, reverse=True, consistency="linearizable")
    ) as newest_first:
        recent = await recent_of(newest_first)
    hosts = Hosts()
    for record in reversed(recent):
        said = decode_host(record.data)
        if said is not None:
            hosts.apply(said, record.timestamp_ms)
    return (hosts, recent[0].seqnum + 1, recent[0].timestamp_ms) if recent else (hosts, 0, 0)


async def recent_of(newest_first: AsyncIterator[Record]) -> list[Record]:
    """As many of them as may count: what is older than `SILENT_S` before the newest does not."""
    found: list[Record] = []
    async for record in newest_first:
        if found and record.timestamp_ms < found[0].timestamp_ms - SILENT_S * 1e3:
            break
        found.append(record)
    return found


class Membership:
    """One host's part: what it says, and whom it follows.

    Args:
        changed: told who else is present, by name, whenever that may have changed.
        named_alike: told the record of another host that has this one's name.
    """

    def __init__(
        self,
        log: ClientLog,
        app: str,
        record: HostRecord,
        *,
        changed: Callable[[dict[str, HostRecord]], None],
        named_alike: Callable[[HostRecord], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._app = app
        self._record = record
        self._changed = changed
        self._named_alike = named_alike
        self._met: set[tuple[str, ...]] = set()
        """Addresses of others that have this host's name."""
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Say that this host is there, and follow the others."""
        await ensure_app_book(self._log, self._app)
        await self._say(self._record)
        self._tasks = [
            asyncio.create_task(self._keep_saying(), name="host-record"),
            asyncio.create_task(self._follow(), name="host-records"),
        ]

    async def serve(self, functions: list[str]) -> None:
        """A reload changed what this host has."""
        self._record = self._record._replace(functions=functions)
        await self._say(self._record)

    async def leave(self, *, timeout_s: float) -> None:
        """Say that this host has ended, if the log takes it in time."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            async with asyncio.timeout(timeout_s):
                await self._say(self._record._replace(present=False))
        except (BokilogError, TimeoutError):
            pass  # others find out when they dial

    async def _say(self, record: HostRecord) -> None:
        await self._log.book(app_book(self._app)).append(encode_host(record), tags=TAG)

    async def _keep_saying(self) -> None:
        delay_s = SPEAK_S
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self._say(self._record)
                delay_s = SPEAK_S
            except BokilogError:
                delay_s = _PAUSE_S  # the others soon take it for gone

    async def _follow(self) -> None:
        while True:
            try:
                hosts, after, now_ms = await _now(self._log, self._app)
                self._tell(hosts, now_ms)
                await self._answer(hosts.last_of(self._record.name))
                book = self._log.book(app_book(self._app))
                async for record in book.follow(tag=TAG, min_seqnum=after):
                    said = decode_host(record.data)
                    if said is not None:
                        hosts.apply(said, record.timestamp_ms)
                        self._tell(hosts, record.timestamp_ms)
                        await self._answer(said)
            except BokilogError:
                # A trim past where we were: what is kept is newer, and says all that counts.
                await asyncio.sleep(_PAUSE_S)

    def _tell(self, hosts: Hosts, now_ms: int) -> None:
        present = hosts.present(now_ms)
        present.pop(self._record.name, None)
        self._changed(present)

    async def _answer(self, said: HostRecord | None) -> None:
        """Somebody else may have this host's name; its end is not this one's."""
        own = self._record
        if said is None or said.name != own.name or said.addresses == own.addresses:
            return
        if said.present:
            if tuple(said.addresses) in self._met:
                return
            self._met.add(tuple(said.addresses))
            self._named_alike(said)
        await self._say(own)  # so that it hears of this one, or others of this one again
