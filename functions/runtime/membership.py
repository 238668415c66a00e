"""Which hosts of an app there are: records of the LogBook `functions/APP` with the tag `host`.

Decides what a host says of itself there (when it starts, every so often while it serves, and when
it ends), and who counts as present: the last record of a name, unless it says that the host ended,
or is so old that the host would have spoken since. Hosts and callers outside read the same records.

Invariant: the latest record of a name wins, so that a host that was killed is replaced by its next
start. Does not know links: whether a host answers is found out by dialling it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from bokilog.client.admin import ClientLog
from bokilog.codec import flag, listed, natural, pack, row, text, unpack
from bokilog.errors import BokilogError, LogBookConflict, RemoteProtocolError

RECORD_VERSION: Final = 1
TAG: Final = "host"
SPEAK_S: Final = 3_600.0
"""How often a host says that it is there: far within the time that records are kept."""
SILENT_S: Final = 3 * SPEAK_S
"""A host that has not spoken for so long is gone."""
RETENTION_S: Final = 7 * 24 * 3_600.0
"""Of the LogBook, which durable calls share: as long as their keys are known."""
_PAUSE_S: Final = 1.0


class HostRecord(NamedTuple):
    """What a host says of itself."""

    name: str
    addresses: list[str]
    """Where it listens: `unix:PATH` for those on its machine, `tcp:HOST:PORT`."""
    functions: list[str]
    present: bool
    """False: it has ended."""


def app_book(app: str) -> str:
    """The LogBook of an app's hosts and durable calls."""
    return f"functions/{app}"


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

    def present(self, now_ms: int) -> dict[str, HostRecord]:
        """By name, as of a time of the log."""
        oldest_ms = now_ms - SILENT_S * 1e3
        return {
            name: record
            for name, (record, at_ms) in self._last.items()
            if record.present and at_ms >= oldest_ms
        }


def reachable(record: HostRecord) -> str:
    """Which of its addresses to dial from here; empty: none."""
    for address in record.addresses:
        if address.startswith("unix:") and os.path.exists(address.removeprefix("unix:")):
            return address
    return next((each for each in record.addresses if each.startswith("tcp:")), "")


async def hosts_of(log: ClientLog, app: str) -> list[HostRecord]:
    """The hosts of an app that are present; for callers outside."""
    hosts = Hosts()
    newest_ms = 0
    async for record in log.book(app_book(app)).scan(tag=TAG, consistency="linearizable"):
        said = decode_host(record.data)
        newest_ms = max(newest_ms, record.timestamp_ms)
        if said is not None:
            hosts.apply(said, record.timestamp_ms)
    return list(hosts.present(newest_ms).values())


class Membership:
    """One host's part: what it says, and whom it follows.

    Args:
        changed: told who else is present, by name, whenever that changed.
    """

    def __init__(
        self,
        log: ClientLog,
        app: str,
        record: HostRecord,
        *,
        changed: Callable[[dict[str, HostRecord]], None],
    ) -> None:
        self._log = log
        self._app = app
        self._record = record
        self._changed = changed
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Say that this host is there, and follow the others."""
        try:
            await self._log.create_book(app_book(self._app), retention_s=RETENTION_S)
        except LogBookConflict:
            pass  # somebody made it with other properties, on purpose
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
        while True:
            await asyncio.sleep(SPEAK_S)
            try:
                await self._say(self._record)
            except BokilogError:
                continue  # the next time is soon enough: `SILENT_S` is several times

    async def _follow(self) -> None:
        hosts, after = Hosts(), 0
        while True:
            try:
                book = self._log.book(app_book(self._app))
                async for record in book.follow(tag=TAG, min_seqnum=after):
                    after = record.seqnum + 1
                    said = decode_host(record.data)
                    if said is not None:
                        hosts.apply(said, record.timestamp_ms)
                        present = hosts.present(record.timestamp_ms)
                        present.pop(self._record.name, None)
                        self._changed(present)
            except BokilogError:
                # A trim past where we were: what is kept is newer, and says all that counts.
                hosts, after = Hosts(), 0
                await asyncio.sleep(_PAUSE_S)
