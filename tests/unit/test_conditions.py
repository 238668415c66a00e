"""One unit at a time; whole histories are compared with the specification in tests/property."""

from __future__ import annotations

from bokilog.conditions import KeyUse, Unit, decide
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)

DIGEST = b"d" * 16


class State:
    """A LogBook whose answers are fields."""

    def __init__(
        self,
        *,
        deleted: bool = False,
        keys: dict[str, KeyUse] | None = None,
        ended: tuple[str, ...] = (),
        last: dict[str | None, int] | None = None,
    ) -> None:
        self.deleted = deleted
        self.keys = keys or {}
        self.ended = ended
        self.lasts = last or {}
        self.asked: list[str | None] = []

    def key_use(self, key: str) -> KeyUse | None:
        return self.keys.get(key)

    def ended_prefix(self, tag: str) -> str | None:
        return next((prefix for prefix in self.ended if tag.startswith(prefix)), None)

    def last(self, tag: str | None) -> int:
        self.asked.append(tag)
        return self.lasts.get(tag, 0)


USED = {"k": KeyUse(5, 3, DIGEST, 10**15)}


def test_a_unit_without_anything_is_visible() -> None:
    assert decide(Unit(0, 20, ["a"]), State()) == [0, VERDICT_VISIBLE, 20, None]


def test_p22_a_condition_holds_up_to_and_with_its_after() -> None:
    state = State(last={"a": 10})
    unit = Unit(2, 20, ["x"], [("a", 10)])
    assert decide(unit, state) == [2, VERDICT_VISIBLE, 20, None]
    unit = Unit(2, 20, ["x"], [("a", 9)])
    assert decide(unit, state) == [2, VERDICT_CONDITION_FAILED, "a", 10]


def test_the_first_condition_that_fails_is_named() -> None:
    state = State(last={"a": 10, "b": 11, "c": 12})
    unit = Unit(0, 20, [None], [("a", 10), ("c", 3), ("b", 0)])
    assert decide(unit, state) == [0, VERDICT_CONDITION_FAILED, "c", 12]
    assert state.asked == ["a", "c"]


def test_none_tests_the_whole_logbook() -> None:
    unit = Unit(0, 20, [None], [(None, 4)])
    assert decide(unit, State(last={None: 9})) == [0, VERDICT_CONDITION_FAILED, None, 9]
    assert decide(unit, State(last={None: 4}))[1] == VERDICT_VISIBLE


def test_p22_a_known_key_is_decided_before_conditions_and_ended_tags() -> None:
    state = State(keys=USED, ended=("$w/",), last={"a": 10})
    unit = Unit(0, 20, ["$w/1"], [("a", 0)], "k", DIGEST)
    assert decide(unit, state) == [0, VERDICT_DUPLICATE, 5, 3]
    assert state.asked == []


def test_a_known_key_with_other_content_is_reused() -> None:
    unit = Unit(0, 20, ["a"], (), "k", b"e" * 16)
    assert decide(unit, State(keys=USED)) == [0, VERDICT_KEY_REUSED, 5, "k"]


def test_a_new_key_changes_nothing() -> None:
    unit = Unit(0, 20, ["a"], [("a", 0)], "new", DIGEST)
    assert decide(unit, State(keys=USED)) == [0, VERDICT_VISIBLE, 20, None]


def test_p22_units_that_write_or_test_an_ended_tag_are_void() -> None:
    state = State(ended=("$w/",))
    ended = [0, VERDICT_TAGS_ENDED, "$w/", None]
    assert decide(Unit(0, 20, ["a", "$w/1"]), state) == ended
    assert decide(Unit(0, 20, [None, ["a", "$w/1"]]), state) == ended
    assert decide(Unit(0, 20, ["a"], [("$w/2", 0)]), state) == ended
    assert decide(Unit(0, 20, ["$v/1"], [("$v/2", 0)]), state)[1] == VERDICT_VISIBLE


def test_p5_nothing_counts_in_a_deleted_logbook() -> None:
    state = State(deleted=True, keys=USED, ended=("$w/",), last={"a": 10})
    unit = Unit(0, 20, ["$w/1"], [("a", 0)], "k", DIGEST)
    assert decide(unit, state) == [0, VERDICT_BOOK_DELETED, None, None]
