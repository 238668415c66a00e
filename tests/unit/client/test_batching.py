"""Units in columns: which share a frame, and what is known of each by its place."""

from __future__ import annotations

import pytest

from bokilog.client import batching
from bokilog.client.batching import JOIN_SLACK_S, Batch, sent_again
from bokilog.client.session import Session
from bokilog.client.units import NEVER, RECORD_COST_BYTES, Unit
from bokilog.columns import record_sum
from bokilog.ids import SYSTEM_SPACE, Position, Term
from bokilog.limits import BLOCK_BYTES
from tests.unit.client.units import SPACE, Author, route


@pytest.fixture
def author() -> Author:
    return Author()


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> int:
    """Frames take two records of ten bytes and one tag of one character, and not three."""
    size_bytes = 3 * (RECORD_COST_BYTES + 11) - 1
    monkeypatch.setattr(batching, "FRAME_BYTES_MAX", size_bytes)
    return size_bytes


def same(unit: Unit, other: Unit) -> bool:
    return all(getattr(unit, name) == getattr(other, name) for name in Unit.__slots__)


def test_a_unit_comes_out_of_its_batch_as_it_went_in(author: Author) -> None:
    units = [
        author.unit(b"a", deadline_s=5.0),
        author.unit(b"b", b"c", tags=[None, ["x", "y"]], key="k", deadline_s=6.0),
        author.unit(b"d", conditions=(("t", 3),), deadline_s=7.0, sent_before=True),
    ]
    batch = author.batch(*units)
    assert all(same(batch.unit(index), unit) for index, unit in enumerate(units))


def test_a_unit_without_a_deadline_has_that_of_its_batch(author: Author) -> None:
    batch = author.batch(author.unit(b"a"), deadline_s=9.0)
    assert batch.unit(0).deadline_s == 9.0


def test_single_records_of_one_log_book_are_plain_and_anything_else_is_not(author: Author) -> None:
    assert author.batch(author.unit(b"a"), author.unit(b"b")).plain
    for other in (
        author.unit(b"b", b"c"),
        author.unit(b"b", key="k"),
        author.unit(b"b", conditions=(("t", 0),)),
        author.unit(b"b", deadline_s=1.0),
    ):
        assert not author.batch(author.unit(b"a"), other).plain
    mixed = author.batch(author.unit(b"a"))
    mixed.add(author.unit(b"b"), route("others", 8))
    assert not mixed.plain


def test_log_books_stand_in_the_frame_once_or_per_unit(author: Author) -> None:
    batch = author.batch(author.unit(b"a"), author.unit(b"b"))
    assert batch.columns().books == 7
    batch.add(author.unit(b"c"), route("others", 8))
    assert batch.columns().books == [7, 7, 8]


def test_two_sessions_of_one_log_book_need_no_column_of_log_books(author: Author) -> None:
    batch = author.batch(author.unit(b"a"))
    second = author.unit(b"b")
    second.session = Session("h")
    batch.add(second, author.route)
    assert batch.columns().books == 7
    assert [batch.unit(0).session, batch.unit(1).session] == [author.session, second.session]


def test_columns_say_where_conditions_and_keys_stand(author: Author) -> None:
    keyed = author.unit(b"c", key="k")
    assert keyed.key is not None
    batch = author.batch(
        author.unit(b"a", b"bb"), keyed, author.unit(b"d", conditions=(("t", 3), (None, 4)))
    )
    columns = batch.columns()
    assert columns.unit_records == [2, 1, 1]
    assert list(columns.lengths) == [1, 2, 1, 1]
    assert columns.keys == [(1, "k", keyed.key[1], author.route.key_horizon_s)]
    assert columns.unless == [(2, [("t", 3), (None, 4)])]


def test_large_records_bring_the_sums_of_their_blocks(author: Author) -> None:
    large = bytes(BLOCK_BYTES + 1)
    columns = author.batch(author.unit(b"a"), author.unit(large)).columns()
    assert list(columns.sums) == [record_sum(b"a")[0], record_sum(large)[0]]
    assert list(columns.blocks) == list(record_sum(large)[1])


