from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bokilog
from bokilog.functions.runtime.membership import (
    SILENT_S,
    HostRecord,
    Hosts,
    Membership,
    decode_host,
    encode_host,
    hosts_of,
    reachable,
    recent_of,
)

ONE = HostRecord("host-1", ["unix:/nowhere/host.sock", "tcp:10.0.0.1:7400"], ["f"], True)


def test_a_record_comes_back_and_garbage_is_none() -> None:
    assert decode_host(encode_host(ONE)) == ONE
    for garbage in (b"", b"\xc1", b"\x93\x01\x02\x03", encode_host(ONE)[:-1]):
        assert decode_host(garbage) is None


def test_the_last_record_of_a_host_counts() -> None:
    hosts = Hosts()
    hosts.apply(ONE, 1_000)
    hosts.apply(ONE._replace(addresses=["tcp:10.0.0.2:1"]), 2_000)
    assert hosts.present(3_000)["host-1"].addresses == ["tcp:10.0.0.2:1"]
    hosts.apply(ONE._replace(present=False), 3_000)
    assert hosts.present(3_000) == {}


def test_a_host_that_was_silent_for_long_is_gone() -> None:
    hosts = Hosts()
    hosts.apply(ONE, 0)
    assert "host-1" in hosts.present(round(SILENT_S * 1e3))
    assert hosts.present(round(SILENT_S * 1e3) + 1) == {}


def test_a_unix_socket_is_dialled_only_where_it_is(tmp_path: Path) -> None:
    assert reachable(ONE) == "tcp:10.0.0.1:7400"
    socket = tmp_path / "host.sock"
    socket.touch()
    here = ONE._replace(addresses=["tcp:10.0.0.1:7400", f"unix:{socket}"])
    assert reachable(here) == f"unix:{socket}"
    assert reachable(ONE._replace(addresses=[])) == ""


@pytest.mark.asyncio
async def test_only_as_many_records_are_read_as_may_count() -> None:
    read: list[float] = []

    async def newest_first() -> AsyncIterator[Any]:
        for age_s in (0, 10, SILENT_S, SILENT_S + 1, SILENT_S + 2):
            read.append(age_s)
            yield SimpleNamespace(timestamp_ms=round((1_000 - age_s) * 1e3))

    found = await recent_of(newest_first())
    assert len(found) == 3
    assert read[-1] == SILENT_S + 1, "what lies before is not looked at"


class Member:
    """A host's membership, and what it was told."""

    def __init__(self, log: Any, record: HostRecord) -> None:
        self.present: dict[str, HostRecord] = {}
        self.alike: list[HostRecord] = []
        self.membership = Membership(
            log, "shop", record, changed=self.changed, named_alike=self.alike.append
        )

    def changed(self, present: dict[str, HostRecord]) -> None:
        self.present = present


async def settled(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_hosts_see_each_other_come_and_go() -> None:
    async with bokilog.open() as log:
        one = Member(log, ONE)
        await one.membership.join()
        other = Member(log, ONE._replace(name="host-2"))
        await other.membership.join()
        await settled(lambda: set(one.present) == {"host-2"} and set(other.present) == {"host-1"})
        assert {each.name for each in await hosts_of(log, "shop")} == {"host-1", "host-2"}
        await other.membership.leave(timeout_s=5)
        await settled(lambda: not one.present)
        assert [each.name for each in await hosts_of(log, "shop")] == ["host-1"]
        await one.membership.leave(timeout_s=5)


@pytest.mark.asyncio
async def test_two_hosts_of_one_name_are_told_and_one_outlives_the_others_end() -> None:
    async with bokilog.open() as log:
        one, other = Member(log, ONE), Member(log, ONE._replace(addresses=["tcp:10.0.0.2:1"]))
        await one.membership.join()
        await other.membership.join()
        await settled(lambda: one.alike and other.alike)
        await other.membership.leave(timeout_s=5)
        async with asyncio.timeout(5):
            while [each.addresses for each in await hosts_of(log, "shop")] != [ONE.addresses]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await one.membership.leave(timeout_s=5)
        assert len(one.alike) == len(other.alike) == 1
