from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from bokilog.functions.runtime.connections import Connections
from bokilog.functions.runtime.effects import Event, LinkDown, LinkUp, Received
from bokilog.functions.runtime.messages import (
    CALLS_VERSION,
    CallMessage,
    Done,
    Greeted,
    Greeting,
    OutputsRequest,
    Start,
    encode,
)
from bokilog.io.link import LinkCallbacks
from bokilog.io.transport import Link, dial
from tests.unit.functions.runtime.hosts import start


class Rig:
    """The connections of a host, and what they told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.aside: list[object] = []
        self.connections = Connections(
            "host-1",
            deliver=self.events.append,
            aside=lambda source, message: self.aside.append((source, message)),
        )
        self.links: list[Link] = []

    async def dialled(self, address: str, *messages: CallMessage) -> Link:
        link = await dial(address, LinkCallbacks(on_messages=lambda link, wires: None))
        self.links.append(link)
        for message in messages:
            link.send(*encode(message))
        return link

    async def settled(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)


def run(work: Callable[[Rig], Awaitable[None]]) -> None:
    async def within() -> None:
        rig = Rig()
        try:
            await work(rig)
        finally:
            for link in rig.links:
                await link.aclose()
            await rig.connections.aclose()

    asyncio.run(within())


def greeting(role: str, number: int = 0, **changed: object) -> Greeting:
    made = Greeting(CALLS_VERSION, role, "x", "app", number)
    return made._replace(**changed)  # type: ignore[arg-type]


def test_who_greets_gets_a_name_and_then_is_heard(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        address = await rig.connections.listen(f"unix:{tmp_path}/host.sock")
        link = await rig.dialled(address, greeting("worker", 7), start(1))
        await rig.settled(lambda: len(rig.events) == 2)
        assert rig.events[0] == LinkUp(("worker", 7))
        received = rig.events[1]
        assert isinstance(received, Received) and received.source == ("worker", 7)
        assert isinstance(received.message, Start)
        link.abort()
        await rig.settled(lambda: len(rig.events) == 3)
        assert isinstance(rig.events[2], LinkDown) and rig.events[2].peer == ("worker", 7)

    run(work)


def test_nobody_on_the_network_is_a_worker_or_a_template() -> None:
    async def work(rig: Rig) -> None:
        address = await rig.connections.listen("tcp:127.0.0.1:0")
        for role in ("worker", "template", "nonsense"):
            link = await rig.dialled(address, greeting(role, 7))
            assert await link.wait_gone(5)
        await rig.dialled(address, greeting("caller"))
        await rig.settled(lambda: rig.events)
        assert rig.events == [LinkUp(("caller", 1))]

    run(work)


def test_other_versions_other_apps_and_the_unpolite_are_sent_away(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.connections.app = "app"
        address = await rig.connections.listen(f"unix:{tmp_path}/host.sock")
        for first in (
            greeting("caller", version=CALLS_VERSION + 1),
            greeting("host", app="other"),
            start(1),
        ):
            link = await rig.dialled(address, first)
            assert await link.wait_gone(5)
        assert rig.events == []

    run(work)


def test_who_asks_for_output_does_not_trouble_the_core(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        address = await rig.connections.listen(f"unix:{tmp_path}/host.sock")
        await rig.dialled(address, greeting("caller"), OutputsRequest("c1"))
        await rig.settled(lambda: rig.aside)
        assert rig.aside == [(("caller", 1), OutputsRequest("c1"))]
        assert rig.events == [LinkUp(("caller", 1))]

    run(work)


def test_a_host_that_is_dialled_is_up_once_it_has_greeted(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        other = Rig()
        address = await other.connections.listen(f"unix:{tmp_path}/other.sock")
        rig.connections.dial("host-2", address)
        await rig.settled(lambda: other.events)
        assert other.events == [LinkUp(("host", 1))] and rig.events == []
        assert rig.connections.peers == {"host-2": False}
        other.connections.send(("host", 1), Greeted("host-2", "app", 1, []))
        await rig.settled(lambda: rig.events)
        assert rig.events == [LinkUp(("peer", "host-2"))]
        rig.connections.send(("peer", "host-2"), start(5))
        rig.connections.send(("peer", "nobody"), Done(1, 0, "", [], 0, 0, False, b""))
        await rig.settled(lambda: len(other.events) == 2)
        assert rig.connections.refused_count == 1
        peer = rig.connections.hang_up("host-2")
        assert peer is not None
        await peer.aclose()
        assert rig.events[-1] == LinkDown(("peer", "host-2"))
        await other.connections.aclose()

    run(work)
