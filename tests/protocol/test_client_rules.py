"""Rules of PROTOCOL.md at a client: what breaks without each, as a story."""

from __future__ import annotations

import pytest

from bokilog.client.books import Created, Route, decode as decode_book, encode_created, space_of
from bokilog.client.cache import Cache
from bokilog.client.lane import Lane
from bokilog.client.room import Room
from bokilog.client.session import Session
from bokilog.client.units import Unit, unit_digest
from bokilog.columns import Tags, first_bad_record
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    CorruptRecord,
    HistoryChanged,
    LocalProtocolError,
    NodeUnreachable,
    Overloaded,
    Trimmed,
    to_wire,
)
from bokilog.ids import Position, Term
from bokilog.limits import FRAME_BYTES_MAX, INFLIGHT_RECORDS_MAX
from bokilog.messages import (
    VERDICT_DUPLICATE,
    AppendFrame,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    Read,
    ReadReply,
)
from bokilog.record import Record
from tests.unit.client.opened import existing, opened

BOOK = 7
SPACE = 1


def at(count: int, term: int = 1) -> Position:
    return Position(Term(term), count)


class Waiter:
    """What an append's caller was told."""

    def __init__(self) -> None:
        self.told: object = None

    def done(self) -> bool:
        return self.told is not None

    def set_result(self, result: int) -> None:
        assert self.told is None, "one outcome each"
        self.told = result

    def set_exception(self, exception: BaseException) -> None:
        assert self.told is None, "one outcome each"
        self.told = exception


class Way:
    """A lane and the units that went into it."""

    def __init__(self) -> None:
        self.lane = Lane(SPACE, lambda: None)
        self.session = Session("h")
        self.route = Route(name="orders", number=BOOK, space=SPACE, durability="sync")

    def unit(self, data: bytes, *, key: str | None = None, deadline_s: float = 100) -> Waiter:
        """One append, in a tick of its own."""
        waiter, datas, tags = Waiter(), [data], ["t"]
        column: list[Tags] = list(tags)
        self.lane.add(
            Unit(
                datas=datas,
                tags=column,
                conditions=(),
                key=(key, unit_digest(datas, column)) if key else None,
                session=self.session,
                waiter=waiter,
                deadline_s=deadline_s,
            ),
            self.route,
        )
        self.lane.seal(deadline_s)
        return waiter

    def send(self) -> list[AppendFrame]:
        """All that may leave now."""
        frames = []
        while self.lane.head() is not None:
            frames.append(self.lane.take_head())
        return frames

    def refuse(self, frame: AppendFrame, error: BokilogError) -> None:
        self.lane.refuse(FrameRefused(SPACE, frame.number, to_wire(error)), 0.0)


def payloads(frames: list[AppendFrame]) -> list[bytes]:
    return [bytes(data) for frame in frames for data in frame.payload]


# --- appends --------------------------------------------------------------------------------------


def test_p04_refused_frames_return_in_their_order_before_anything_newer() -> None:
    """1. The engine refuses frame 1, and so 2. 2. The caller appends again. 3. Sent first, the new
    unit would stand before those that the same caller appended earlier."""
    way = Way()
    way.unit(b"a")
    (first,) = way.send()
    way.unit(b"b")
    (second,) = way.send()
    way.refuse(first, Overloaded(0.01))
    way.unit(b"c")
    assert way.send() == [], "frame 2 is under way still: its refusal belongs to this sending"
    way.lane.resume(10.0)
    assert way.send() == []
    way.refuse(second, Overloaded(0.01))
    way.lane.resume(10.0)
    again = way.send()
    assert payloads(again) == [b"a", b"b", b"c"]
    assert again[0].number == first.number


def test_p04_one_units_final_error_refuses_no_other_frame() -> None:
    way = Way()
    bad = way.unit(b"bad")
    (frame,) = way.send()
    way.refuse(frame, LocalProtocolError("not like this"))
    good = way.unit(b"good")
    way.lane.resume(10.0)
    assert payloads(way.send()) == [b"good"]
    assert isinstance(bad.told, LocalProtocolError) and good.told is None


