"""Where a term ended is what the journal holds, and nothing else (P11, P13, P14)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bokilog.cut import CutSpan
from bokilog.errors import CorruptJournal
from bokilog.ids import LogSpaceId, Position, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.journal import Location
from bokilog.metalog import (
    ITEM_METALOG,
    Cut,
    DeleteBook,
    ForgetKeys,
    Proposer,
    Run,
    StartOver,
    encode_run,
)
from bokilog.sequencer import runs as module
from bokilog.sequencer.recovery import recover_metalog
from bokilog.view import End, first_end
from tests.unit.sequencer.rig import BASE, SPACE, end

FIRST = first_end(SPACE)
NOBODY = Proposer(0, 0)


def run(term: int, first: int, *timestamps_ms: int) -> Run:
    return Run(SPACE, Term(term), first, tuple(map(ForgetKeys, timestamps_ms)))


def cut(term: int, first: int, seqnum: int, records: int) -> Run:
    return Run(SPACE, Term(term), first, (Cut(9, seqnum, (CutSpan(1, 0, records),)),))


def journal_of(*runs: Run) -> tuple[MemoryJournal, list[Location]]:
    journal = MemoryJournal()
    locations = [journal.append(ITEM_METALOG, [encode_run(each)]) for each in runs]
    journal.commit()
    journal.sync_now()
    return journal, locations


def test_an_empty_journal_ends_where_it_began() -> None:
    found = recover_metalog(MemoryJournal(), FIRST, ceiling=1)
    assert (found.end, len(found.runs), found.deletions, found.starts_at) == (FIRST, 0, (), 0)


def test_the_last_entry_is_the_end() -> None:
    journal, locations = journal_of(run(1, 0, 5, 6), cut(1, 2, 1, 40), run(2, 3, 8))
    found = recover_metalog(journal, FIRST, ceiling=1)
    assert found.end == end(Position(Term(2), 4), tail=41, timestamp_ms=9)
    assert list(found.runs.locations(0, 4)) == locations
    assert list(found.runs.locations(2, 4)) == locations[1:]


def test_a_journal_goes_on_from_a_known_end() -> None:
    journal, _ = journal_of(cut(4, BASE.count, 100, 5))
    found = recover_metalog(journal, end(timestamp_ms=77), ceiling=1)
    assert found.end == end(Position(Term(4), 11), tail=105, timestamp_ms=77)


def test_runs_written_again_count_once() -> None:
    again = cut(1, 0, 1, 40)
    journal, locations = journal_of(again, run(1, 1, 5), again, run(1, 1, 5), run(1, 2, 6))
    found = recover_metalog(journal, FIRST, ceiling=1)
    assert found.end.position == Position(Term(1), 3)
    assert list(found.runs.locations(0, 3)) == [locations[0], locations[1], locations[4]]


def test_p11_the_next_term_starts_above_the_ceiling() -> None:
    journal, _ = journal_of(cut(1, 0, 1, 40))
    assert recover_metalog(journal, FIRST, ceiling=1000).end.tail == 1000
    assert recover_metalog(journal, FIRST, ceiling=7).end.tail == 41


def test_deletions_are_kept_for_engines_that_come_later() -> None:
    deletion = DeleteBook(5, 7, NOBODY)
    journal, _ = journal_of(
        Run(SPACE, Term(1), 0, (ForgetKeys(5), deletion, ForgetKeys(5), deletion)), run(1, 4, 6)
    )
    assert recover_metalog(journal, FIRST, ceiling=1).deletions == (
        Run(SPACE, Term(1), 1, (deletion,)),
        Run(SPACE, Term(1), 3, (deletion,)),
    )


def test_a_fold_of_nothing_begins_where_everything_started_over() -> None:
    over = Run(SPACE, Term(2), 2, (ForgetKeys(5), StartOver(6, 41)))
    journal, _ = journal_of(run(1, 0, 5, 6), over, run(2, 4, 7))
    assert recover_metalog(journal, FIRST, ceiling=1).starts_at == 3


@pytest.mark.parametrize(
    "wrong",
    [
        run(1, 3, 6),  # entries are missing before it
        run(1, 1, 6, 6),  # it begins inside what was there
        run(2, 1, 6, 6),
        Run(LogSpaceId(7), Term(1), 2, (ForgetKeys(6),)),
        Run(LogSpaceId(7), Term(1), 0, (ForgetKeys(5),)),
    ],
)
def test_p14_a_journal_that_is_no_unbroken_metalog_has_no_say(wrong: Run) -> None:
    journal, locations = journal_of(run(1, 0, 5, 5), wrong)
    with pytest.raises(CorruptJournal, match="do not follow") as caught:
        recover_metalog(journal, FIRST, ceiling=1)
    assert caught.value.offset == locations[1].offset


def test_p14_a_term_does_not_go_back() -> None:
    journal, _ = journal_of(run(2, 0, 5), run(1, 1, 5))
    with pytest.raises(CorruptJournal):
        recover_metalog(journal, FIRST, ceiling=1)


# --- entries that a term's end left out -----------------------------------------------------------


def test_p13_a_later_term_cuts_back_to_where_it_began() -> None:
    journal, locations = journal_of(
        cut(1, 0, 1, 40), cut(1, 1, 41, 5), run(1, 2, 7), cut(3, 1, 41, 2), run(3, 2, 9)
    )
    found = recover_metalog(journal, FIRST, ceiling=1)
    assert found.end == end(Position(Term(3), 3), tail=43, timestamp_ms=9)
    assert list(found.runs.locations(0, 9)) == [locations[0], *locations[3:]]


def test_p13_entries_left_out_may_be_written_again_and_stay_out() -> None:
    both = [run(1, 0, 5), run(1, 1, 6), run(1, 2, 6), run(2, 1, 7)]
    journal, locations = journal_of(*both, *both, run(2, 2, 8))
    found = recover_metalog(journal, FIRST, ceiling=1)
    assert found.end.position == Position(Term(2), 3)
    assert list(found.runs.locations(0, 9)) == [locations[0], locations[3], locations[8]]


def test_p13_deletions_and_fresh_starts_that_were_left_out_are_forgotten() -> None:
    deletion = DeleteBook(5, 7, NOBODY)
    journal, _ = journal_of(
        Run(SPACE, Term(1), 0, (StartOver(5, 1), deletion)),
        Run(SPACE, Term(1), 2, (StartOver(6, 1), deletion._replace(book=8))),
        run(2, 2, 7),
    )
    found = recover_metalog(journal, FIRST, ceiling=1)
    assert found.deletions == (Run(SPACE, Term(1), 1, (deletion,)),)
    assert found.starts_at == 0


def test_p13_the_cut_may_lie_in_a_sealed_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_RUNS", 3)
    journal, locations = journal_of(*(run(1, first, 5) for first in range(10)), run(2, 4, 6))
    found = recover_metalog(journal, FIRST, ceiling=1)
    assert list(found.runs.locations(0, 99)) == [*locations[:4], locations[10]]
    assert len(found.runs) == 5


def ends(**counts: int) -> Callable[[Term], End | None]:
    """Where terms before `t2`, `t3` and so on ended: all of them in term 1."""
    known = {f"t{term}": term for term in range(10)}
    found = {known[name]: end(Position(Term(1), count), tail=50) for name, count in counts.items()}
    return lambda term: found.get(term)


def test_p13_a_lone_start_drops_what_its_set_left_out_before_it_was_alone() -> None:
    """Nothing came since that would have cut it back; written behind it, a later start would find
    entries that do not follow."""
    journal, _ = journal_of(cut(1, 0, 1, 40), cut(1, 1, 41, 2), cut(1, 2, 43, 7))
    ended = ends(t2=2, t3=2)
    assert recover_metalog(journal, FIRST, ceiling=1, ended=ended).end.position.count == 3
    found = recover_metalog(journal, FIRST, ceiling=1, ended=ended, until=3)
    assert found.end == end(Position(Term(1), 2), tail=50)
    assert len(list(found.runs.locations(0, 9))) == 2


def test_p11_a_lone_start_that_holds_less_than_an_end_ends_there() -> None:
    journal, _ = journal_of(cut(1, 0, 1, 40))
    found = recover_metalog(journal, FIRST, ceiling=1, ended=ends(t2=2), until=2)
    assert found.end.position == Position(Term(1), 1)
