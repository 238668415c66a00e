"""The processes of a bare append chain: client, engine, storage nodes, sequencer.

Decides how each does its part with the least work: a frame per loop tick and hop, columns and
payloads apart, a cut on arrival. It has no failures, no reads, no conditions, no views, and checks
nothing. `chain.py` starts them and tells what they are for.
"""

from __future__ import annotations

import asyncio
import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from bokilog.bench.load import closed_loop, tag_of
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.serve import Handler, serve

SEGMENT_BYTES: Final = 512 << 20
INDEX_FLAG: Final = "index"
_WORD: Final = 4

encode: Final = msgspec.msgpack.Encoder().encode
columns_of: Final = msgspec.msgpack.Decoder(tuple[int, list[str], list[int]]).decode
request_of: Final = msgspec.msgpack.Decoder(tuple[list[int], list[str], list[int]]).decode
pair_of: Final = msgspec.msgpack.Decoder(tuple[int, int]).decode
reply_of: Final = msgspec.msgpack.Decoder(tuple[list[int], int]).decode

Frame = tuple[bytes, bytes]
"""(head, the payloads of its records in a row)."""
OnFrames = Callable[["Link", list[Frame]], None]
Index = dict[str, "array[int]"]


class Link(asyncio.Protocol):
    """Frames over a stream: two lengths, head, body. What is sent in one tick is one write."""

    def __init__(self, on_frames: OnFrames) -> None:
        self._on_frames = on_frames
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._left = b""
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where frames go."""
        # uvloop's transports have the methods of `asyncio.Transport` without deriving from it.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hand over the frames that are whole."""
        if self._left:
            data = self._left + data
        frames, at, size = [], 0, len(data)
        while size - at >= 2 * _WORD:
            head = at + 2 * _WORD
            body = head + int.from_bytes(data[at : at + _WORD], "little")
            until = body + int.from_bytes(data[at + _WORD : head], "little")
            if until > size:
                break
            frames.append((data[head:body], data[body:until]))
            at = until
        self._left = data[at:]
        if frames:
            self._on_frames(self, frames)

    def send(self, head: bytes, body: bytes = b"") -> None:
        """Send with whatever else this tick brings."""
        if not self._out:
            self._loop.call_soon(self._flush)
        lengths = len(head).to_bytes(_WORD, "little") + len(body).to_bytes(_WORD, "little")
        self._out += (lengths, head, body)

    def _flush(self) -> None:
        out, self._out = self._out, []
        assert self._transport is not None
        self._transport.write(b"".join(out))


async def listen(stack: AsyncExitStack, on_frames: OnFrames) -> str:
    """Accept links at a free port of loopback."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Link(on_frames), "127.0.0.1", 0)
    stack.callback(server.close)
    return str(server.sockets[0].getsockname()[1])


async def dial(port: str, on_frames: OnFrames) -> Link:
    """A link to one of the other processes."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: Link(on_frames), "127.0.0.1", int(port))
    return link


def add_to(index: Index, tags: list[str], seqnum: int) -> None:
    """Index records that follow each other."""
    for tag in tags:
        postings = index.get(tag)
        if postings is None:
            postings = index[tag] = array("Q")
        postings.append(seqnum)
        seqnum += 1


# --- the four roles -------------------------------------------------------------------------------

READER: Final = -1
"""Instead of a storage node's number: tell me every cut."""


class Sequencer:
    """Cuts once per tick in which progress came in: how many records so many nodes have."""

    def __init__(self, quorum: int, nodes_count: int) -> None:
        self._quorum = quorum
        self._progress = [0] * nodes_count
        self._cut_at = 0
        self._readers: list[Link] = []
        self._due = False

    def on_frames(self, link: Link, frames: list[Frame]) -> None:
        """Progress, or somebody who wants to know of cuts."""
        for head, _ in frames:
            node, count = pair_of(head)
            if node == READER:
                self._readers.append(link)
            else:
                self._progress[node] = count
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._cut)

    def _cut(self) -> None:
        self._due = False
        frontier = sorted(self._progress, reverse=True)[self._quorum - 1]
        if frontier > self._cut_at:
            self._cut_at = frontier
            cut = encode((0, frontier))
            for reader in self._readers:
                reader.send(cut)


class Storage:
    """Writes what came in one tick with one call, and says how far it is."""

    def __init__(self, number: int, path: Path, *, sync: bool, keep_index: bool) -> None:
        self._number = number
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.posix_fallocate(self._file, 0, SEGMENT_BYTES)
        self._offset = 0
        self._sync = sync
        self._keep_index = keep_index
        self._unordered: deque[tuple[int, list[str]]] = deque()
        self._index: Index = {}
        self._seqnum = 1
        self.sequencer: Link | None = None

    def on_frames(self, link: Link, frames: list[Frame]) -> None:
        """Records to keep."""
        buffers: list[bytes] = []
        for frame in frames:
            buffers += frame
        size = sum(map(len, buffers))
        if self._offset + size > SEGMENT_BYTES:
            self._offset = 0
        os.pwritev(self._file, buffers, self._offset)
        self._offset += size
        if self._sync:
            os.fdatasync(self._file)
        if self._keep_index:
            for head, _ in frames[:-1]:
                self._unordered.append(columns_of(head)[:2])
        until, tags, _ = columns_of(frames[-1][0])
        if self._keep_index:
            self._unordered.append((until, tags))
        assert self.sequencer is not None
        self.sequencer.send(encode((self._number, until)))

    def on_cuts(self, link: Link, frames: list[Frame]) -> None:
        """Index what is ordered now."""
        _, cut = pair_of(frames[-1][0])
        waiting = self._unordered
        while waiting and waiting[0][0] <= cut:
            until, tags = waiting.popleft()
            add_to(self._index, tags, until - len(tags) + 1)


