"""The checks behind `bokilog verify`: a metalog with a hole, seqnums that do not follow, views."""

from dataclasses import replace

import pytest

from bokilog.cut import CutSpan
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.journal import Location
from bokilog.metalog import Cut, Entry, Lost, OpenShard, Run, StartOver
from bokilog.verify import FINDINGS_MAX, Findings, MetalogCheck, PathOf, check_views, ends_of
from bokilog.view import End, LogSpace, View, first_end

SPACE = LogSpaceId(0)
AT = Location(1, 4096, 50)


def check(*, ends: dict[Term, End] | None = None, needed_from: int = 0) -> MetalogCheck:
    return MetalogCheck(
        SPACE, PathOf("j"), ends=ends or {}, needed_from=needed_from, with_frames=False
    )


def run(first: int, *entries: Entry, term: int = 1, space: LogSpaceId = SPACE) -> Run:
    return Run(space, Term(term), first, entries)


def end(term: int, count: int, tail: int) -> End:
    return End(space=SPACE, position=Position(Term(term), count), tail=tail, timestamp_ms=0)


OPEN = OpenShard(1, 7, "e", ("s",))
FIRST = Cut(2, 1, (CutSpan(7, 0, 3),))
SECOND = Cut(3, 4, (CutSpan(7, 3, 5),))


def problems(metalog: MetalogCheck) -> list[str]:
    return [found.problem for found in metalog.findings.found]


def given(metalog: MetalogCheck, *runs: Run) -> list[str]:
    for each in runs:
        metalog.run(each, AT)
    return problems(metalog)


def test_a_metalog_without_a_hole_is_sound() -> None:
    metalog = check()
    assert given(metalog, run(0, OPEN, FIRST), run(2, SECOND)) == []
    assert given(metalog, run(2, SECOND)) == []  # journalled anew after a crash (P7)
    assert (metalog.count, metalog.entry_count) == (3, 3)


def test_a_missing_run_is_found_and_says_which_entries() -> None:
    metalog = check()
    given(metalog, run(0, OPEN), run(2, SECOND))
    (found,) = metalog.findings.found
    assert found.problem == "entries are missing before entry 2"
    assert (found.file, found.offset) == ("j/00000001.seg", 4096)
    assert found.affected == "entries 1 to 1"


def test_p21_entries_whose_segments_were_recycled_are_not_missed() -> None:
    assert given(check(needed_from=2), run(2, SECOND)) == []
    assert given(check(needed_from=9), run(2, SECOND), run(8, replace_shard(7))) == []
    assert len(given(check(needed_from=5), run(8, OPEN))) == 1


@pytest.mark.parametrize(
    ("cut", "problem"),
    [
        (Cut(3, 5, (CutSpan(7, 3, 5),)), "begins at seqnum 5, not 4"),
        (Cut(3, 3, (CutSpan(7, 3, 5),)), "begins at seqnum 3, not 4"),
        (Cut(3, 4, (CutSpan(7, 2, 5),)), "orders shard 7 from 2: ordered are 3"),
        (Cut(3, 4, (CutSpan(8, 0, 5),)), "orders shard 8 from 0: it is not open"),
        (Cut(1, 4, (CutSpan(7, 3, 5),)), "time goes back"),
    ],
)
def test_seqnums_shards_and_time_follow_each_other(cut: Cut, problem: str) -> None:
    (found,) = given(check(), run(0, OPEN, FIRST), run(2, cut))
    assert problem in found


def test_p13_a_term_begins_where_its_view_says_that_the_last_one_ended() -> None:
    ends = {Term(2): end(1, 2, 10)}
    good = run(2, replace_shard(8), Cut(5, 10, (CutSpan(8, 0, 2),)), term=2)
    assert given(check(ends=ends), run(0, OPEN, FIRST), good) == []
    # Entries past the end are dropped.
    assert given(check(ends=ends), run(0, OPEN, FIRST), run(2, SECOND), good) == []
    late = SECOND._replace(timestamp_ms=1_000)  # of a primary that was cut off
    assert given(check(ends=ends), run(0, OPEN, FIRST), run(2, late), good) == []
    wrong = {Term(2): end(1, 1, 10)}
    assert given(check(ends=wrong), run(0, OPEN, FIRST), run(2, SECOND), good)


def replace_shard(number: int) -> OpenShard:
    return OPEN._replace(number=number, timestamp_ms=4)


def test_p20_a_memory_log_space_starts_over_above_what_was_given_out() -> None:
    later = Cut(9, 50, (CutSpan(7, 3, 4),))
    assert given(check(), run(0, OPEN, FIRST, StartOver(8, 50), later)) == []


def test_runs_of_another_log_space_or_an_older_term_are_found() -> None:
    assert "log space 4" in given(check(), run(0, OPEN, space=LogSpaceId(4)))[0]
    assert "follows term 2" in given(check(), run(0, OPEN, term=2), run(1, FIRST))[0]


def test_p11_a_metalog_that_is_short_of_a_view_is_damage_unless_the_class_allows_it() -> None:
    ends = {Term(2): end(1, 9, 10)}
    for strict in (True, False):
        metalog = check(ends=ends)
        given(metalog, run(0, OPEN, FIRST))
        notes = metalog.end(0, strict=strict)
        assert (len(metalog.findings.found), len(notes)) == ((1, 0) if strict else (0, 1))
    metalog = check(ends=ends)
    assert metalog.end(9, strict=True) == [] and not metalog.findings.found


def view(term: int, *, count: int, tail: int, cluster: str = "c") -> View:
    space = LogSpace(
        id=SPACE, durability="sync", primary=NodeId("q"), replicas=(NodeId("s"),), write_quorum=1
    )
    return View(
        cluster_id=cluster,
        history_id="h",
        term=Term(term),
        nodes=(),
        spaces=(space,),
        ends=(replace(first_end(SPACE), position=Position(Term(term - 1), count), tail=tail),),
    )


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (view(2, count=5, tail=9), None),
        (view(3, count=5, tail=9), "the views of terms 2 to 2 are missing"),
        (view(2, count=2, tail=9), "goes back, to entry 2"),
        (view(2, count=5, tail=3), "goes back, to seqnum 3"),
        (view(2, count=5, tail=9, cluster="d"), "of cluster d"),
    ],
)
def test_p15_views_follow_each_other(second: View, problem: str | None) -> None:
    findings = Findings()
    views = [("1", view(1, count=4, tail=7)), ("2", second)]
    check_views(views, findings)
    assert [problem in found.problem for found in findings.found if problem] == (
        [True] if problem else []
    )
    assert set(ends_of([each for _, each in views], SPACE)) == {Term(1), second.term}


def test_findings_are_bounded_and_counted() -> None:
    findings = Findings()
    for number in range(FINDINGS_MAX + 5):
        findings.add("f", number, "p", "a")
    part = findings.part("name", "all")
    assert (len(part.findings), part.more_count) == (FINDINGS_MAX, 5)


def test_p24_only_what_was_ordered_is_said_to_be_lost() -> None:
    lost = Lost(9, 1, 7, 1, 3)
    assert given(check(), run(0, OPEN, FIRST), run(2, lost)) == []
    assert given(check(), run(0, OPEN, FIRST), run(2, lost._replace(until=4))) == [
        "entry 2 says that records 1 to 3 of shard 7 are lost: ordered are 3"
    ]
    of_another_term = lost._replace(term=0, until=9)
    assert given(check(), run(0, OPEN, FIRST), run(2, of_another_term)) == []
