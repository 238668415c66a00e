"""Engines die, and their clients go on at another one: nothing twice, nothing lost, sessions kept.

The client is the real core; which frames were ordered before their engine died is up to the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from bokilog.client.session import Session
from bokilog.errors import AppendUnknown
from bokilog.ids import NodeId
from tests.sim.checkers import records_of
from tests.sim.core_clients import CoreClient, Outcome
from tests.sim.world import CLIENTS, ENGINES, SEQUENCER, STORAGE, World

WAIT_MS = 600_000
"""Nobody waits that long: a wait that is forgotten somewhere is seen as such."""


@dataclass
class Mover:
    """A client with both engines as seeds: the next one as soon as it has lost one."""

    client: CoreClient
    session: Session
    followed: list[bytes] = field(default_factory=list)
    moves: int = 0
    _start: int = 0

    def lost(self) -> None:
        if self.client.engine is None:
            return  # it is between two engines, and the one it had dies once more
        self.client.lost()
        self.client.world.later(0.001, self.move)

    def move(self) -> None:
        world = self.client.world
        there = [node for node in ENGINES if node in world.processes]
        self.client.connect(there[self.moves % len(there)])
        self.moves += 1

    def follow(self) -> None:
        """Reads on, page after page, wherever its engine is."""
        world = self.client.world
        answer = self.client.read(tag="t", start=self._start, session=self.session, wait_ms=WAIT_MS)

        def look() -> None:
            if not answer.done():
                world.later(0.002, look)
                return
            assert answer.reply is not None, answer.error
            self.followed += [bytes(data) for data in answer.reply.payload]
            self._start = answer.reply.next_seqnum
            self.follow()

        look()


def play(seed: int) -> tuple[World, list[Mover], list[Outcome], list[Outcome]]:
    world = World(seed)
    rng = world.random
    movers = []
    for number in CLIENTS:
        client = CoreClient(number, world)
        movers.append(Mover(client, Session("world")))
    world.down = lambda number: movers[CLIENTS.index(number)].lost()
    for mover in movers:
        mover.move()
        mover.follow()
    plain: list[Outcome] = []
    keyed: list[Outcome] = []
    for turn in range(60):
        for mover in movers:
            plain += [mover.client.append("t") for _ in range(rng.randrange(3))]
            if rng.random() < 0.5:
                keyed.append(mover.client.append("k", key=f"{mover.client.number}:{turn}"))
        for _ in range(rng.randrange(80)):
            world.step()
        fault(world, rng)
    assert world.run(lambda: not any(mover.client.waiting for mover in movers)), world.trace[-20:]
    return world, movers, plain, keyed


def fault(world: World, rng: random.Random) -> None:
    what = rng.random()
    if what < 0.15:
        engine = rng.choice(ENGINES)
        world.crash(engine)
        world.start(engine)
    elif what < 0.3:
        world.break_link(rng.choice(ENGINES), rng.choice((SEQUENCER, *STORAGE)))


@pytest.mark.parametrize("seed", range(6))
def test_clients_of_a_dead_engine_go_on_at_the_next_one(seed: int) -> None:
    world, movers, plain, keyed = play(seed)
    assert sum(mover.moves for mover in movers) > len(movers), "no engine died"
    caught_up = world.run(lambda: len({world.index(node).position for node in STORAGE}) == 1)
    assert caught_up
    served = records_of(world, STORAGE[0])
    places: dict[bytes, list[int]] = {}
    for seqnum, (data, _) in served.items():
        places.setdefault(data, []).append(seqnum)

    for outcome in keyed:
        assert places.get(outcome.data) == [outcome.seqnum], "a key settles what its engine left"
    for outcome in plain:
        found = places.get(outcome.data, [])
        if outcome.error is None:
            assert found == [outcome.seqnum]
        else:
            assert isinstance(outcome.error, AppendUnknown) and len(found) <= 1

    everything = [data for data, tag in served.values() if tag == "t"]
    healed_s = world.now_s
    read = world.run(lambda: all(len(each.followed) >= len(everything) for each in movers))
    assert read and world.now_s < healed_s + 5, [len(each.followed) for each in movers]
    for mover in movers:
        assert mover.followed == everything, "a follower saw a gap, or something twice"


@pytest.mark.parametrize("seed", range(4))
def test_p27_a_read_at_the_next_engine_sees_what_was_acknowledged_at_the_last(seed: int) -> None:
    """The token is all that the two engines share."""
    world = World(seed)
    client = CoreClient(CLIENTS[0], world)
    world.down = lambda number: client.lost()
    client.connect(ENGINES[0])
    outcome = client.append("t")
    assert world.run(outcome.done) and outcome.seqnum is not None
    session = client.core.session(None)
    world.crash(NodeId(ENGINES[0]))
    answer = client.read(tag="t", session=session)
    client.connect(ENGINES[1])
    assert world.run(answer.done)
    assert answer.reply is not None and answer.reply.seqnums == [outcome.seqnum]


def test_what_waits_while_no_engine_is_there_is_sent_to_the_first_that_is() -> None:
    world = World(1)
    client = CoreClient(CLIENTS[0], world)
    world.down = lambda number: client.lost()
    client.connect(ENGINES[0])
    world.crash(ENGINES[0])
    waiting = [client.append("t") for _ in range(3)]
    for _ in range(100):
        world.step()
    assert not any(outcome.done() for outcome in waiting)
    client.connect(ENGINES[1])
    assert world.run(lambda: not client.waiting)
    assert [outcome.seqnum for outcome in waiting] == [1, 2, 3]