class Engine:
    """Takes a client's frames, sends one per tick to every storage node, answers after the cut."""

    def __init__(self) -> None:
        self.storage: list[Link] = []
        self._taken: list[tuple[Link, Frame]] = []
        self._unordered: deque[tuple[int, Link, list[int], list[str]]] = deque()
        self._index: Index = {}
        self._sent = 0

    def on_frames(self, link: Link, frames: list[Frame]) -> None:
        """Appends of a client."""
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._flush)
        self._taken += [(link, frame) for frame in frames]

    def _flush(self) -> None:
        taken, self._taken = self._taken, []
        all_tags: list[str] = []
        all_lengths: list[int] = []
        for link, (head, _) in taken:
            ids, tags, lengths = request_of(head)
            self._sent += len(ids)
            self._unordered.append((self._sent, link, ids, tags))
            all_tags += tags
            all_lengths += lengths
        head = encode((self._sent, all_tags, all_lengths))
        body = taken[0][1][1] if len(taken) == 1 else b"".join([frame[1] for _, frame in taken])
        for node in self.storage:
            node.send(head, body)

    def on_cuts(self, link: Link, frames: list[Frame]) -> None:
        """Answer what is ordered now."""
        _, cut = pair_of(frames[-1][0])
        waiting = self._unordered
        while waiting and waiting[0][0] <= cut:
            until, client, ids, tags = waiting.popleft()
            seqnum = until - len(ids) + 1
            add_to(self._index, tags, seqnum)
            client.send(encode((ids, seqnum)))


class Client:
    """Appends, each with a future of its own; those of one tick are one frame."""

    def __init__(self) -> None:
        self.engine: Link | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._number = 0
        self._ids: list[int] = []
        self._tags: list[str] = []
        self._datas: list[bytes] = []

    async def append(self, data: bytes, tag: str) -> int:
        """The seqnum, once ordered."""
        if not self._ids:
            self._loop.call_soon(self._flush)
        self._number += 1
        self._ids.append(self._number)
        self._tags.append(tag)
        self._datas.append(data)
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting[self._number] = future
        return await future

    def _flush(self) -> None:
        assert self.engine is not None
        head = encode((self._ids, self._tags, [len(data) for data in self._datas]))
        self.engine.send(head, b"".join(self._datas))
        self._ids, self._tags, self._datas = [], [], []

    def on_frames(self, link: Link, frames: list[Frame]) -> None:
        """Answers."""
        pop = self._waiting.pop
        for head, _ in frames:
            ids, seqnum = reply_of(head)
            for place, number in enumerate(ids):
                pop(number).set_result(seqnum + place)


# --- processes ------------------------------------------------------------------------------------


class Roles:
    """What a process of the chain can be told to be."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._client: Client | None = None

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the order."""
        return {
            "sequencer": self.sequencer,
            "storage": self.storage,
            "engine": self.engine,
            "client": self.client,
            "append": self.append,
        }

    async def sequencer(self, order: Order) -> Outcome:
        """Order records that `count` of `outstanding` nodes have."""
        role = Sequencer(order.count, order.outstanding)
        return Outcome(place=await listen(self._stack, role.on_frames))

    async def storage(self, order: Order) -> Outcome:
        """Node number `count`; `place` is its file and the sequencer's port."""
        path, port = order.place.rsplit(":", 1)
        role = Storage(
            order.count,
            Path(path),
            sync=order.durability == "sync",
            keep_index=INDEX_FLAG in order.flags,
        )
        role.sequencer = await dial(port, role.on_cuts)
        if INDEX_FLAG in order.flags:
            role.sequencer.send(encode((READER, 0)))
        return Outcome(place=await listen(self._stack, role.on_frames))

    async def engine(self, order: Order) -> Outcome:
        """`place` is the sequencer's port, then those of the storage nodes."""
        role = Engine()
        sequencer, *nodes = order.place.split(",")
        role.storage = [await dial(port, role.on_frames) for port in nodes]
        (await dial(sequencer, role.on_cuts)).send(encode((READER, 0)))
        return Outcome(place=await listen(self._stack, role.on_frames))

    async def client(self, order: Order) -> Outcome:
        """`place` is the engine's port."""
        self._client = Client()
        self._client.engine = await dial(order.place, self._client.on_frames)
        return Outcome()

    async def append(self, order: Order) -> Outcome:
        """The same loop as every other append benchmark."""
        assert self._client is not None, "client comes first"
        append, data = self._client.append, os.urandom(order.size_bytes)

        async def one(turn: int) -> None:
            await append(data, tag_of(turn))

        load = await closed_loop(one, outstanding=order.outstanding, seconds=order.seconds)
        return Outcome(
            count=load.count, elapsed_s=load.elapsed_s, p50_us=load.p50_us, p99_us=load.p99_us
        )


if __name__ == "__main__":
    sys.exit(serve(lambda stack: Roles(stack).handlers()))
