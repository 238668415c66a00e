"""The fold against the executable specification, through checkpoints, crashes and refolds.

Three indexes get the same entries: one that checkpoints a step at a time between entries and
crashes, one that never does. They answer alike, hash alike, and agree with `reference.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from bokilog.errors import BokilogError, ConditionFailed, KeyReused, TagsEnded, Trimmed
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)
from bokilog.record import Unit
from bokilog.reference import ReferenceBook
from bokilog.storage_nodes import books as book_states, key_uses, locations, postings
from bokilog.storage_nodes.fold import FrameOutcome
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.unit_verdicts import verdicts_of
from tests.unit.storage_nodes.folds import SPACE, Fold, U

BOOKS = (5, 6)
TAGS = ("a", "b", "$w/1", "$w/2", "$x")
KEYS = ("k1", "k2")

tag_columns = st.one_of(
    st.none(),
    st.sampled_from(TAGS),
    st.lists(st.sampled_from(TAGS), min_size=1, max_size=3, unique=True),
)
units = st.builds(
    U,
    tags=st.lists(tag_columns, min_size=1, max_size=4),
    book=st.sampled_from(BOOKS),
    unless=st.lists(st.tuples(st.sampled_from([None, *TAGS]), st.integers(0, 60)), max_size=2),
    key=st.sampled_from([None, None, *KEYS]),
)
plain_units = st.builds(U, tags=st.lists(st.sampled_from(TAGS), min_size=1, max_size=4))
frames = st.lists(st.one_of(units, plain_units), min_size=1, max_size=4)
books = st.sampled_from(BOOKS)
relative = st.floats(0, 1.2)
cuts = st.tuples(st.just("cut"), st.lists(frames, min_size=1, max_size=2), st.integers(0, 3))
operations = st.one_of(
    cuts,
    cuts,
    cuts,
    st.tuples(st.just("trim"), books, st.sampled_from([None, *TAGS]), relative),
    st.tuples(st.just("trim"), books, st.sampled_from([None, *TAGS]), relative),
    st.tuples(st.just("hold"), books, st.sampled_from("hi"), relative, st.integers(0, 9)),
    st.tuples(st.just("end tags"), books, st.sampled_from(["$w/", "$w/1", "$x"])),
    st.tuples(st.just("forget keys"), st.integers(0, 200_000)),
    st.tuples(st.just("delete"), st.just(6)),
    st.tuples(st.just("checkpoint"), st.integers(0, 20)),
    st.tuples(st.just("checkpoint"), st.just(10_000)),
    st.tuples(st.just("write")),
    st.tuples(st.just("checkpoint and write")),
    st.tuples(st.just("crash"), st.booleans()),
)


@dataclass
class Machine:
    """The fold under test, its twin that stays in RAM, and a specification per LogBook."""

    store: MemoryStore = field(default_factory=MemoryStore)
    models: dict[int, ReferenceBook] = field(default_factory=dict)
    tags: dict[int, tuple[str, ...]] = field(default_factory=dict)
    steps: Iterator[None] | None = None
    built: bool = False

    def __post_init__(self) -> None:
        self.fold = Fold(Index(SPACE, self.store))
        self.twin = Fold(Index(SPACE, MemoryStore()))
        self.models = {number: ReferenceBook(number) for number in BOOKS}
        self.deleted: set[int] = set()

    # --- entries ---

    def cut(self, several: list[list[U]], gap: int) -> None:
        outcomes = self.fold.cut(several, gap=gap)
        assert _told(outcomes) == _told(self.twin.cut(several, gap=gap))
        for outcome, expected in zip(outcomes, several, strict=True):
            told = {verdict[0]: verdict for verdict in outcome.verdicts}
            bounds = outcome.frame.columns.unit_bounds()
            for number, unit in enumerate(expected):
                first = outcome.first_seqnum + bounds[number][0]
                verdict = told.get(number)
                decided = bool(unit.unless) or unit.key is not None or _is_a_librarys(unit)
                assert (verdict is None) == (number not in outcome.void_units and not decided)
                kind = self.expect(unit, first, verdict)
                assert (number in outcome.void_units) == (kind != VERDICT_VISIBLE)
            again = verdicts_of(self.fold.index, outcome.frame, outcome.first_seqnum)
            assert [tuple(v) for v in again] == [tuple(v) for v in outcome.verdicts]

    def expect(self, unit: U, first: int, verdict: list[object] | None) -> int:
        """Decide the unit in the specification; the kind of verdict."""
        if unit.book in self.deleted:
            assert verdict == [verdict[0] if verdict else 0, VERDICT_BOOK_DELETED, None, None]
            return VERDICT_BOOK_DELETED
        columns = [_names(tags) for tags in unit.tags]
        datas = [b"x"] * len(columns)
        given_unit = Unit(datas, columns, len(columns))
        model = self.models[unit.book]
        failed: BokilogError | None = None
        span = range(0)
        try:
            span = model.append(
                given_unit,
                conditions=tuple(unit.unless),
                key=unit.key,
                now_ms=self.fold.now_ms,
                seqnum=first,
            )
        except (KeyReused, ConditionFailed, TagsEnded) as error:
            failed = error
        if failed is not None:
            assert verdict is not None
            return self.expect_failed(failed, verdict)
        if span.start != first:
            assert verdict is not None
            assert verdict[1:] == [VERDICT_DUPLICATE, span.start, len(span)]
            return VERDICT_DUPLICATE
        assert verdict is None or verdict[1:] == [VERDICT_VISIBLE, first, None]
        self.tags.update(zip(span, columns, strict=True))
        return VERDICT_VISIBLE

    def expect_failed(self, failed: BokilogError, verdict: list[object]) -> int:
        if isinstance(failed, KeyReused):  # it compares contents, the fold the client's hash
            assert verdict[1:3] == [VERDICT_DUPLICATE, failed.seqnum]
            return VERDICT_DUPLICATE
        if isinstance(failed, ConditionFailed):
            assert verdict[1:] == [VERDICT_CONDITION_FAILED, failed.tag, failed.winner]
            return VERDICT_CONDITION_FAILED
        assert verdict[1] == VERDICT_TAGS_ENDED
        return VERDICT_TAGS_ENDED

    def trim(self, book: int, tag: str | None, part: float) -> None:
        until = int(self.fold.index.tail * part)
        answer = self.fold.trim(until, tag, book)
        assert answer == self.twin.trim(until, tag, book)
        if book in self.deleted:
            assert answer == [self.fold.index.tail, None]
            return
        model = self.models[book]
        model.tail = self.fold.index.tail
        assert answer == [*model.trim(until, tag=tag, now_ms=self.fold.now_ms)]

    def hold(self, book: int, name: str, part: float, ttl_ms: int) -> None:
        seqnum = int(self.fold.index.tail * part)
        answer = self.fold.hold(name, seqnum, ttl_ms, book)
        self.twin.hold(name, seqnum, ttl_ms, book)
        if book in self.deleted:
            return
        model = self.models[book]
        if isinstance(answer, BokilogError):
            with pytest.raises(Trimmed) as raised:
                model.hold(name, seqnum, ttl_s=ttl_ms / 1000, now_ms=self.fold.now_ms)
            assert answer.args == raised.value.args
        else:
            model.hold(name, seqnum, ttl_s=ttl_ms / 1000, now_ms=self.fold.now_ms)

    def end_tags(self, book: int, prefix: str) -> None:
        assert self.fold.end_tags(prefix, book) == self.twin.end_tags(prefix, book) == []
        self.models[book].end_tags(prefix)

    def forget_keys(self, later_ms: int) -> None:
        now_ms = self.fold.now_ms + later_ms
        self.fold.forget_keys(now_ms)
        self.twin.forget_keys(now_ms)
        for model in self.models.values():
            model.forget_keys(now_ms, horizon_s=100)

    def delete(self, book: int) -> None:
        assert self.fold.delete(book) == self.twin.delete(book) == []
        self.deleted.add(book)

    # --- what happens beside the log ---

    def checkpoint(self, steps: int) -> None:
        if self.steps is None and self.fold.index.freeze():
            self.steps = self.fold.index.generations.steps()
        if self.steps is not None and not self.built:
            for _ in range(steps):
                if next(self.steps, "through") == "through":
                    self.built = True
                    return

    def checkpoint_and_write(self) -> None:
        self.checkpoint(10_000)
        self.write()

    def write(self) -> None:
        if self.built:
            self.fold.index.generations.write()
            self.fold.index.generations.done()
            self.steps, self.built = None, False
            self.check_stored(Index(SPACE, self.store))

    def crash(self, written: bool) -> None:
        """Lose RAM, and what was written without a flush; fold the journal again."""
        if self.built and written:
            assert self.fold.index.generations._batch is not None
            self.store.write(self.fold.index.generations._batch)
            self.check()  # written, not flushed, not done: reads see it once
        self.store.crash()
        self.steps, self.built = None, False
        index = Index(SPACE, self.store)
        assert index.position == self.fold.index.generations.stored_position
        self.fold.refold(index)

    def check_stored(self, index: Index) -> None:
        """P19: the store holds the state of exactly one position: that of an index folded to it."""
        fresh = Fold(Index(SPACE, MemoryStore()))
        fresh.history = [each for each in self.fold.history if each[0] <= index.position]
        fresh.refold(fresh.index)
        expected = fresh.index
        assert index.chained_hash == expected.chained_hash
        assert index.timestamp_ms == expected.timestamp_ms
        assert index.deleted_books == expected.deleted_books
        assert {n: s.ordered for n, s in index.shards.opened.items()} == {
            n: s.ordered for n, s in expected.shards.opened.items()
        }
        assert index.shards.closed == expected.shards.closed
        for book in BOOKS:
            assert index.book_state(book) == expected.book_state(book)
            assert sorted(map(str, index.trims_of(book))) == sorted(
                map(str, expected.trims_of(book))
            )
            for key in KEYS:
                assert index.key_uses.use(book, key) == expected.key_uses.use(book, key)
            known = expected.books.get(book)
            for tag in (None, *TAGS):
                if known is None or known.ended_prefix(tag or "") is None:
                    assert index.last(book, tag) == expected.last(book, tag)
                found = [i.seqnums(book, tag, 0, 2**53, limit=999) for i in (index, expected)]
                assert found[0] == found[1]

    def check(self) -> None:
        index, twin = self.fold.index, self.twin.index
        index.check()
        assert (index.position, index.tail) == (twin.position, twin.tail)
        assert index.chained_hash == twin.chained_hash
        for book, model in self.models.items():
            model.tail = index.tail
            if book in self.deleted:
                assert self.fold.visible(None, book) == []
                assert index.last(book, "a") == 0
                continue
            state = index.book_state(book)
            assert state == twin.book_state(book)
            assert state[0] == model.trim_until(None)
            for tag in TAGS:
                found = self.fold.visible(tag, book)
                assert found == [record.seqnum for record in model.visible(tag, 0, 2**53)]
                if not any(tag.startswith(prefix) for prefix in model.ended):
                    assert index.last(book, tag) == model.last.get(tag, 0)
            whole = self.fold.visible(None, book)
            assert state[1:3] == (len(whole), model.last.get(None, 0))
            kept = [s for s in whole if not index.hidden_by_tag_trims(book, s, self.tags[s])]
            assert kept == [record.seqnum for record in model.visible(None, 0, 2**53)]
            self.check_ranges(book, whole)
        for _, _, placed in self.fold.history:
            for seqnum, frame, location in placed:
                row = index.locate(seqnum + frame.records - 1)
                assert row is not None
                assert (row.first_seqnum, row.location) == (seqnum, location)

    def check_ranges(self, book: int, whole: list[int]) -> None:
        index = self.fold.index
        for start, until, limit in ((3, 20, 2), (10, 2**53, 3), (0, index.tail - 1, 2)):
            inside = [seqnum for seqnum in whole if start <= seqnum < until]
            assert index.seqnums(book, None, start, until, limit=limit) == inside[:limit]
            backward = index.seqnums(book, None, start, until, limit=limit, reverse=True)
            assert backward == inside[::-1][:limit]
        for seqnum in range(0, index.tail + 1, 3):
            assert index.contains(book, seqnum) == (seqnum in whole)


def _names(tags: object) -> tuple[str, ...]:
    if tags is None:
        return ()
    return (tags,) if isinstance(tags, str) else tuple(tags)  # type: ignore[arg-type]


def _told(outcomes: list[FrameOutcome]) -> list[object]:
    return [(o.first_seqnum, o.verdicts, o.void_units) for o in outcomes]


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Chunks of a few entries, and a step after each, so that short histories meet every edge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "CHUNK_POSTINGS_MAX", 3)
        patch.setattr(postings, "STEP_CHUNKS", 1)
        patch.setattr(postings, "SWEEP_CHUNKS_MAX", 7)
        patch.setattr(locations, "CHUNK_ROWS_MAX", 2)
        patch.setattr(locations, "STEP_CHUNKS", 1)
        patch.setattr(key_uses, "STEP_ROWS", 1)
        patch.setattr(key_uses, "EXPIRING_ROWS_MAX", 2)
        patch.setattr(key_uses, "HOUR_MS", 10)
        patch.setattr(book_states, "STEP_ROWS", 1)
        patch.setattr(book_states, "SWEEP_ROWS_MAX", 2)
        yield


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(operations, min_size=15, max_size=30))
def test_the_fold_is_the_specification_through_checkpoints_and_crashes(
    taken: list[tuple[object, ...]],
) -> None:
    machine = Machine()
    for name, *arguments in taken:
        getattr(machine, str(name).replace(" ", "_"))(*arguments)
        machine.check()


def _is_a_librarys(unit: U) -> bool:
    return any(tag.startswith("$") for tags in unit.tags for tag in _names(tags))
