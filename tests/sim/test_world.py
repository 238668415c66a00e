"""Links break and nodes die, and nothing acknowledged is lost, doubled or altered."""

from __future__ import annotations

import pytest

from bokilog.functions.engine.settings import EngineSettings
from tests.sim.checkers import check_history
from tests.sim.clients import Client
from tests.sim.world import CLIENTS, ENGINES, SEQUENCER, STORAGE, World


def play(
    seed: int, *, rounds: int = 60, facts: bool = True, engines: EngineSettings | None = None
) -> tuple[World, list[Client]]:
    """Appends under faults, then everything heals and must catch up."""
    world = World(seed, facts=facts, engines=engines)
    rng = world.random
    clients = [Client(number, world) for number in CLIENTS]

    def down(number: int) -> None:
        clients[CLIENTS.index(number)].lost()

    world.down = down
    for client in clients:
        client.connect(rng.choice(ENGINES))
    for _ in range(rounds):
        for client in clients:
            if client.engine is None and rng.random() < 0.5:
                client.connect(rng.choice([node for node in ENGINES if node in world.processes]))
            unless = rng.choice((0, 5, 30)) if rng.random() < 0.2 else None
            client.append(rng.randrange(1, 6), unless=unless)
        for _ in range(rng.randrange(120)):
            world.step()
        _fault(world)
    heal(world, clients)
    return world, clients


def _fault(world: World) -> None:
    rng = world.random
    what = rng.random()
    if what < 0.15:
        world.restart(rng.choice(STORAGE), keep_unsynced=rng.random() < 0.5)
    elif what < 0.2:
        world.restart(SEQUENCER, keep_unsynced=rng.random() < 0.5)
    elif what < 0.25:
        world.restart(rng.choice(ENGINES))
    elif what < 0.5:
        node, peer = rng.choice((*ENGINES, *STORAGE)), rng.choice((SEQUENCER, *STORAGE))
        if node != peer:
            world.break_link(node, peer)


def heal(world: World, clients: list[Client]) -> None:
    """No more faults: every append gets an answer and every replica reaches the same place."""
    for client in clients:
        if client.engine is None:
            client.connect(ENGINES[0])
    assert world.run(lambda: not any(client.waiting for client in clients)), stuck(world, clients)

    def together() -> bool:
        return len({world.index(node).position for node in STORAGE}) == 1 and (
            world.index(STORAGE[0]).tail == _primary_tail(world)
        )

    assert world.run(together), stuck(world, clients)


def _primary_tail(world: World) -> int:
    primary = world.processes[SEQUENCER].core.primaries[0]  # type: ignore[attr-defined]
    tail: int = primary.tail
    return tail


def stuck(world: World, clients: list[Client]) -> str:
    lines = [f"{node}: {process.core.facts()}" for node, process in world.processes.items()]  # type: ignore[attr-defined]
    waiting = [f"client {client.number}: {client.waiting}" for client in clients]
    return "\n".join([*world.trace[-30:], *lines, *waiting])


@pytest.mark.parametrize("seed", range(25))
def test_acknowledged_records_survive_crashes_and_resets(seed: int) -> None:
    world, clients = play(seed)
    acked = check_history(world, [append for client in clients for append in client.appends])
    assert acked > 50, "a world in which hardly anything is acknowledged proves nothing"


@pytest.mark.parametrize("seed", range(100, 105))
def test_p32_appends_that_wait_for_the_index_go_on_whatever_happens_to_it(seed: int) -> None:
    """Engines that allow their index replica hardly any lag refuse frames all the time, follow one
    replica after the other as these die and come back, and never stop for ever."""
    engines = EngineSettings(lag_records_max=3, retry_s=0.05)
    world, clients = play(seed, engines=engines)
    assert sum(client.refused_count for client in clients) > 10
    last = clients[0]
    before = sum(append.seqnum is not None for append in last.appends)

    def one_more() -> bool:
        if not last.waiting:
            last.append(1)
        return sum(append.seqnum is not None for append in last.appends) > before

    assert world.run(one_more), stuck(world, clients)
    heal(world, clients)
    acked = check_history(world, [append for client in clients for append in client.appends])
    assert acked > 50


def test_one_seed_is_one_history() -> None:
    first, second = play(99)[0], play(99)[0]
    assert first.trace == second.trace
    assert first.index(STORAGE[0]).chained_hash == second.index(STORAGE[0]).chained_hash
