"""Contenders take turns, and what of a turn counts."""

from collections.abc import Mapping

import pytest

from bokilog.bench.orders import Outcome
from bokilog.bench.rounds import Contender, Plan, interleave, rotated, sample_of, take_turn


class Fake:
    """Writes down what it is told; every run uses CPU and makes ten operations a second."""

    def __init__(self, name: str, story: list[str], cpu_of: dict[int, int]) -> None:
        self.name = name
        self._story = story
        self._cpu_of = cpu_of
        self.fails = False

    def begin(self) -> None:
        self._story.append(f"{self.name} begins")

    def pids(self) -> Mapping[str, int]:
        return {"client": 1, "server": 2}

    def run(self, seconds: float) -> Outcome:
        self._story.append(f"{self.name} runs {seconds}")
        if self.fails:
            raise RuntimeError(self.name)
        self._cpu_of[1] += 1_000_000
        return Outcome(count=10, elapsed_s=1.0, p50_us=3.0, p99_us=4.0, values={"told": 1.0})

    def settle(self) -> Mapping[str, float]:
        self._story.append(f"{self.name} settles")
        self._cpu_of[2] += 500_000
        return {"behind_s": 0.25}

    def end(self) -> None:
        self._story.append(f"{self.name} ends")


def test_everybody_has_a_turn_in_each_round_and_who_begins_changes() -> None:
    story: list[str] = []
    cpu_of = {1: 0, 2: 0}
    contenders = [Fake(name, story, cpu_of) for name in "abc"]
    plan = Plan(rounds_count=3, seconds=2.0, warm_s=0.0)
    samples = interleave(contenders, plan, cpu=cpu_of.get)
    assert [line[0] for line in story if "begins" in line] == [*"abc", *"bca", *"cab"]
    assert {name: len(each) for name, each in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_progress_is_told_before_each_turn() -> None:
    told: list[str] = []
    cpu_of = {1: 0, 2: 0}
    contenders = [Fake(name, [], cpu_of) for name in "ab"]
    plan = Plan(rounds_count=2, warm_s=0.0)
    interleave(contenders, plan, tell=told.append, cpu=cpu_of.get)
    assert told == ["round 1 of 2: a", "round 1 of 2: b", "round 2 of 2: b", "round 2 of 2: a"]


def test_a_turn_warms_up_and_settles_before_it_counts() -> None:
    story: list[str] = []
    cpu_of = {1: 0, 2: 0}
    take_turn(Fake("a", story, cpu_of), Plan(seconds=2.0, warm_s=0.5), cpu=cpu_of.get)
    assert story == [
        "a begins",
        "a runs 0.5",
        "a settles",
        "a runs 2.0",
        "a settles",
        "a ends",
    ]


def test_cpu_of_the_warm_up_does_not_count_and_that_of_catching_up_does() -> None:
    cpu_of = {1: 7_000, 2: 9_000}
    sample = take_turn(Fake("a", [], cpu_of), Plan(warm_s=0.5), cpu=cpu_of.get)
    assert sample.cpu_us == {"client": 100.0, "server": 50.0}
    assert sample.cpu_total_us == 150.0
    assert (sample.rate, sample.p50_us, sample.p99_us) == (10.0, 3.0, 4.0)
    assert sample.values == {"told": 1.0, "behind_s": 0.25}


def test_a_turn_that_fails_still_ends() -> None:
    story: list[str] = []
    contender = Fake("a", story, {1: 0, 2: 0})
    contender.fails = True
    with pytest.raises(RuntimeError):
        take_turn(contender, Plan())
    assert story[-1] == "a ends"


def test_a_budget_with_a_hole_is_no_budget() -> None:
    outcome = Outcome(count=10, elapsed_s=1.0)
    before, after = {"client": 0, "server": None}, {"client": 1_000, "server": None}
    assert sample_of(outcome, before, after).cpu_us == {}


def test_two_contenders_of_one_name_are_refused() -> None:
    twins: list[Contender] = [Fake("a", [], {}), Fake("a", [], {})]
    with pytest.raises(AssertionError, match="one name"):
        interleave(twins, Plan())


def test_rotating_nothing_is_nothing() -> None:
    assert rotated([], 3) == []
