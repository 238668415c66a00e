"""A host among the others of its app: whom it dials, and on whom it hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

import bokilog
from bokilog.functions.runtime.effects import PeerLeaves
from bokilog.functions.runtime.membership import HostRecord, hosts_of
from bokilog.functions.runtime.neighbours import Neighbours

OTHER = HostRecord("host-2", ["unix:/nowhere/host.sock", "tcp:10.0.0.1:7400"], ["f"], True)


class Dialled:
    """Links to other hosts that answer when a test says so."""

    def __init__(self) -> None:
        self.answers: dict[str, bool] = {}
        self.addresses: dict[str, str] = {}

    @property
    def peers(self) -> dict[str, bool]:
        return dict(self.answers)

    def dial(self, name: str, address: str) -> None:
        self.addresses[name] = address
        self.answers.setdefault(name, False)

    def hang_up(self, name: str) -> None:
        del self.answers[name]


class Rig:
    """A host that has function f."""

    def __init__(self) -> None:
        self.links = Dialled()
        self.left: list[PeerLeaves] = []
        self.warnings: list[str] = []
        self.spawned: list[tuple[Coroutine[object, object, None], str]] = []
        self.functions = ["f"]
        self.neighbours = Neighbours(
            "host-1",
            links=self.links,
            functions=lambda: self.functions,
            leaves=self.left.append,
            warn=self.warnings.append,
            spawn=lambda work, name: self.spawned.append((work, name)),
        )


def test_who_is_there_is_dialled_where_it_can_be_reached() -> None:
    rig = Rig()
    nowhere = OTHER._replace(name="host-3", addresses=["unix:/nowhere/host.sock"])
    rig.neighbours.present_are({"host-2": OTHER, "host-3": nowhere})
    assert rig.links.addresses == {"host-2": "tcp:10.0.0.1:7400"}


def test_a_host_that_was_silent_for_long_is_dialled_no_more() -> None:
    rig = Rig()
    rig.neighbours.present_are({"host-2": OTHER})
    assert rig.links.peers == {"host-2": False}
    rig.neighbours.present_are({})
    assert rig.links.peers == {}
    assert rig.left == []


def test_a_host_that_ends_finishes_the_calls_that_it_got_from_others() -> None:
    rig = Rig()
    rig.neighbours.present_are({"host-2": OTHER})
    rig.links.answers["host-2"] = True
    rig.neighbours.present_are({})
    assert rig.links.peers == {"host-2": True}, "it says that it ends, and still answers"
    assert rig.left == [PeerLeaves("host-2")]
    rig.links.answers["host-2"] = False
    rig.neighbours.hang_up()
    assert rig.links.peers == {}


def test_another_app_of_the_same_name_is_told_once() -> None:
    rig = Rig()
    rig.functions = ["e"]
    other = OTHER._replace(functions=["f", "g"])
    for _ in range(2):
        rig.neighbours.present_are({"host-2": other})
    assert len(rig.warnings) == 1
    assert "host-2 has another version of" in rig.warnings[0]
    assert "it lacks e, and has f, g besides" in rig.warnings[0]
    rig.functions = ["g", "f"]
    rig.neighbours.present_are({"host-2": other})
    assert len(rig.warnings) == 1


@pytest.mark.asyncio
async def test_a_host_is_there_from_join_to_leave_with_the_functions_it_has() -> None:
    rig = Rig()
    rig.neighbours.serve(["g"])  # nobody is told yet
    assert (rig.neighbours.joined, rig.spawned) == (False, [])
    async with bokilog.open() as log, asyncio.timeout(5):
        await rig.neighbours.join(log, "shop", ["tcp:10.0.0.2:1"])
        assert [each.functions for each in await hosts_of(log, "shop")] == [["f"]]
        rig.neighbours.serve(["f", "g"])
        ((work, _),) = rig.spawned
        await work
        assert [each.functions for each in await hosts_of(log, "shop")] == [["f", "g"]]
        await rig.neighbours.leave(timeout_s=5)
        assert await hosts_of(log, "shop") == []
        await rig.neighbours.leave(timeout_s=5)  # again: it has left
