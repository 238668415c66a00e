"""A backup journals what its primary sends, in order, and tells what is durable."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.effects import Commit, Effect, EndTerm, RaiseCeiling, Send
from bokilog.ids import NodeId, Position, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import (
    CeilingHeld,
    ConfirmTerm,
    HoldCeiling,
    ReplicateFrom,
    ReplicateRun,
    RunsHeld,
    TermConfirmed,
)
from bokilog.metalog import Cut, DeleteBook, ForgetKeys, Proposer, Run, StartOver
from bokilog.sequencer.backup import Backup
from bokilog.sequencer.held import Holding, Recovered, begun, read_runs
from bokilog.sequencer.recovery import recover_metalog
from bokilog.sequencer.runs import RunIndex
from tests.unit.sequencer.rig import BASE, PRIMARY, SPACE, TAIL, TERM, end, log_space

OTHER = NodeId("sequencer-9")


def run(first: int, *stamps_ms: int, term: Term = TERM) -> Run:
    return Run(SPACE, term, first, tuple(map(ForgetKeys, stamps_ms or (5,))))


class Rig:
    """One backup; its disk is as fast as a test says."""

    def __init__(self, *, votes: bool = True, primary: NodeId | None = PRIMARY) -> None:
        self.journal = MemoryJournal()
        self.token = 0
        self.backup = Backup(
            space=log_space(),
            term=TERM,
            holding=begun(Recovered(end(), RunIndex(), ())),
            journal=self.journal,
            primary=primary,
            ceiling=1,
            votes=votes,
        )

    def send(self, *runs: Run, source: NodeId = PRIMARY) -> list[Effect]:
        return [
            effect
            for each in runs
            for effect in self.backup.primary_received(source, ReplicateRun(TERM, each))
        ]

    def end_batch(self) -> list[Effect]:
        self.token += 1
        self.backup.check()
        return self.backup.end_batch(0, self.token)

    def sync(self) -> list[Effect]:
        self.journal.commit()
        self.journal.sync_now()
        return self.backup.persisted(self.token)

    def holds(self, count: int) -> list[Effect]:
        return [Send(PRIMARY, RunsHeld(SPACE, TERM, count))]

    def asks(self, count: int, durable: int) -> list[Effect]:
        return [Send(PRIMARY, ReplicateFrom(SPACE, TERM, count)), *self.holds(durable)]


# --- entries --------------------------------------------------------------------------------------


def test_what_is_durable_is_told_and_nothing_before() -> None:
    rig = Rig()
    assert rig.send(run(10), run(11, 6, 7)) == []
    assert rig.end_batch() == [Commit(SPACE, 1)]
    assert rig.backup.committed(1)
    assert rig.sync() == rig.holds(13)


def test_runs_of_one_batch_are_one_commit() -> None:
    rig = Rig()
    rig.send(run(10), run(11))
    assert rig.end_batch() == [Commit(SPACE, 1)]
    assert rig.end_batch() == []
    assert not rig.backup.committed(2)


def test_a_run_that_came_before_is_ignored() -> None:
    rig = Rig()
    rig.send(run(10), run(10), run(5, 5, 5))
    assert rig.backup.count == 11


def test_a_hole_is_asked_for_once() -> None:
    rig = Rig()
    assert rig.send(run(12)) == rig.asks(10, 10)
    assert rig.send(run(13)) == []
    rig.send(run(10))
    assert rig.send(run(12)) == rig.asks(11, 10)
    assert rig.backup.count == 11


def test_a_silent_primary_is_asked_again() -> None:
    rig = Rig()
    assert rig.backup.follow() == rig.asks(10, 10)
    assert rig.backup.tick() == rig.asks(10, 10)
    rig.send(run(10))
    assert rig.backup.tick() == []
    assert rig.backup.tick() == rig.asks(11, 10)


def test_only_the_primary_of_the_term_is_listened_to() -> None:
    rig = Rig()
    assert rig.send(run(10), source=OTHER) == []
    assert rig.backup.count == 10


@pytest.mark.parametrize(
    "wrong",
    [
        run(10, term=Term(TERM + 1)),  # of a term that has not begun
        run(10, term=Term(BASE.term - 1)),  # of one that was over before
        run(9, 5, 5),  # runs are sent as they were written
    ],
)
def test_what_no_primary_sends_is_ignored(wrong: Run) -> None:
    rig = Rig()
    assert rig.send(wrong) == []
    assert rig.end_batch() == []


def test_entries_of_an_earlier_term_are_taken_when_it_catches_up() -> None:
    rig = Rig()
    rig.send(run(10, term=BASE.term), run(11))
    assert rig.backup.stats().position == Position(TERM, 12)


def test_its_journal_is_a_metalog() -> None:
    rig = Rig()
    rig.send(run(10), Run(SPACE, TERM, 11, (Cut(8, TAIL, (CutSpan(1, 0, 5),)),)))
    rig.end_batch()
    rig.sync()
    found = recover_metalog(rig.journal, end(), ceiling=1)
    assert found.end.position == Position(TERM, 12)
    assert found.end.tail == rig.backup.stats().tail == TAIL + 5


# --- a disk that fails, a disk without a vote -----------------------------------------------------


def test_p07_after_a_failed_sync_nothing_is_told() -> None:
    rig = Rig()
    rig.send(run(10))
    rig.end_batch()
    (effect,) = rig.backup.persist_failed("the disk is gone")
    assert isinstance(effect, EndTerm)
    assert "the disk is gone" in effect.reason
    assert rig.send(run(11)) == rig.backup.tick() == []


def test_a_journal_that_takes_nothing_ends_it() -> None:
    rig = Rig()
    rig.journal.broken = "read-only"
    assert [type(effect) for effect in rig.send(run(10))] == [EndTerm]


def test_p14_a_disk_without_a_vote_holds_but_tells_nothing() -> None:
    rig = Rig(votes=False)
    rig.send(run(10))
    rig.end_batch()
    assert rig.sync() == []
    assert rig.backup.primary_received(PRIMARY, ConfirmTerm(SPACE, TERM, 3)) == []
    assert rig.backup.follow() == [Send(PRIMARY, ReplicateFrom(SPACE, TERM, 11))]


def test_who_follows_nobody_asks_nobody() -> None:
    rig = Rig(primary=None)
    assert rig.backup.follow() == rig.backup.tick() == []
    assert rig.send(run(10)) == []


# --- ceilings and rounds --------------------------------------------------------------------------


def test_p11_a_ceiling_is_told_once_it_is_synced() -> None:
    rig = Rig()
    ask = HoldCeiling(SPACE, TERM, 500)
    assert rig.backup.primary_received(PRIMARY, ask) == [RaiseCeiling(SPACE, 500)]
    told = [Send(PRIMARY, CeilingHeld(SPACE, TERM, 500))]
    assert rig.backup.ceiling_raised(500) == told
    assert rig.backup.primary_received(PRIMARY, ask) == told, "it is not synced twice"


def test_p26_a_round_is_confirmed_at_once() -> None:
    rig = Rig()
    answered = [Send(PRIMARY, TermConfirmed(SPACE, TERM, 3))]
    assert rig.backup.primary_received(PRIMARY, ConfirmTerm(SPACE, TERM, 3)) == answered


# --- the end of the term --------------------------------------------------------------------------


def test_p14_a_sealed_backup_takes_and_tells_nothing() -> None:
    rig = Rig()
    rig.send(run(10))
    rig.end_batch()
    rig.backup.seal()
    assert rig.sync() == []
    assert rig.send(run(11)) == rig.backup.follow() == []
    assert rig.backup.count == rig.backup.standing.count == 11, "but it is durable"


def test_p13_a_sealed_backup_takes_what_it_fetched() -> None:
    rig = Rig()
    rig.backup.seal()
    assert rig.backup.take_fetched([run(10), run(11), run(12)], until=12) == []
    assert rig.backup.count == 12
    assert rig.end_batch() == [Commit(SPACE, 1)]


def test_p13_what_does_not_follow_is_not_fetched() -> None:
    rig = Rig()
    rig.backup.take_fetched([run(11)], until=12)
    rig.backup.take_fetched([run(10, term=Term(9))], until=12)
    rig.backup.take_fetched([run(10)._replace(space=7)], until=12)  # type: ignore[arg-type]
    assert rig.backup.count == 10


# --- what passes to the next role -----------------------------------------------------------------


def holding() -> tuple[MemoryJournal, Holding]:
    """Runs at 10, 11, 12 and 13; the first two are durable."""
    rig = Rig()
    nobody = Proposer(0, 0)
    rig.send(run(10), Run(SPACE, TERM, 11, (DeleteBook(6, 7, nobody),)))
    rig.end_batch()
    rig.sync()
    rig.send(
        Run(SPACE, TERM, 12, (StartOver(7, TAIL),)),
        Run(SPACE, TERM, 13, (DeleteBook(8, 9, nobody),)),
    )
    rig.end_batch()
    return rig.journal, rig.backup.holding()


def test_a_primary_begins_with_what_a_backup_knows() -> None:
    _, held = holding()
    recovered = held.metalog.recovered()
    assert recovered.end == end(Position(TERM, 14), timestamp_ms=recovered.end.timestamp_ms)
    assert [each.first for each in recovered.deletions] == [11, 13]
    assert recovered.starts_at == 12


def test_p13_what_lies_past_the_end_is_forgotten() -> None:
    journal, held = holding()
    ended = end(Position(TERM, 12), tail=TAIL + 7, timestamp_ms=99)
    held.end_at(ended)
    assert held.metalog.end == ended
    recovered = held.metalog.recovered()
    assert [each.first for each in recovered.deletions] == [11]
    assert recovered.starts_at == 0
    assert held.standing.end == ended
    assert not held.standing.persisted(1)
    assert held.standing.persisted(2)
    assert held.standing.end == ended, "a late sync of what was dropped brings nothing back"
    journal.commit()
    assert [each.first for each in read_runs(journal, held.metalog.runs, 10, 14)] == [10, 11]


def test_p13_who_holds_less_than_the_end_keeps_it() -> None:
    _, held = holding()
    held.end_at(end(Position(Term(TERM + 1), 20)))
    assert held.metalog.position == Position(TERM, 14)
    assert held.standing.count == 12
