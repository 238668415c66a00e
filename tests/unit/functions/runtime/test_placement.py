from __future__ import annotations

from collections import Counter

from bokilog.functions.runtime.placement import PART_CALLS_MIN, Placement


def placed(*names: str) -> Placement:
    made = Placement("host-1", seed=7)
    for name in names:
        made.up(name)
    return made


def test_a_call_stays_here_while_there_is_room() -> None:
    assert placed("host-2").choose(0.0, near="", waiting=None) == ""
    assert placed().choose(0.0, near="host-2", waiting=5) == ""


def test_a_call_goes_where_its_arguments_are_with_exceptions_by_chance() -> None:
    placement = placed("host-2", "host-3")
    chosen = Counter(placement.choose(0.0, near="host-2", waiting=None) for _ in range(1_600))
    assert 50 <= chosen[""] <= 150 and chosen["host-2"] == 1_600 - chosen[""]


def test_arguments_that_are_here_keep_a_call_here() -> None:
    assert placed("host-2").choose(0.0, near="host-1", waiting=None) == ""


def test_a_host_that_refused_is_left_alone_for_as_long_as_it_asked() -> None:
    placement = placed("host-2")
    placement.refused("host-2", until_s=5.0)
    assert placement.choose(4.9, near="host-2", waiting=9) == ""
    assert placement.choose(5.0, near="", waiting=9) == "host-2"
    assert placement.shares(4.0, 100) == [("", 100)]


def test_what_there_is_no_room_for_goes_to_the_less_busy_host() -> None:
    placement = placed("host-2", "host-3")
    placement.began("host-2", 100)
    chosen = Counter(placement.choose(0.0, near="", waiting=50) for _ in range(100))
    assert chosen["host-2"] == 0, "it has more to do than waits here"
    assert chosen["host-3"] > 50
    for _ in range(100):
        placement.over("host-2")
    assert placement.choose(0.0, near="", waiting=1) in ("host-2", "host-3")


def test_a_fan_out_is_split_in_equal_parts_that_are_not_too_small() -> None:
    placement = placed("host-2", "host-3")
    assert [count for _, count in placement.shares(0.0, 100)] == [34, 33, 33]
    assert placement.shares(0.0, 2 * PART_CALLS_MIN - 1) == [("", 2 * PART_CALLS_MIN - 1)]
    assert len(placement.shares(0.0, 2 * PART_CALLS_MIN)) == 2


def test_a_host_that_is_down_gets_nothing() -> None:
    placement = placed("host-2")
    placement.down("host-2")
    assert placement.alone
    assert placement.choose(0.0, near="host-2", waiting=9) == ""


def test_the_same_seed_makes_the_same_choices() -> None:
    def choices() -> list[str]:
        placement = placed("host-2", "host-3")
        return [placement.choose(0.0, near="", waiting=9) for _ in range(50)]

    assert choices() == choices()
