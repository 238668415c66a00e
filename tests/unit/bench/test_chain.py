"""The bare chain: its frames, its cut, its index."""

import asyncio
from collections.abc import Sequence

import pytest

from scripts.bench.chain_roles import (
    READER,
    Engine,
    Frame,
    Index,
    Link,
    Sequencer,
    add_to,
    encode,
    pair_of,
)


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def linked(frames: list[Frame]) -> tuple[Link, FakeTransport]:
    link, transport = Link(lambda _, found: frames.extend(found)), FakeTransport()
    link.connection_made(transport)  # type: ignore[arg-type]  # a fake
    return link, transport


async def a_tick() -> None:
    await asyncio.sleep(0)


async def heads(transport: FakeTransport) -> Sequence[tuple[int, int]]:
    await a_tick()
    frames: list[Frame] = []
    link, _ = linked(frames)
    for data in transport.written:
        link.data_received(data)
    transport.written.clear()
    return [pair_of(head) for head, _ in frames]


@pytest.mark.asyncio
@pytest.mark.parametrize("piece_bytes", [1, 3, 10_000])
async def test_frames_survive_any_cut_of_the_stream(piece_bytes: int) -> None:
    sender, transport = linked([])
    sent = [(b"head", b"body"), (b"", b""), (b"h", b"x" * 500)]
    for head, body in sent:
        sender.send(head, body)
    await a_tick()
    (stream,) = transport.written
    frames: list[Frame] = []
    receiver, _ = linked(frames)
    for at in range(0, len(stream), piece_bytes):
        receiver.data_received(stream[at : at + piece_bytes])
    assert frames == sent


@pytest.mark.asyncio
async def test_a_cut_waits_for_the_quorum_and_is_told_once_per_tick() -> None:
    sequencer = Sequencer(2, 3)
    reader, transport = linked([])
    sequencer.on_frames(reader, [(encode((READER, 0)), b"")])
    sequencer.on_frames(reader, [(encode((0, 5)), b"")])
    await a_tick()
    assert await heads(transport) == []
    sequencer.on_frames(reader, [(encode((1, 3)), b"")])
    sequencer.on_frames(reader, [(encode((2, 4)), b"")])
    await a_tick()
    assert await heads(transport) == [(0, 4)]


@pytest.mark.asyncio
async def test_the_engine_answers_whole_frames_that_a_cut_covers() -> None:
    engine = Engine()
    client, answers = linked([])
    engine.on_frames(client, [(encode(([7, 8], ["a", "b"], [1, 1])), b"xy")])
    await a_tick()
    engine.on_frames(client, [(encode(([9], ["a"], [1])), b"z")])
    await a_tick()
    engine.on_cuts(client, [(encode((0, 2)), b"")])
    await a_tick()
    (first,) = answers.written
    assert first.endswith(encode(([7, 8], 1)))
    engine.on_cuts(client, [(encode((0, 3)), b"")])
    await a_tick()
    assert answers.written[1].endswith(encode(([9], 3)))


def test_the_index_has_every_seqnum_of_a_tag() -> None:
    index: Index = {}
    add_to(index, ["a", "b"], 1)
    add_to(index, ["a"], 3)
    assert {tag: list(postings) for tag, postings in index.items()} == {"a": [1, 3], "b": [2]}
