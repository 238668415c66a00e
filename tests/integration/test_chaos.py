"""One short round of chaos on real processes; and its checks find what is wrong.

`scripts/chaos.py --minutes 30` is the long form. `BOKILOG_CHAOS_SEED` for the faults of a failure.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.io.addresses import connect_unix, listen_unix
from bokilog.record import Record
from tests.chaos.client import Line
from tests.chaos.namespaces import Namespaces, missing
from tests.chaos.order import read_order
from tests.chaos.rounds import SPACE, Round
from tests.chaos.saturate import saturate
from tests.chaos.told import Told, judged
from tests.sim.loop import World

SEED = os.environ.get("BOKILOG_CHAOS_SEED", str(time.time_ns() % 1_000_000))
LOAD_S = 4.0

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_round_of_chaos_breaks_no_rule_and_checks_can_fail(tmp_path: Path) -> None:
    print(f"BOKILOG_CHAOS_SEED={SEED}")
    one = Round(tmp_path / "cluster", 1, SEED, say=print)
    asyncio.run(one.run(LOAD_S))
    one.check()
    assert one.violations == []
    assert one.told.counts["acked"] > 0 and one.told.counts["read"] > 0

    world = World(0)
    oracle = read_order(one.layout, SPACE, world)
    assert not world.violations
    for name, tamper in (
        ("it was acknowledged at", _move_an_ack),
        ("was left out", _leave_out_a_record),
        ("has yet to see", _cut_a_follow_short),
    ):
        told = Told()
        for life, line in tamper(one.told.lines):
            told.heard(life, line)
        assert any(name in text for text in judged(told, oracle, World(0))), name


def test_load_that_saturates_the_machine_changes_no_view(tmp_path: Path) -> None:
    found = saturate(tmp_path / "cluster", minutes=0.05, say=print)
    assert found.ok, found.line()
    assert found.acked > 0


def test_in_network_namespaces_packets_get_lost_and_come_after_all(tmp_path: Path) -> None:
    """Of a route that is dropped nothing arrives, in one direction; TCP sends it again."""
    if why_not := missing():
        pytest.skip(why_not)
    target = tmp_path / "b.sock"
    listening = listen_unix(str(target), backlog=4)
    listening.setblocking(True)
    with Namespaces(tmp_path / "net", {"b": [f"unix:{target}"]}, ["a"]) as namespaces, listening:
        dialled = connect_unix(namespaces.via("b", 0).removeprefix("unix:").format(dialler="a"))
        accepted, _ = listening.accept()
        with dialled, accepted:
            dialled.setblocking(True)
            accepted.settimeout(10.0)
            dialled.sendall(b"one")
            assert accepted.recv(16) == b"one"
            namespaces.drop("a", "b")
            dialled.sendall(b"two")
            accepted.settimeout(0.3)
            with pytest.raises(TimeoutError):
                accepted.recv(16)
            namespaces.deliver("a", "b")
            accepted.settimeout(10.0)
            assert accepted.recv(16) == b"two"


def _move_an_ack(lines: list[tuple[str, Line]]) -> list[tuple[str, Line]]:
    """As if the first append of the audit had been told another place."""
    place = next(
        place
        for place, (life, line) in enumerate(lines)
        if life.startswith("audit") and line.kind == "end"
    )
    life, line = lines[place]
    number, position, answer, error = line.what
    assert isinstance(answer, int)
    moved = replace(line, what=(number, position, answer - 1, error))
    return [*lines[:place], (life, moved), *lines[place + 1 :]]


def _of_the_audit(lines: list[tuple[str, Line]]) -> list[int]:
    """Places of the lines about records of the audit's first scan of several records."""
    found: dict[tuple[str, object], list[int]] = {}
    for place, (life, line) in enumerate(lines):
        if life.startswith("audit") and line.kind == "record":
            assert isinstance(line.what[1], Record)
            found.setdefault((life, line.what[0]), []).append(place)
    return next(places for places in found.values() if len(places) > 2)


def _leave_out_a_record(lines: list[tuple[str, Line]]) -> list[tuple[str, Line]]:
    left_out = _of_the_audit(lines)[1]
    return [*lines[:left_out], *lines[left_out + 1 :]]


def _cut_a_follow_short(lines: list[tuple[str, Line]]) -> list[tuple[str, Line]]:
    left_out = _of_the_audit(lines)[-1]
    return [*lines[:left_out], *lines[left_out + 1 :]]
