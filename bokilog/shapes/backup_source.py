"""Whom a backup is asked of: the storage nodes of a running cluster, or a stopped embedded log.

Decides which replica of a log space gives it (one that lacks nothing, the furthest first), and that
what is given reaches at least as far as its primary had published when the backup began. To a
storage node a backup is a peer that asks for its fold and for the frames that the fold names (P16,
P33), over a connection of its own (`Hello` as control); until that ends, the node lets go of
nothing that the fold names.

Class `memory` is not asked for: only where it stands is noted, so that no seqnum is given twice.

Does not know what is kept of the answers (`backup.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bokilog.effects import Send
from bokilog.errors import BokilogError, NotReady, from_wire
from bokilog.framing import WireMessage
from bokilog.ids import START, LogSpaceId, NodeId
from bokilog.io.directory import claim
from bokilog.io.file_views import FileViews
from bokilog.io.journal_file import JournalFile
from bokilog.io.open_views import open_views
from bokilog.io.sync import DataSync, NoSync
from bokilog.io.transport import Link, LinkCallbacks, dial
from bokilog.messages import (
    FetchSnapshot,
    FetchStored,
    Hello,
    Message,
    RequestFailed,
    SnapshotPart,
    Status,
    StatusRequest,
    StoredFrame,
    StoredSent,
)
from bokilog.record import Durability
from bokilog.shapes import embedded
from bokilog.shapes.cluster_layout import Layout
from bokilog.shapes.recovery import verify_item
from bokilog.storage_nodes.backfill import give_stored
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.reader import Reader
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.storage_nodes.snapshots import Snapshots
from bokilog.view import View
from bokilog.wire import decode, encode

ANSWER_TIMEOUT_S: Final = 60.0
"""A snapshot waits for a checkpoint, which on a slow disk takes some seconds."""
RETRY_S: Final = 0.2
SETTLE_S: Final = 5.0
"""A change of view takes a second or so; a backup that begins in it waits for its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpace:
    """A log space as it stood when the backup began."""

    id: LogSpaceId
    durability: Durability
    count: int
    """Published entries."""
    tail: int


class Source(Protocol):
    """A log that is backed up."""

    view: View
    shape: str
    spaces: tuple[SourceSpace, ...]

    async def begin(self, space: LogSpaceId) -> SnapshotPart:
        """The first part of the log space's fold, of a position that `SourceSpace.count` is not
        past; the later parts are of the same."""
        ...

    async def rows(self, space: LogSpaceId, part: int) -> SnapshotPart:
        """A later part."""
        ...

    async def frames(
        self, space: LogSpaceId, first: int, until: int
    ) -> tuple[list[StoredFrame], StoredSent]:
        """The frames of some seqnums, as many as one answer holds."""
        ...

    async def frames_elsewhere(self, space: LogSpaceId, first: int) -> list[StoredFrame]:
        """A frame that whoever gives the others lacks; none: no replica has it.

        Raises:
            NotReady: a replica is not there to be asked.
        """
        ...


# --- a running cluster ----------------------------------------------------------------------------


class NodeLink:
    """A connection to one node, on which a question is asked after the other."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._address = address
        self._inbox: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._link: Link | None = None

    async def open(self) -> None:
        """Connect and say what for.

        Raises:
            NodeUnreachable: nobody answers there.
        """
        callbacks = LinkCallbacks(on_messages=self._received, on_lost=self._lost)
        self._link = await dial(self._address, callbacks)
        self.send(Hello("control", "backup", 0, "", 0, False))

    def send(self, message: Message) -> None:
        """Ask something."""
        assert self._link is not None, "open() comes first"
        self._link.send(*encode(message))

    async def next(self) -> Message:
        """The next message that comes.

        Raises:
            NotReady: none comes in time, or the node is gone.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await self._inbox.get()
        except TimeoutError:
            raise NotReady(f"{self.name} did not answer within {ANSWER_TIMEOUT_S:g} s") from None
        if isinstance(found, Exception):
            self._inbox.put_nowait(found)
            raise NotReady(f"{self.name} is gone: {found}") from None
        return found

    async def status(self) -> dict[str, object]:
        """What the node says of itself."""
        self.send(StatusRequest(1))
        while True:
            message = await self.next()
            if isinstance(message, Status):
                return message.facts

    async def aclose(self) -> None:
        if self._link is not None:
            await self._link.aclose()

    def _received(self, _: Link, messages: list[WireMessage]) -> None:
        for kind, head, attachments in messages:
            self._inbox.put_nowait(decode(kind, head, attachments))

    def _lost(self, _: Link, error: Exception | None) -> None:
        self._inbox.put_nowait(error or NotReady("it closed the connection"))