@pytest.mark.parametrize("loss", ["connection", "frame"])
def test_p23_a_keyless_append_of_unknown_outcome_is_never_sent_again(loss: str) -> None:
    """1. The record is ordered. 2. The connection breaks before the answer. 3. Sent again it would
    stand in the log twice; with a key, the fold knows the second one."""
    way = Way()
    plain = way.unit(b"plain")
    keyed = way.unit(b"keyed", key="k")
    frames = way.send()
    if loss == "connection":
        way.lane.down("cut")
    else:
        for frame in frames:
            way.lane.lose(FrameLost(SPACE, frame.number, "gone"))
    assert isinstance(plain.told, AppendUnknown) and not plain.told.definite
    assert keyed.told is None
    (again,) = way.send()
    assert payloads([again]) == [b"keyed"]
    way.lane.ordered(FrameOrdered(SPACE, again.number, 9, at(3), 1000))
    outcome: list[object] = [0, VERDICT_DUPLICATE, 4, 1]
    way.lane.verdicts(FrameVerdicts(SPACE, again.number, at(3), [outcome]))
    assert keyed.told == 4, "where the first attempt stands"


def test_p23_a_frame_that_never_left_is_sent_to_the_next_engine_in_its_place() -> None:
    """1. Frame 1 leaves; 2 and 3 wait for the end of the tick. 2. The engine dies. Nobody knows of
    1; the others certainly did not happen, which is no matter of their callers'."""
    way = Way()
    left = way.unit(b"1")
    way.send()
    waiting = [way.unit(b"2"), way.unit(b"3", key="k")]
    later = way.send()
    waiting.append(way.unit(b"4"))
    way.lane.down("it died", [frame.number for frame in later])
    assert isinstance(left.told, AppendUnknown)
    assert [each.told for each in waiting] == [None] * 3
    assert payloads(way.send()) == [b"2", b"3", b"4"]


def test_p23_what_was_never_sent_ends_definitely_and_what_was_sent_does_not() -> None:
    """A caller may append again after a definite error; after any other that would be a second
    record."""
    way = Way()
    sent = way.unit(b"sent", deadline_s=1.0)
    way.send()
    unsent = way.unit(b"unsent", deadline_s=1.0)
    way.lane.expire(2.0, lambda: NodeUnreachable("engine-1", "gone"))
    assert isinstance(sent.told, AppendUnknown)
    assert isinstance(unsent.told, NodeUnreachable) and unsent.told.definite
    assert way.send() == [], "nobody waits for it any more"


def test_p22_a_key_names_tags_and_bytes_but_no_conditions() -> None:
    """A retry may test another state than its first try; other bytes under its key are a mistake of
    the caller that must not pass for a success."""
    assert unit_digest([b"a"], ["t"]) == unit_digest([b"a"], ["t"])
    others: list[tuple[list[bytes], list[Tags]]] = [
        ([b"b"], ["t"]),
        ([b"a"], ["u"]),
        ([b"a", b""], ["t", None]),
        ([b""], ["t"]),
    ]
    digests = {unit_digest(datas, tags) for datas, tags in others}
    assert len(digests) == len(others)
    assert unit_digest([b"a"], ["t"]) not in digests


def test_p29_the_client_hashes_its_bytes_once_and_everybody_later_checks_that() -> None:
    way = Way()
    way.unit(b"one")
    way.unit(bytes(200_000))
    for frame in way.send():
        payload = bytearray(b"".join(frame.payload))
        assert first_bad_record(frame.columns, memoryview(payload)) is None
        payload[-1] ^= 1
        assert first_bad_record(frame.columns, memoryview(payload)) == frame.columns.records - 1


