"""Laws that the specification itself obeys, whatever is done to it."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from bokilog.errors import BokilogError, ConditionFailed, Trimmed
from bokilog.record import Conditions, Entry, Record, check_unit
from bokilog.reference import ReferenceBook

TAGS = st.sampled_from("abc")
UNIT = st.lists(st.builds(Entry, st.binary(max_size=2), st.lists(TAGS, max_size=2)), min_size=1)
POSITION = st.integers(0, 30)
CONDITIONS = st.dictionaries(st.none() | TAGS, POSITION, max_size=2).map(
    lambda unless: tuple(unless.items())
)
APPEND = st.tuples(st.just("append"), UNIT, CONDITIONS)
TRIM = st.tuples(st.just("trim"), POSITION, st.none() | TAGS)
HOLD = st.tuples(st.just("hold"), POSITION.map(lambda at: at + 1), st.sampled_from("hi"))
HISTORY = st.lists(APPEND | APPEND | TRIM | HOLD, max_size=12)


def grown(history: list[tuple[str, object, object]]) -> ReferenceBook:
    book = ReferenceBook()
    for step in history:
        apply(book, step)
    return book


def apply(book: ReferenceBook, step: tuple[str, object, object]) -> object:
    kind, what, how = step
    try:
        if kind == "append":
            return book.append(check_unit(what), conditions=how)  # type: ignore[arg-type]
        if kind == "trim":
            return book.trim(what, tag=how)  # type: ignore[arg-type]
        return book.hold(how, what, ttl_s=60)  # type: ignore[arg-type, func-returns-value]
    except BokilogError as error:
        return error


QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(HISTORY)
def test_records_stand_in_one_order_below_the_tail(
    history: list[tuple[str, object, object]],
) -> None:
    book = grown(history)
    seqnums = [record.seqnum for record in book.records]
    assert seqnums == sorted(set(seqnums))
    assert not seqnums or 0 < seqnums[0] <= seqnums[-1] < book.tail


@QUICK
@given(HISTORY, UNIT, CONDITIONS)
def test_a_unit_is_void_iff_a_visible_record_came_after(
    history: list[tuple[str, object, object]], unit: list[Entry], conditions: Conditions
) -> None:
    book = grown(history)
    failing = [
        (tag, max(after_it))
        for tag, after in conditions
        if (
            after_it := [
                record.seqnum
                for record in book.records
                if record.seqnum > after and (tag is None or tag in record.tags)
            ]
        )
    ]
    before = list(book.records)
    outcome = apply(book, ("append", unit, conditions))
    if failing:
        assert isinstance(outcome, ConditionFailed)
        assert (outcome.tag, outcome.winner) == failing[0]
        assert book.records == before
    else:
        assert isinstance(outcome, range)
        added = book.records[len(before) :]
        assert [record.seqnum for record in added] == list(outcome)
        assert [record.data for record in added] == [entry.data for entry in unit]


@QUICK
@given(HISTORY, UNIT)
def test_a_retry_with_a_key_changes_nothing(
    history: list[tuple[str, object, object]], unit: list[Entry]
) -> None:
    book = grown(history)
    first = book.append(check_unit(unit), key="k")
    before = list(book.records)
    assert book.append(check_unit(unit), key="k", conditions=((None, 0),)) == first
    assert book.records == before


@QUICK
@given(HISTORY, st.none() | TAGS, POSITION, POSITION, st.integers(1, 4), st.booleans())
def test_pages_of_any_size_make_the_whole(
    history: list[tuple[str, object, object]],
    tag: str | None,
    low: int,
    length: int,
    limit: int,
    reverse: bool,
) -> None:
    book = grown(history)
    until = low + length
    try:
        whole = book.read_range(tag=tag, min_seqnum=low, until=until, limit=999, reverse=reverse)
    except Trimmed:
        assert min(low or until, until) < book.trim_until(tag)
        return
    parts: list[Record] = []
    more = True
    while more:
        page = book.read_range(tag=tag, min_seqnum=low, until=until, limit=limit, reverse=reverse)
        parts += page.records
        more = page.more
        low, until = (low, page.next_seqnum) if reverse else (page.next_seqnum, until)
    assert parts == whole.records


@QUICK
@given(HISTORY, st.none() | TAGS, st.integers(1, 30))
def test_neighbours_are_the_ends_of_ranges(
    history: list[tuple[str, object, object]], tag: str | None, at: int
) -> None:
    book = grown(history)
    at = max(at, book.trim_until(tag))
    after = book.visible(tag, at, book.tail)
    before = book.visible(tag, 0, at + 1)
    assert book.read_next(tag=tag, min_seqnum=at) == (after[0] if after else None)
    assert book.read_prev(tag=tag, max_seqnum=at) == (before[-1] if before else None)


@QUICK
@given(HISTORY)
def test_a_record_is_seen_iff_neither_its_logbook_nor_all_its_tags_let_it_go(
    history: list[tuple[str, object, object]],
) -> None:
    book = grown(history)
    seen = {record.seqnum for record in book.visible(None, 0, book.tail)}
    for record in book.records:
        trims = [book.trims.get(tag, 0) for tag in record.tags]
        by_tags = bool(trims) and record.seqnum < min(trims)
        assert (record.seqnum in seen) == (record.seqnum >= book.trims.get(None, 0) and not by_tags)
    for tag in "abc":
        assert {record.seqnum for record in book.visible(tag, 0, book.tail)} <= seen


@QUICK
@given(HISTORY, POSITION, st.none() | TAGS)
def test_a_trim_moves_forward_to_the_tail_or_a_hold_and_no_further(
    history: list[tuple[str, object, object]], until: int, tag: str | None
) -> None:
    book = grown(history)
    before = book.trim_until(tag)
    done = book.trim(until, tag=tag)
    lowest = min((hold.seqnum for hold in book.holds.values()), default=book.tail)
    assert done.until == book.trim_until(tag) == max(before, min(until, book.tail, lowest))
    if done.held_by is not None:
        assert book.holds[done.held_by].seqnum == lowest < min(until, book.tail)