@pytest.mark.usefixtures("small_frames")
def test_a_batch_is_cut_between_units_and_never_inside_one(author: Author) -> None:
    batch = Batch(author.route, author.session)
    datas = [[b"0" * 10], [b"1" * 10], [b"2" * 10, b"3" * 10, b"4" * 10, b"5" * 10], [b"6" * 10]]
    for each in datas:
        batch.add(author.unit(*each), author.route)
    batch.deadline_s = 4.0
    parts = batch.parts()
    assert [part.payload for part in parts] == [datas[0] + datas[1], datas[2], datas[3]]
    assert [part.deadline_s for part in parts] == [4.0] * 3
    assert [part.size_bytes for part in parts] == [
        count * (RECORD_COST_BYTES + 11) for count in (2, 4, 1)
    ]


def test_plain_batches_are_cut_as_others_are(author: Author, small_frames: int) -> None:
    batch = Batch(author.route, author.session)
    for index in range(5):
        batch.add(author.unit(b"%d" % index * 10), author.route)
    parts = batch.parts()
    assert [part.records for part in parts] == [2, 2, 1]
    assert all(part.plain and part.size_bytes <= small_frames for part in parts)
    assert [waiter for part in parts for waiter in part.waiters] == author.told


@pytest.mark.usefixtures("small_frames")
def test_batches_are_joined_as_far_as_they_fit_and_are_due_together(author: Author) -> None:
    first = author.batch(author.unit(b"0" * 10), deadline_s=1.0)
    second = author.batch(author.unit(b"1" * 10), deadline_s=1.0 + JOIN_SLACK_S)
    assert first.joinable(second)
    assert not first.joinable(author.batch(author.unit(b"1"), deadline_s=1.1 + JOIN_SLACK_S))
    assert not first.joinable(author.batch(author.unit(b"1", key="k"), deadline_s=1.0))
    first.join(second)
    assert first.payload == [b"0" * 10, b"1" * 10]
    assert (first.size_bytes, first.deadline_s) == (2 * (RECORD_COST_BYTES + 11), 2.0)
    assert not first.joinable(author.batch(author.unit(b"2" * 10), deadline_s=2.0))


def test_what_is_left_of_a_batch_keeps_its_order_without_those_who_wait_no_more(
    author: Author,
) -> None:
    batch = author.batch(*[author.unit(b"%d" % index) for index in range(4)], deadline_s=8.0)
    author.told[1].set_result(5)
    smaller = batch.without({3})
    assert smaller is not None
    assert (smaller.payload, smaller.deadline_s) == ([b"0", b"2"], 8.0)
    assert smaller.size_bytes == batch.size_bytes, "it is in flight with all it was sent with"
    assert batch.without({0, 2, 3}) is None


def test_units_are_due_by_their_own_deadline_or_by_that_of_the_batch(author: Author) -> None:
    batch = author.batch(
        *[author.unit(b"x", deadline_s=at) for at in (NEVER, 3.0, 7.0, NEVER)], deadline_s=5.0
    )
    author.told[3].set_result(1)
    assert [batch.due(now_s) for now_s in (2.0, 3.0, 5.0, 7.0)] == [[], [1], [0, 1], [0, 1, 2]]
    assert [batch.next_deadline_s(now_s) for now_s in (2.0, 3.0, 5.0, 7.0)] == [
        3.0,
        5.0,
        7.0,
        NEVER,
    ]


def test_every_session_has_seen_the_frame_and_that_its_log_book_exists(author: Author) -> None:
    author.route.seen_at = Position(Term(1), 4)
    batch = author.batch(author.unit(b"a"))
    second = author.unit(b"b")
    second.session = Session("h")
    batch.add(second, route("others", 8))
    batch.observe(SPACE, Position(Term(2), 9))
    assert author.session.position(SPACE) == second.session.position(SPACE) == (2, 9)
    assert author.session.position(SYSTEM_SPACE) == (1, 4)


@pytest.mark.usefixtures("small_frames")
def test_units_that_are_sent_again_share_frames_as_far_as_they_fit(author: Author) -> None:
    first = author.batch(*[author.unit(b"%d" % i * 10, key=f"k{i}") for i in range(2)])
    second = author.batch(*[author.unit(b"%d" % i * 10, key=f"k{i}") for i in range(2, 4)])
    again = sent_again([(first, [1]), (second, [0, 1])])
    assert [batch.payload for batch in again] == [[b"1" * 10, b"2" * 10], [b"3" * 10]]
    assert all(batch.unit(0).sent_before for batch in again)
    assert not first.unit(1).sent_before
