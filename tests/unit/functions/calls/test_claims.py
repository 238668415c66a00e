"""The claims core: one host at a time, then several with crashes, lost answers and zombies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from bokilog.functions.calls.records import (
    Cancelled,
    Claimed,
    DeadLettered,
    Expired,
    Extended,
    Finished,
    Passed,
    Retried,
    Spawned,
)
from bokilog.functions.runtime.messages import Done
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.calls.world import (
    DONE,
    ENDS,
    FAILED,
    NO_ROOM,
    WALL_MS,
    World,
    spawned,
)

IDS = [f"{number:016x}" for number in range(40)]


def kinds(world: World, call_id: str) -> list[type]:
    return [type(each) for each in world.records(f"call:{call_id}")]


def test_a_call_is_claimed_run_and_finished() -> None:
    world = World(1)
    world.start()
    world.append(spawned(IDS[0]))
    world.run(1)
    assert kinds(world, IDS[0]) == [Spawned, Claimed, Finished]
    assert world.runs == {IDS[0]: 1}
    assert all(host.core.is_idle for host in world.hosts.values())
    assert world.state().calls == {}


def test_the_lease_of_a_long_call_is_extended() -> None:
    world = World(1, ["a"])
    world.behaviour = lambda call_id, attempt: (5.0, DONE)
    world.start()
    world.append(spawned(IDS[0]))
    world.run(10)
    found = kinds(world, IDS[0])
    assert found[:2] == [Spawned, Claimed]
    assert set(found[2:-1]) == {Extended}
    assert 6 <= len(found[2:-1]) <= 9  # of 2 s, every third of it
    assert found[-1] is Finished


def test_calls_are_spread_over_the_hosts_and_others_leave_them_alone() -> None:
    world = World(1)
    world.start()
    for call_id in IDS[:30]:
        world.append(spawned(call_id))
        world.run(0.15)  # nobody is ever full
    world.run(1)
    hosts = {c.host.partition("/")[0] for c in world.records() if isinstance(c, Claimed)}
    assert hosts == {"a", "b", "c"}
    assert sum(host.core.stats().refused_count for host in world.hosts.values()) == 0


def test_the_host_that_has_the_arguments_is_preferred() -> None:
    world = World(1)
    world.start()
    for call_id in IDS[:6]:
        world.append(spawned(call_id, prefer="b"))
        world.run(0.3)
    claims = [each for each in world.records() if isinstance(each, Claimed)]
    assert {each.host.partition("/")[0] for each in claims} == {"b"}


def test_nobody_claims_beyond_its_room_and_one_function_does_not_take_it_all() -> None:
    world = World(1, ["a"])
    world.behaviour = lambda call_id, attempt: (1.0, DONE)
    world.start()
    for call_id in IDS[:20]:
        world.append(spawned(call_id))
    world.run(0.5)
    assert world.hosts["a"].core.stats().running_count == 3  # of 4: three quarters
    world.append(spawned(IDS[20], function="g"))
    world.run(0.3)
    claims = [each.call_id for each in world.records() if isinstance(each, Claimed)]
    assert sorted(claims[:3]) == IDS[:3]
    assert claims[3:] == [IDS[20]]
    world.run(30)
    assert world.state().calls == {}


def test_a_call_that_raises_is_retried_with_back_off_then_dead_lettered() -> None:
    world = World(1, ["a"])
    world.behaviour = lambda call_id, attempt: (0.01, FAILED)
    world.start()
    world.append(spawned(IDS[0], retries=2))
    world.run(30)
    steps = world.records(f"call:{IDS[0]}")
    retries = [each for each in steps if isinstance(each, Retried)]
    assert [each.attempt for each in retries] == [1, 2]
    assert 75 <= retries[0].delay_ms <= 125
    assert 150 <= retries[1].delay_ms <= 250
    last = steps[-1]
    assert isinstance(last, DeadLettered)
    assert (last.attempts, last.reason) == (3, "f raised ValueError: no")
    assert world.runs[IDS[0]] == 3


def test_a_call_that_its_host_has_no_room_for_is_not_counted_as_an_attempt() -> None:
    world = World(1, ["a"])
    answers = iter([NO_ROOM, NO_ROOM, DONE])
    world.behaviour = lambda call_id, attempt: (0.01, next(answers))
    world.start()
    world.append(spawned(IDS[0], retries=0))
    world.run(10)
    attempts = [e.attempt for e in world.records() if isinstance(e, (Retried, Claimed, Finished))]
    assert attempts == [0] * 6
    assert isinstance(world.ends(IDS[0])[0], Finished)


def test_another_host_takes_over_once_the_lease_is_over() -> None:
    world = World(1, ["a", "b"])
    world.behaviour = lambda call_id, attempt: (0.5, DONE)
    world.start()
    world.append(spawned(IDS[0], prefer="a"))
    world.run(0.2)
    world.crash("a")
    world.run(1.5)
    assert kinds(world, IDS[0]) == [Spawned, Claimed]
    world.run(3)
    assert kinds(world, IDS[0]) == [Spawned, Claimed, Expired, Claimed, Finished]
    expired = world.records(f"call:{IDS[0]}")[2]
    assert isinstance(expired, Expired)
    assert expired.by.partition("/")[0] == "b"


def test_a_call_that_may_start_once_is_given_up_when_its_host_is_lost() -> None:
    world = World(1, ["a", "b"])
    world.behaviour = lambda call_id, attempt: (0.5, DONE)
    world.start()
    world.append(spawned(IDS[0], prefer="a", retries=0))
    world.run(0.2)
    world.crash("a")
    world.run(5)
    (end,) = world.ends(IDS[0])
    assert isinstance(end, DeadLettered)
    assert "the lease of host 'a' ran out" in end.reason
    assert world.runs[IDS[0]] == 1


def test_what_a_zombie_says_is_refused() -> None:
    world = World(1, ["a", "b"])
    world.behaviour = lambda call_id, attempt: (0.5 if attempt == 0 else 0.1, DONE)
    world.start()
    world.append(spawned(IDS[0], prefer="a"))
    world.run(0.2)
    zombie = world.hosts["a"]
    zombie.stands_still = True  # its result is there, it does not know that its lease is over
    world.run(5)
    zombie.stands_still = False
    world.run(5)
    assert kinds(world, IDS[0]) == [Spawned, Claimed, Expired, Claimed, Finished]
    assert world.runs[IDS[0]] == 2
    assert zombie.core.stats().refused_count >= 1
    assert zombie.core.is_idle


def test_a_cancelled_call_is_stopped_where_it_runs() -> None:
    world = World(1, ["a"])
    world.behaviour = lambda call_id, attempt: (5.0, DONE)
    world.start()
    world.append(spawned(IDS[0]))
    world.run(0.5)
    assert world.hosts["a"].running
    last = world.state().calls[IDS[0]].seqnum
    world.append(Cancelled(IDS[0], "enough"), unless=((f"call:{IDS[0]}", last),))
    world.run(0.1)
    assert not world.hosts["a"].running
    world.run(10)
    assert [type(each) for each in world.ends(IDS[0])] == [Cancelled]


def test_a_host_that_goes_down_hands_its_calls_over_at_once() -> None:
    world = World(1, ["a", "b"])
    world.behaviour = lambda call_id, attempt: (0.6, DONE)
    world.start()
    for call_id in IDS[:3]:
        world.append(spawned(call_id, prefer="a", retries=0))
    world.run(0.1)
    world.drain("a", now=False)
    world.run(0.1)
    world.drain("a", now=True)
    world.run(0.1)
    assert world.hosts["a"].core.is_idle
    world.crash("a")
    world.run(1.5)  # less than a lease
    assert [type(world.ends(call_id)[0]) for call_id in IDS[:3]] == [Finished] * 3


def test_a_call_of_a_function_that_nobody_knows_is_given_up_after_a_while() -> None:
    world = World(1)
    world.start()
    world.append(spawned(IDS[0], function="unheard"))
    world.run(9)
    assert kinds(world, IDS[0]) == [Spawned]
    world.run(3)
    (end,) = world.ends(IDS[0])
    assert isinstance(end, DeadLettered)
    assert end.reason == "no function 'unheard'"


def test_a_dead_call_is_driven_again_by_another_spawned() -> None:
    world = World(1)
    answers = iter([FAILED, DONE])
    world.behaviour = lambda call_id, attempt: (0.01, next(answers))
    world.start()
    world.append(spawned(IDS[0], retries=0))
    world.run(1)
    world.append(spawned(IDS[0], retries=0))
    world.run(1)
    assert [type(each) for each in world.ends(IDS[0])] == [DeadLettered, Finished]


def test_a_call_whose_history_has_a_hole_is_given_up() -> None:
    world = World(1, ["a"])
    first = world.append(spawned(IDS[0]))
    claim = Claimed(IDS[0], "b/1", 0, 2_000)
    world.lost.add(world.append(claim, unless=((f"call:{IDS[0]}", first),)))
    world.start()
    world.run(5)
    (end,) = world.ends(IDS[0])
    assert isinstance(end, DeadLettered)
    assert end.reason == f"the bytes of seqnum {first + 1} are lost on every replica"
    assert world.runs[IDS[0]] == 0


def test_a_schedule_whose_history_has_a_hole_goes_on() -> None:
    world = World(1, ["a"], functions={"f": FunctionOptions(schedule="every 5s")})
    world.lost.add(world.append(Passed("f", WALL_MS, "first seen")))
    world.start()
    world.run(11)
    assert scheduled(world) == [5_000, 10_000]


# --- schedules ------------------------------------------------------------------------------------


def scheduled(world: World) -> list[int]:
    return [e.due_ms - WALL_MS for e in world.records() if isinstance(e, Spawned)]


def test_each_due_time_has_one_call_over_all_hosts() -> None:
    world = World(1, functions={"f": FunctionOptions(schedule="every 5s")})
    world.start()
    world.run(62)
    assert scheduled(world) == list(range(5_000, 61_000, 5_000))
    assert all(count == 1 for count in world.runs.values())


def test_a_due_time_is_skipped_while_the_one_before_runs() -> None:
    world = World(1, functions={"f": FunctionOptions(schedule="every 5s", overlap="skip")})
    world.behaviour = lambda call_id, attempt: (8.0, DONE)
    world.start()
    world.run(29)
    assert scheduled(world) == [5_000, 15_000, 25_000]
    passed = [each for each in world.records() if isinstance(each, Passed)]
    assert [each.reason for each in passed] == ["first seen"] + ["the one before is not over"] * 2


def test_the_one_before_is_cancelled_if_that_is_wanted() -> None:
    options = FunctionOptions(schedule="every 5s", overlap="cancel_running")
    world = World(1, functions={"f": options})
    world.behaviour = lambda call_id, attempt: (8.0, DONE)
    world.start()
    world.run(19)
    assert scheduled(world) == [5_000, 10_000, 15_000]
    assert [type(e) for e in world.records() if isinstance(e, ENDS)] == [Cancelled] * 2


def test_what_was_missed_is_made_up_for_after_a_restart() -> None:
    options = FunctionOptions(schedule="every 120s", catch_up="all")
    world = World(1, ["a"], functions={"f": options})
    world.start()
    world.run(121)
    world.write_snapshot()
    world.crash("a")
    world.run(665)
    world.start("a")
    world.run(10)
    assert scheduled(world) == list(range(120_000, 721_000, 120_000))


# --- everything at once ---------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), lossy=st.sampled_from([0.0, 0.02, 0.2]))
def test_every_accepted_call_ends_once_whatever_crashes_when(seed: int, lossy: float) -> None:
    options = {
        "f": FunctionOptions(),
        "g": FunctionOptions(schedule="every 3s", overlap="allow", catch_up="all"),
    }
    world = World(seed, functions=options, lossy=lossy)
    random = world.random

    def behaviour(call_id: str, attempt: int) -> tuple[float, Done]:
        return random.choice([0.01, 0.1, 1.0, 3.0]), random.choice([DONE, DONE, FAILED, NO_ROOM])

    world.behaviour = behaviour
    world.start()
    accepted = IDS[:12]
    for call_id in accepted:
        world.append(spawned(call_id, retries=random.choice([0, 1, 5])))
        world.run(random.uniform(0, 0.3))
    for _ in range(8):
        victim = random.choice(world.names)
        if random.random() < 0.5:  # a zombie: it wakes up after its leases are over
            world.hosts[victim].stands_still = True
            world.run(random.uniform(1, 4))
            world.hosts[victim].stands_still = False
            world.run(random.uniform(0, 1))
            continue
        world.crash(victim)
        if random.random() < 0.5:
            world.write_snapshot()
        world.run(random.uniform(0, 3))
        world.start(victim)
        world.run(random.uniform(0, 2))
    world.behaviour = lambda call_id, attempt: (0.05, DONE)
    world.run(40)
    world.check_history()
    for call_id in accepted:
        assert len([e for e in world.ends(call_id) if isinstance(e, ENDS)]) == 1, call_id
        finished = [e for e in world.ends(call_id) if isinstance(e, Finished)]
        assert world.runs[call_id] >= len(finished)
    dues = scheduled(world)[:]
    times = [each for each in dues if each + WALL_MS > 0 and each % 3_000 == 0 and each > 0]
    assert len(times) == len(set(times)), "a due time has one call"
    assert set(range(3_000, 27_000, 3_000)) <= set(times), "and each has one"


@pytest.mark.parametrize("seed", range(3))
def test_the_state_is_the_same_from_a_snapshot(seed: int) -> None:
    world = World(seed, lossy=0.05)
    world.behaviour = lambda call_id, attempt: (1.0, FAILED)
    world.start()
    for call_id in IDS[:10]:
        world.append(spawned(call_id))
    world.run(2)
    host = next(iter(world.hosts.values()))
    copy = type(host.state)()
    copy.restore(host.state.snapshot())
    assert copy.snapshot() == host.state.snapshot()
    copy.check()