class ClusterSource:
    """The nodes of a local cluster; made by `cluster_source`."""

    shape = "cluster"

    def __init__(
        self, view: View, spaces: Sequence[SourceSpace], givers: dict[LogSpaceId, list[NodeLink]]
    ) -> None:
        self.view = view
        self.spaces = tuple(spaces)
        self._givers = givers
        """By log space: who is there, and lacks nothing, the furthest first."""
        self._numbers = itertools.count(1)
        self._number: dict[LogSpaceId, int] = {}

    async def begin(self, space: LogSpaceId) -> SnapshotPart:
        wanted = next(each.count for each in self.spaces if each.id == space)
        deadline_s = asyncio.get_running_loop().time() + ANSWER_TIMEOUT_S
        while True:
            self._number[space] = next(self._numbers)
            first = await self.rows(space, 0)
            if first.position.count >= wanted:
                return first
            if asyncio.get_running_loop().time() > deadline_s:
                name, count = self._givers[space][0].name, first.position.count
                raise NotReady(
                    f"{name} has stored entry {count} of log space {space}, not {wanted}"
                )
            await asyncio.sleep(RETRY_S)

    async def rows(self, space: LogSpaceId, part: int) -> SnapshotPart:
        giver, number = self._givers[space][0], self._number[space]
        giver.send(FetchSnapshot(space, number, part))
        while True:
            message = await giver.next()
            if not isinstance(message, SnapshotPart):
                continue
            if (message.space, message.number, message.part) != (space, number, part):
                continue
            if part and message.position == START:
                raise NotReady(f"{giver.name} gave the fold of log space {space} up")
            return message

    async def frames(
        self, space: LogSpaceId, first: int, until: int
    ) -> tuple[list[StoredFrame], StoredSent]:
        giver = self._givers[space][0]
        found, sent = await _stored(giver, space, first, until)
        if sent.until_seqnum <= first:
            raise NotReady(
                f"{giver.name} let go of what the backup needs: its disk is full, or its fold is"
                " another one now"
            )
        return found, sent

    async def frames_elsewhere(self, space: LogSpaceId, first: int) -> list[StoredFrame]:
        for giver in self._givers[space][1:]:
            found, _ = await _stored(giver, space, first, first + 1)
            if found:
                return found[:1]
        asked = len(self._givers[space])
        replicas = len(self.view.space(space).replicas)
        if asked < replicas:
            raise NotReady(
                f"{self._givers[space][0].name} lacks the frame at seqnum {first}, and of"
                f" {replicas} replicas {asked} could be asked"
            )
        return []


async def _stored(
    giver: NodeLink, space: LogSpaceId, first: int, until: int
) -> tuple[list[StoredFrame], StoredSent]:
    giver.send(FetchStored(space, first, until))
    found: list[StoredFrame] = []
    while True:
        match await giver.next():
            case StoredFrame() as frame:
                found.append(frame)
            case StoredSent() as sent:
                return found, sent
            case RequestFailed(error=error):
                raise from_wire(error)  # the frames lie in an object store that is away
            case _:
                continue


Nodes = dict[NodeId, tuple[NodeLink, dict[str, object]]]
"""Connections to nodes, with what each says of itself."""


@asynccontextmanager
async def cluster_source(layout: Layout) -> AsyncIterator[ClusterSource]:
    """Connections to what is needed of a cluster that runs.

    Raises:
        NotReady: a primary, or every replica of a log space, is not there, for `SETTLE_S`.
    """
    async with AsyncExitStack() as links:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + SETTLE_S
        source: ClusterSource | None = None
        while source is None:
            view, nodes = await _view_and_nodes(layout, links)
            try:
                spaces = [_source_space(view, space.id, nodes) for space in view.spaces]
                givers = {space.id: _givers(view, space.id, nodes) for space in view.spaces}
                source = ClusterSource(view, spaces, givers)
            except NotReady:
                if loop.time() > deadline_s:
                    raise
                await links.aclose()
                await asyncio.sleep(RETRY_S)
        yield source


async def _view_and_nodes(layout: Layout, links: AsyncExitStack) -> tuple[View, Nodes]:
    """The last view, and whoever of it answers."""
    with closing(open_views(layout.views)) as views:
        view, where = views.latest(), views.where
    if view is None:
        raise NotReady(f"no view is stored in {where}: bring its views back")
    if not view.term:
        raise NotReady("the cluster was never started: there is nothing to back up")
    nodes = await _connect(view, links)
    if not nodes:
        raise NotReady(
            "no process of the cluster answers, and it is backed up while it runs: start it"
            f" with bokilog up --dir {layout.directory}"
        )
    return view, nodes


async def _connect(view: View, links: AsyncExitStack) -> Nodes:
    """Every node that answers, with what it says of itself."""
    found = {}
    for node in view.nodes:
        if node.role == "engine":
            continue
        link = NodeLink(node.id, node.address)
        try:
            await link.open()
            links.push_async_callback(link.aclose)
            found[node.id] = link, await link.status()
        except BokilogError:
            continue
    return found


