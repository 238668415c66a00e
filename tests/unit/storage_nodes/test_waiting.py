"""Who is asked again after a batch; when a read is answered is in tests/protocol."""

from __future__ import annotations

from hypothesis import given, strategies as st

from bokilog.columns import Columns, Tags
from bokilog.ids import START, LogSpaceId
from bokilog.messages import Read
from bokilog.storage_nodes.waiting import Touched, WaitingRoom
from tests.frames import columns_of

BOOKS = (5, 6)
TAGS = ("a", "b", "c")


def read(book: int, tag: str | None) -> Read:
    range_ = (0, 2**53, 10, 1 << 20, False)
    return Read(1, 0, book, tag, *range_, START, 1000, False, -1, -1)


def room_of(*waiting: tuple[int, str | None]) -> WaitingRoom:
    """Keys are numbers from 1, in this order."""
    room = WaitingRoom(LogSpaceId(0))
    for book, tag in waiting:
        room.for_record(("client", 1), read(book, tag))
    return room


def records(book: int, *tags: Tags) -> Columns:
    return columns_of([b"x"] * len(tags), tags=list(tags), books=book)


def woken(
    room: WaitingRoom, *frames: Columns, books: tuple[int, ...] = (), lost: bool = False
) -> list[int]:
    touched = Touched()
    touched.frames.extend(frames)
    touched.books.update(books)
    touched.lost = lost
    return [key for key, _ in room.touched(touched)]


def test_a_record_wakes_who_waits_on_its_tags_or_its_logbook() -> None:
    room = room_of((5, "a"), (5, "b"), (5, None), (6, "a"), (5, "a"))
    assert woken(room, records(5, "a")) == [1, 3, 5]
    assert woken(room, records(5, ["c", "b"])) == [2, 3]
    assert woken(room, records(5, None)) == [3]
    assert woken(room, records(6, None, "a")) == [4]
    assert woken(room, records(7, "a")) == []


def test_a_frame_for_several_logbooks_wakes_who_may_wait_on_one_of_its_records() -> None:
    room = room_of((5, "a"), (6, "a"), (6, "b"), (7, "a"), (6, None))
    several = columns_of([b"x"] * 2, tags=["a", None], books=[5, 6], unit_records=[1, 1])
    assert woken(room, several) == [1, 2, 5]


def test_a_trim_and_a_deletion_wake_all_of_their_logbook() -> None:
    room = room_of((5, "a"), (6, "a"), (5, None))
    assert woken(room, books=(5, 7)) == [1, 3]


def test_records_of_which_nothing_is_known_wake_all() -> None:
    """P24: they may have been anybody's."""
    assert woken(room_of((5, "a"), (6, None)), lost=True) == [1, 2]


def test_who_was_taken_is_not_woken_again() -> None:
    room = room_of((5, "a"), (5, "a"), (5, None))
    assert room.take(1) is not None
    assert room.take(1) is None
    assert woken(room, records(5, "a")) == [2, 3]
    assert len(room.drop(("client", 1))) == 2
    assert woken(room, records(5, "a"), books=(5,), lost=True) == []
    assert len(room) == 0


_tags = st.none() | st.sampled_from(TAGS) | st.lists(st.sampled_from(TAGS), min_size=2, max_size=3)
_line = st.tuples(st.sampled_from(BOOKS), st.none() | st.sampled_from(TAGS))


@given(
    waiting=st.lists(_line, max_size=8),
    frames=st.lists(st.tuples(st.sampled_from(BOOKS), st.lists(_tags, min_size=1, max_size=4))),
)
def test_woken_are_exactly_those_whose_read_would_find_one_of_the_records(
    waiting: list[tuple[int, str | None]], frames: list[tuple[int, list[Tags]]]
) -> None:
    expected = [
        key
        for key, (book, tag) in enumerate(waiting, 1)
        if any(
            book == of and (tag is None or tag in ([tags] if isinstance(tags, str) else tags or ()))
            for of, of_frame in frames
            for tags in of_frame
        )
    ]
    found = woken(room_of(*waiting), *(records(book, *tags) for book, tags in frames))
    assert found == expected