def test_p32_what_is_in_flight_on_a_connection_is_bounded_and_the_rest_waits_in_order() -> None:
    """What is in flight is what a broken connection leaves unknown."""
    way, room = Way(), Room()
    for _ in range(3):
        for n in range(INFLIGHT_RECORDS_MAX // 2):
            way.lane.append(way.route, way.session, b"%d" % n, None, Waiter())
        way.lane.seal(10.0)
    sent = 0
    while (head := way.lane.head()) is not None and room.fits(head):
        room.take(head)
        sent += way.lane.take_head().columns.records
    assert sent == room.records <= INFLIGHT_RECORDS_MAX
    assert room.bytes <= 128 << 20 and way.lane.backlog


def test_p32_a_tick_larger_than_a_frame_becomes_several() -> None:
    way = Way()
    for _ in range(4):
        way.lane.append(way.route, way.session, bytes(FRAME_BYTES_MAX // 3), None, Waiter())
    way.lane.seal(10.0)
    assert [frame.columns.records for frame in way.send()] == [2, 2]


# --- LogBooks -------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_p05_a_log_books_number_is_the_seqnum_of_the_record_that_created_it() -> None:
    """A number drawn anywhere else could be given to two incarnations, and the second would inherit
    the records of the first."""
    async with opened() as (engine, log):
        book = log.book("orders")
        assert await book.read_next() is None, "a name without a LogBook reads as an empty one"
        first = await book.append(b"x")
        creations = [r for r in engine.spaces[0].books[0].records if b"orders" in bytes(r.data)]
        (frame,) = [each for each in engine.frames() if each.columns.books != 0]
        assert [record.seqnum for record in creations] == [frame.columns.books]
        assert frame.columns.books < first  # type: ignore[operator]


@pytest.mark.asyncio
async def test_p05_the_creation_costs_one_append_once() -> None:
    async with existing() as (engine, book):
        for n in range(3):
            await book.append(b"%d" % n)
        assert [frame.columns.books == 0 for frame in engine.frames()] == [False] * 3


def test_p05_class_and_number_fix_the_log_space_for_ever() -> None:
    """Moving a LogBook would leave the state of its tags behind (P20)."""
    created = decode_book(encode_created(Created("orders", "flush", 60)))
    assert created == Created("orders", "flush", 60)
    spaces: list[list[object]] = [[0, "sync"], [1, "flush"], [2, "sync"]]
    assert [space_of(n, "sync", spaces) for n in (4, 5)] == [0, 2]
    assert [space_of(n, "sync", spaces[::-1]) for n in (4, 5)] == [0, 2]
    assert space_of(5, "flush", spaces) == 1


# --- reads ----------------------------------------------------------------------------------------


def page(read: Read, seqnums: list[int], *, tail: int, trim_until: int = 0) -> ReadReply:
    count = len(seqnums)
    tags: list[Tags] = ["t"] * count
    return ReadReply(
        *(read.request, at(3), tail, trim_until, max(read.start, tail), False, seqnums),
        *(tags, [1000] * count, None, [b"x"] * count),
    )


def known() -> Cache:
    """Records 5 and 8 of a tag, and that there is nothing else below the tail 10."""
    cache = Cache()
    read = Read(1, SPACE, BOOK, "t", 0, 2**53, 10, 1 << 20, False, at(0), 0, False, -1, -1)
    records = [Record(seqnum, b"x", ("t",), 1000, None) for seqnum in (5, 8)]
    cache.keep(read, page(read, [5, 8], tail=10), records)
    return cache


def test_p27_a_client_answers_only_what_no_later_record_can_change() -> None:
    """ "None" and "newest" were true when they were read; kept, they would deny what another client
    has appended since."""
    cache = known()
    assert cache.record(BOOK, 8, 0) is not None
    found = cache.next(BOOK, "t", 6, 0)
    assert found is not None and found.seqnum == 8
    assert cache.next(BOOK, "t", 9, 0) is None
    assert cache.next(BOOK, "u", 0, 0) is None


def test_p27_a_session_carries_the_trims_it_has_seen_into_every_answer() -> None:
    """A token from elsewhere says that 5 is gone; this process still has its bytes."""
    elsewhere = Session("h")
    elsewhere.saw_trim(BOOK, 6)
    session = Session("h")
    session.merge(elsewhere.token)
    cache = known()
    assert cache.record(BOOK, 5, session.trim_until(BOOK)) is None
    found = cache.next(BOOK, "t", 0, session.trim_until(BOOK))
    assert found is not None and found.seqnum == 8


def test_p27_positions_of_a_session_never_go_back_and_a_later_term_is_further() -> None:
    session = Session("h")
    session.observe(SPACE, at(9))
    session.observe(SPACE, at(4))
    assert session.position(SPACE) == at(9)
    session.observe(SPACE, at(9, 2))
    session.observe(SPACE, at(9, 1))
    assert session.position(SPACE) == at(9, 2)
    with pytest.raises(HistoryChanged):
        Session("restored").merge(session.token)


@pytest.mark.asyncio
async def test_p28_that_a_seqnum_holds_nothing_is_never_remembered() -> None:
    """At or past the tail it may hold a record a moment later."""
    async with existing() as (engine, book):
        tail = await book.tail()
        assert await book.read(tail) is None
        seqnum = await book.append(b"x")
        assert seqnum == tail
        found = await book.read(tail)
        assert found is not None and found.data == b"x"
        assert await book.read(tail + 1) is None
        asked = len(engine.received)
        assert await book.read(tail + 1) is None
        assert len(engine.received) > asked


@pytest.mark.parametrize("error", [CorruptRecord(seqnum=5), Trimmed(trim_until=6)])
def test_p29_what_went_wrong_with_data_is_final(error: BokilogError) -> None:
    """Asking again would not make the bytes whole, and nothing else may take their place."""
    assert not error.retryable