def _source_space(view: View, space: LogSpaceId, nodes: Nodes) -> SourceSpace:
    primary = view.space(space).primary
    said = _facts(nodes[primary][1], space) if primary in nodes else {}
    published, tail = said.get("published"), said.get("tail")
    if not isinstance(published, list) or not isinstance(tail, int):
        raise NotReady(f"{primary}, the primary of log space {space}, is not there")
    durability = view.space(space).durability
    return SourceSpace(id=space, durability=durability, count=published[1], tail=tail)


def _givers(view: View, space: LogSpaceId, nodes: Nodes) -> list[NodeLink]:
    ranked = []
    for place, name in enumerate(view.space(space).replicas):
        if name in nodes:
            link, facts = nodes[name]
            said = _facts(facts, space)
            position = said.get("position")
            if isinstance(position, list) and not said.get("rebuilding"):
                ranked.append((-position[1], place, link))
    if not ranked:
        raise NotReady(f"no storage node that holds all of log space {space} is there")
    return [link for _, _, link in sorted(ranked, key=lambda each: each[:2])]


def _facts(facts: dict[str, object], space: LogSpaceId) -> dict[object, object]:
    spaces = facts.get("spaces")
    found = spaces.get(space) if isinstance(spaces, dict) else None
    return found if isinstance(found, dict) else {}


# --- an embedded log ------------------------------------------------------------------------------


class EmbeddedSource:
    """A log that was stopped cleanly, so that its store holds all of its fold."""

    shape = "embedded"

    def __init__(
        self,
        view: View,
        spaces: Sequence[SourceSpace],
        parts: dict[LogSpaceId, tuple[Index, Reader, Snapshots]],
    ) -> None:
        self.view = view
        self.spaces = tuple(spaces)
        self._parts = parts

    async def begin(self, space: LogSpaceId) -> SnapshotPart:
        return await self.rows(space, 0)

    async def rows(self, space: LogSpaceId, part: int) -> SnapshotPart:
        _, _, snapshots = self._parts[space]
        (send,) = snapshots.give("backup", FetchSnapshot(space, 1, part))
        assert isinstance(send.message, SnapshotPart)
        return send.message

    async def frames(
        self, space: LogSpaceId, first: int, until: int
    ) -> tuple[list[StoredFrame], StoredSent]:
        index, reader, _ = self._parts[space]
        *sends, last = give_stored("backup", FetchStored(space, first, until), index, reader)
        assert isinstance(last.message, StoredSent)
        return [_frame_of(send) for send in sends], last.message

    async def frames_elsewhere(self, space: LogSpaceId, first: int) -> list[StoredFrame]:
        return []


def _frame_of(send: Send) -> StoredFrame:
    assert isinstance(send.message, StoredFrame)
    return send.message


@asynccontextmanager
async def embedded_source(directory: Path) -> AsyncIterator[EmbeddedSource]:
    """An embedded log that no process has open; it is started and stopped once, so that its fold is
    stored.

    Raises:
        DirectoryInUse: a live process has it open.
    """
    async with embedded.open(directory):
        pass
    with ExitStack() as closed:
        closed.enter_context(claim(directory, "embedded", "embedded"))
        view = FileViews(directory / "views").latest()
        assert view is not None, "a start stores one"
        spaces, parts = [], {}
        for number, durability in embedded.SPACES.items():
            end = view.end(number)
            if durability == "memory":
                tail = max(end.tail, _ceiling(directory, number))
                count = max(1, end.position.count)
                spaces.append(SourceSpace(id=number, durability=durability, count=count, tail=tail))
                continue
            index, reader = _open_space(directory, number, durability, closed.callback)
            parts[number] = index, reader, Snapshots(index)
            spaces.append(
                SourceSpace(
                    id=number,
                    durability=durability,
                    count=index.position.count,
                    tail=index.tail,
                )
            )
        yield EmbeddedSource(view, spaces, parts)


def _open_space(
    directory: Path,
    space: LogSpaceId,
    durability: Durability,
    at_end: Callable[[Callable[[], None]], object],
) -> tuple[Index, Reader]:
    store = RocksStore(directory / f"index-{space}")
    at_end(store.close)
    journal = JournalFile(
        directory / f"journal-{space}",
        sync=DataSync() if durability == "sync" else NoSync(),
        verify=verify_item,
    )
    at_end(journal.close)
    index = Index(space, store)
    journal.recover(index.segments.newest)
    return index, Reader(index=index, journal=journal, cache_bytes_max=0)


def _ceiling(directory: Path, space: LogSpaceId) -> int:
    file = directory / "ceilings.json"
    return int(json.loads(file.read_text()).get(str(space), 1)) if file.exists() else 1
