"""Of several processes with one node's name only the latest counts (P3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bokilog.effects import Address
from bokilog.errors import NotReady
from bokilog.ids import NodeId, Term
from bokilog.io.network import Identity, Network
from bokilog.io.one_identity import Starts, check_alone
from bokilog.messages import Message
from bokilog.view import Node, View

STORAGE = NodeId("storage-1")


class Events:
    """What a network told."""

    def __init__(self) -> None:
        self.up: list[Address] = []
        self.down: list[Address] = []

    def received(self, source: Address, message: Message) -> None: ...

    def link_up(self, peer: Address) -> None:
        self.up.append(peer)

    def link_down(self, peer: Address) -> None:
        self.down.append(peer)

    def link_clogged(self, peer: Address, *, clear: bool) -> None: ...

    def newer_term(self, term: int) -> None: ...

    def greet_client(self, connection: int) -> None: ...


def network(node: str, incarnation: int) -> tuple[Network, Events]:
    events = Events()
    identity = Identity(
        role="storage",
        node=node,
        incarnation=incarnation,
        cluster_id="c",
        history_id="h",
        term=0,
    )
    return Network(identity, events), events


def view(address: str) -> View:
    nodes = (Node(id=STORAGE, role="storage", address=address),)
    return View(cluster_id="c", history_id="h", term=Term(3), nodes=nodes, spaces=(), ends=())


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110  links set no event
            await asyncio.sleep(0.001)


def test_p3_an_earlier_start_than_the_last_one_heard_of_does_not_count() -> None:
    starts = Starts()
    assert starts.note(STORAGE, 4) and not starts.note(STORAGE, 4)
    assert starts.refusal(STORAGE, 4) == "" and starts.refusal("storage-2", 1) == ""
    assert "storage-1 (start 4, this one is 3), and only the latest" in starts.refusal(STORAGE, 3)


@pytest.mark.asyncio
async def test_p3_links_of_an_earlier_start_end_and_are_refused(tmp_path: Path) -> None:
    """Whoever dialled first: frames of the earlier process come on a link of their own."""
    address = f"unix:{tmp_path / 'a.sock'}"
    accepting, events = network("sequencer-1", 1)
    await accepting.listen(address)
    earlier, seen = network(STORAGE, 4)
    later, _ = network(STORAGE, 5)
    try:
        earlier.dial("sequencer-1", address)
        earlier.dial(("bulk", "sequencer-1"), address, bulk=True)
        await until(lambda: len(events.up) == 2)
        later.dial("sequencer-1", address)
        await until(lambda: "storage-1" in accepting.refused)
        assert set(events.down) >= {"storage-1", ("bulk", "storage-1")}
        assert "only the latest counts" in accepting.refused["storage-1"]
        await until(lambda: len(seen.down) == 2)
        assert events.up.count("storage-1") == 2 and events.down.count("storage-1") == 1
    finally:
        for each in (later, earlier, accepting):
            await each.aclose()


@pytest.mark.asyncio
async def test_p3_an_earlier_start_that_is_dialled_does_not_count(tmp_path: Path) -> None:
    old, new = f"unix:{tmp_path / 'old.sock'}", f"unix:{tmp_path / 'new.sock'}"
    earlier, _ = network(STORAGE, 4)
    later, _ = network(STORAGE, 5)
    await earlier.listen(old)
    await later.listen(new)
    dialling, events = network("engine-1", 1)
    try:
        dialling.dial(STORAGE, new)
        await until(lambda: events.up == [STORAGE])
        dialling.dial(("bulk", STORAGE), old)
        await until(lambda: STORAGE in dialling.refused)
        assert events.up == [STORAGE] and not events.down
    finally:
        for each in (dialling, later, earlier):
            await each.aclose()


@pytest.mark.asyncio
async def test_p3_a_start_elsewhere_is_refused_while_the_node_answers(tmp_path: Path) -> None:
    known, other = f"unix:{tmp_path / 'a.sock'}", f"unix:{tmp_path / 'b.sock'}"
    await check_alone(STORAGE, view(known), addresses=[other])  # nobody is there
    running, _ = network(STORAGE, 1)
    await running.listen(known)
    try:
        with pytest.raises(NotReady, match=r"storage-1 runs already, at .*a\.sock, where .* 3 "):
            await check_alone(STORAGE, view(known), addresses=[other])
        await check_alone(NodeId("storage-2"), view(known), addresses=[other])
        with pytest.raises(OSError, match=r"a\.sock"):
            await check_alone(STORAGE, view(known), addresses=[known])
    finally:
        await running.aclose()
