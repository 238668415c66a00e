"""The judge of the kill tests notices each thing that may not happen."""

from __future__ import annotations

import json

import pytest

from bokilog.record import Record
from tests.integration.history import History, Name, payload


class Said:
    """A writer's lines, without the writer."""

    def __init__(self, run: int = 1) -> None:
        self.history = History()
        self.run = run
        self.time_ns = 0

    def issue(self, number: int, *sizes: int, **how: object) -> None:
        entries = [[size, "t"] for size in sizes or (10,)]
        unless, again = how.get("unless", []), how.get("again")
        self._say(
            "issue", number, "b", how.get("session", 0), entries, how.get("key"), unless, again
        )

    def acked(self, number: int, first: int) -> None:
        self._say("acked", number, first, "")

    def void(self, number: int, winner: int) -> None:
        self._say("void", number, winner, "")

    def failed(self, number: int) -> None:
        self._say("failed", number, 0, "Overloaded")

    def trim(self, number: int, until: int) -> None:
        self._say("trim", number, "b", until)
        self._say("trimmed", number, until)

    def next_writer(self) -> None:
        self.history.ended(self.run)
        self.run += 1

    def check(self, *records: Record) -> None:
        self.history.ended(self.run)
        self.history.check("b", records)

    def _say(self, kind: str, number: int, *what: object) -> None:
        self.time_ns += 1
        self.history.said(self.run, json.dumps([kind, number, self.time_ns, *what]).encode())


def record(seqnum: int, number: int, place: int = 0, *, run: int = 1, size: int = 10) -> Record:
    return Record(seqnum, payload(Name(run, number), place, size), ("t",), 0, None)


@pytest.fixture
def said() -> Said:
    """One unit of two records was acknowledged, one append is under way."""
    said = Said()
    said.issue(1, 10, 10)
    said.acked(1, 5)
    said.issue(2)
    return said


UNIT = (record(5, 1, 0), record(6, 1, 1))


def test_what_is_under_way_may_stand_or_not(said: Said) -> None:
    said.check(*UNIT)
    said.check(*UNIT, record(9, 2))


def test_what_stood_once_may_not_go(said: Said) -> None:
    said.check(*UNIT, record(9, 2))
    with pytest.raises(AssertionError, match="lost"):
        said.check(*UNIT)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ((), "lost"),
        (UNIT[:1], "lost"),
        ((record(6, 1, 0), record(7, 1, 1)), "stands at"),
        ((record(5, 1, 0), record(7, 1, 1)), "torn"),
        ((*UNIT, record(8, 1, 0)), "stands at 5 and 8"),
        ((*UNIT, record(8, 3)), "nobody appended"),
        ((UNIT[0], Record(6, UNIT[1].data + b"!", ("t",), 0, None)), "altered"),
        ((UNIT[0], Record(6, UNIT[1].data, (), 0, None)), "6: "),
        ((record(4, 2), *UNIT), "was issued after 5 was acknowledged"),
    ],
)
def test_what_may_not_be_found_is_noticed(said: Said, found: list[Record], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        said.check(*found)


def test_what_failed_may_not_stand(said: Said) -> None:
    said.failed(2)
    with pytest.raises(AssertionError, match="is failed and stands"):
        said.check(*UNIT, record(9, 2))


def test_session_keeps_its_order(said: Said) -> None:
    said.issue(3)
    said.acked(2, 9)
    said.acked(3, 8)
    with pytest.raises(AssertionError, match="overtook"):
        said.check(*UNIT, record(8, 3), record(9, 2))


def test_condition_has_one_winner(said: Said) -> None:
    said.issue(3, unless=[["t", 5]])
    with pytest.raises(AssertionError, match="won although 't' stood at 6"):
        said.check(*UNIT, record(9, 3))


def test_loser_names_who_won(said: Said) -> None:
    said.issue(3, unless=[["t", 5]])
    said.void(3, 6)
    said.check(*UNIT)
    said.issue(4, unless=[["t", 5]])
    said.void(4, 7)
    with pytest.raises(AssertionError, match="lost to a record that is not there"):
        said.check(*UNIT)


def test_repeated_key_gives_the_first_span(said: Said) -> None:
    said.issue(3, key="k")
    said.acked(3, 8)
    said.next_writer()
    said.issue(1, key="k", again=[1, 3])
    said.acked(1, 8)
    said.issue(2, key="k", again=[1, 3])
    said.check(*UNIT, record(8, 3))
    said.next_writer()
    said.issue(1, key="k", again=[1, 3])
    said.acked(1, 10)
    with pytest.raises(AssertionError, match="repeats"):
        said.check(*UNIT, record(8, 3))


def test_repeated_key_settles_what_was_unknown(said: Said) -> None:
    said.issue(3, key="k")
    said.next_writer()
    said.issue(1, key="k", again=[1, 3])
    said.acked(1, 11)
    said.check(*UNIT, record(11, 3))


def test_trimmed_records_are_gone_and_only_they(said: Said) -> None:
    said.trim(3, 6)
    said.check(UNIT[1])
    with pytest.raises(AssertionError, match="was trimmed"):
        said.check(*UNIT)
    with pytest.raises(AssertionError, match="lost"):
        said.check()


def test_what_was_archived_counts_in_conditions(said: Said) -> None:
    said.check(*UNIT)
    said.history.trimmed("b", 7)
    said.next_writer()
    said.issue(1, unless=[["t", 5]])
    with pytest.raises(AssertionError, match="won although 't' stood at 6"):
        said.check(record(9, 1, run=2))
