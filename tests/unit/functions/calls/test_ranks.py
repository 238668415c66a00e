"""Who of several hosts acts first."""

from __future__ import annotations

from bokilog.functions.calls.ranks import Ranks
from bokilog.functions.calls.state import OpenCall
from tests.unit.functions.calls.world import spawned

HOSTS = ("a", "b", "c", "d")
KEYS = [f"{number:016x}" for number in range(200)]


def all_of(*hosts: str) -> dict[str, Ranks]:
    found = {host: Ranks(host) for host in hosts}
    for ranks in found.values():
        ranks.hosts_are(hosts)
    return found


def test_each_key_has_an_order_of_all_hosts() -> None:
    ranks = all_of(*HOSTS)
    for key in KEYS:
        assert sorted(each.of(key) for each in ranks.values()) == [0, 1, 2, 3]


def test_keys_are_shared_out() -> None:
    ranks = all_of(*HOSTS)
    firsts = [sum(each.of(key) == 0 for key in KEYS) for each in ranks.values()]
    assert sum(firsts) == len(KEYS) and min(firsts) >= len(KEYS) // 8


def test_a_host_that_goes_leaves_the_order_of_the_others() -> None:
    before, after = all_of(*HOSTS), all_of("a", "b", "c")
    for key in KEYS:
        order = sorted("abc", key=lambda host: before[host].of(key))
        assert sorted("abc", key=lambda host: after[host].of(key)) == order


def test_a_host_alone_is_always_first() -> None:
    alone = Ranks("a")
    assert {alone.of(key) for key in KEYS} == {0}


def test_a_host_counts_itself_whoever_is_said_to_live() -> None:
    ranks = Ranks("a")
    assert not ranks.hosts_are(("a",))
    assert ranks.hosts_are(("b",))
    assert {ranks.of(key) for key in KEYS} == {0, 1}
    assert not ranks.hosts_are(("b", "a")), "it knew"


def test_a_preferred_host_goes_before_all_others_while_it_lives() -> None:
    ranks = all_of("a", "b")
    for number, key in enumerate(KEYS[:20]):
        call = OpenCall(spawned(key, prefer="a"), number, 0)
        assert ranks["a"].of_call(call) == 0
        assert ranks["b"].of_call(call) == ranks["b"].of(key) + 1
        call.prefer = "gone"
        assert ranks["b"].of_call(call) == ranks["b"].of(key)
