"""A lane: which frame leaves next, under which number, and what a refusal or a cut does to that."""

from __future__ import annotations

import pytest

from bokilog.client.lane import RETRY_DELAY_S_MAX, RETRY_DELAY_S_MIN, Lane
from bokilog.client.units import NEVER
from bokilog.errors import BokilogError, Closed, NodeUnreachable, Overloaded, ReadOnly, to_wire
from bokilog.ids import Position, Term
from bokilog.messages import (
    VERDICT_VISIBLE,
    AppendFrame,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
)
from tests.unit.client.units import SPACE, Author, route

AT = Position(Term(1), 3)


class Way(Author):
    """A lane, and the units that go into it."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0
        self.lane = Lane(SPACE, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def tick(self, *datas: bytes, key: str | None = None, deadline_s: float = 100.0) -> None:
        """Appends of one tick."""
        for data in datas:
            self.lane.add(self.unit(data, key=key), self.route)
        self.lane.seal(deadline_s)

    def send(self) -> list[AppendFrame]:
        """All that may leave now."""
        frames = []
        while self.lane.head() is not None:
            frames.append(self.lane.take_head())
        return frames

    def refuse(self, number: int, error: BokilogError, now_s: float = 0.0) -> None:
        self.lane.refuse(FrameRefused(SPACE, number, to_wire(error)), now_s)


def said(frames: list[AppendFrame]) -> list[tuple[int, list[bytes]]]:
    return [(frame.number, [bytes(data) for data in frame.payload]) for frame in frames]


def test_a_tick_is_a_frame_and_wakes_the_shell_once() -> None:
    way = Way()
    way.tick(b"a", b"b")
    assert said(way.send()) == [(1, [b"a", b"b"])]
    assert way.woken == 1
    way.tick(b"c")
    assert said(way.send()) == [(2, [b"c"])]
    assert way.woken == 2


def test_the_short_way_and_the_other_put_the_same_into_a_frame() -> None:
    way, other = Way(), Way()
    routes = [way.route, way.route, route("others", 8), way.route]
    for index, each in enumerate(routes):
        data = b"%d" % index
        way.lane.add(way.unit(data), each)
        other.lane.append(each, other.session, data, "t", other.unit(data).waiter)
    for lane in (way.lane, other.lane):
        lane.seal(100.0)
    ((frame,), (same,)) = way.send(), other.send()
    assert frame.payload == same.payload
    for made in (frame.columns, same.columns):
        assert (made.books, made.unit_records, made.tags) == ([7, 7, 8, 7], None, ["t"] * 4)


def test_the_short_way_keeps_count_of_records_after_a_unit_of_several() -> None:
    way = Way()
    way.lane.add(way.unit(b"a", b"b"), way.route)
    way.lane.append(way.route, way.session, b"c", "t", way.unit(b"c").waiter)
    way.lane.seal(100.0)
    (frame,) = way.send()
    assert frame.columns.unit_records == [2, 1]


def test_ticks_that_had_to_wait_leave_as_one_frame() -> None:
    way = Way()
    for data in (b"a", b"b", b"c"):
        way.tick(data)
    assert said(way.send()) == [(1, [b"a", b"b", b"c"])]


def test_a_frame_that_found_no_connection_is_the_next_one_again() -> None:
    way = Way()
    way.tick(b"a")
    (frame,) = way.send()
    way.lane.put_back(frame.number)
    assert said(way.send()) == [(1, [b"a"])]


def test_a_frame_leaves_the_lane_once_it_is_ordered_and_no_verdict_is_missing() -> None:
    way = Way()
    way.tick(b"a")
    way.tick(b"b", key="k")
    way.send()
    assert way.lane.ordered(FrameOrdered(SPACE, 1, 10, AT, 1_000)) is not None
    assert way.lane.ordered(FrameOrdered(SPACE, 2, 11, AT, 1_000)) is None
    assert way.lane.unanswered_to(2) and not way.lane.unanswered_to(1)
    done, homeless = way.lane.verdicts(FrameVerdicts(SPACE, 2, AT, [[0, VERDICT_VISIBLE, 11, 0]]))
    assert done is not None and homeless == []
    assert way.outcomes == [10, 11]
    assert way.lane.idle and not way.lane.unanswered_to(2)


def test_what_is_said_of_frames_that_are_not_under_way_is_passed_over() -> None:
    lane = Way().lane
    assert lane.ordered(FrameOrdered(SPACE, 1, 10, AT, 1_000)) is None
    assert lane.verdicts(FrameVerdicts(SPACE, 1, AT, [])) == (None, [])
    assert lane.refuse(FrameRefused(SPACE, 1, to_wire(Overloaded(0.1))), 0.0) is None
    assert lane.lose(FrameLost(SPACE, 1, "gone")) is None
    assert lane.idle


def test_a_refused_frame_is_sent_again_when_the_engine_says() -> None:
    way = Way()
    way.tick(b"a")
    way.send()
    way.refuse(1, Overloaded(0.5), now_s=10.0)
    way.lane.resume(10.4)
    assert way.send() == []
    way.lane.resume(10.5)
    assert said(way.send()) == [(1, [b"a"])]


def test_refusals_in_a_row_are_retried_ever_later_until_one_is_taken() -> None:
    way = Way()
    way.tick(b"a")
    delays = []
    for _ in range(10):
        way.send()
        way.refuse(1, ReadOnly("full"), now_s=0.0)
        delays.append(way.lane.resume_at_s)
        way.lane.resume(way.lane.resume_at_s)
    assert delays[:2] == [RETRY_DELAY_S_MIN * 2, RETRY_DELAY_S_MIN * 4]
    assert delays == sorted(delays) and delays[-1] == RETRY_DELAY_S_MAX
    way.send()
    way.lane.ordered(FrameOrdered(SPACE, 1, 10, AT, 1_000))
    assert way.lane.refusal is None
    way.tick(b"b")
    way.send()
    way.refuse(2, ReadOnly("full"), now_s=0.0)
    assert way.lane.resume_at_s == delays[0]


def test_nobody_is_sent_again_who_was_told_while_the_frame_was_refused() -> None:
    way = Way()
    way.tick(b"a", deadline_s=1.0)
    way.send()
    way.refuse(1, Overloaded(0.1))
    way.lane.expire(2.0, lambda: NodeUnreachable("e", "gone"))
    way.tick(b"b")
    way.lane.resume(2.0)
    assert said(way.send()) == [(1, [b"b"])]
    assert way.outcomes == [NodeUnreachable, None]


def test_after_a_cut_unknown_keyed_units_go_first_then_the_refused_then_the_rest() -> None:
    way = Way()
    way.tick(b"keyed", key="k")
    way.tick(b"refused")
    way.send()
    way.refuse(2, Overloaded(0.1))
    way.tick(b"new")
    way.lane.down("cut")
    assert said(way.send()) == [(3, [b"keyed"]), (4, [b"refused", b"new"])]


def test_the_next_look_at_deadlines_is_when_the_next_is_due_or_refused_frames_return() -> None:
    way = Way()
    way.tick(b"a", deadline_s=5.0)
    assert way.lane.expire(1.0, lambda: Overloaded(0.1)) == 5.0
    way.send()
    way.refuse(1, Overloaded(0.5), now_s=1.0)
    assert way.lane.expire(1.0, lambda: Overloaded(0.1)) == 1.5
    assert way.lane.expire(5.0, lambda: Overloaded(0.1)) == NEVER
    assert way.outcomes == [Overloaded]


def test_unsent_units_of_a_log_book_that_is_gone_come_out_and_the_others_stay() -> None:
    way, other = Way(), route("others", 8)
    way.tick(b"sent")
    way.send()
    way.lane.add(way.unit(b"a"), way.route)
    way.lane.add(way.unit(b"b"), other)
    way.lane.seal(100.0)
    way.lane.add(way.unit(b"c"), way.route)
    assert [unit.datas for unit in way.lane.unsent_of(way.route)] == [[b"a"], [b"c"]]
    assert said(way.send()) == [(2, [b"b"])]


def test_the_end_tells_everybody_wherever_their_units_are() -> None:
    way = Way()
    way.tick(b"sent")
    way.send()
    way.tick(b"sealed")
    way.lane.add(way.unit(b"open"), way.route)
    way.lane.fail(lambda: Closed("the log"))
    assert [getattr(outcome, "__name__", None) for outcome in way.outcomes] == [
        "AppendUnknown",
        "Closed",
        "Closed",
    ]
    assert way.lane.idle


# --- who leaves again, and in which order ---------------------------------------------------------


def keyed(way: Way, *datas: bytes) -> None:
    """Each in a frame of its own, on its way."""
    for data in datas:
        way.tick(data, key=data.decode())
        way.send()


def left(way: Way) -> list[bytes]:
    return [data for _, payload in said(way.send()) for data in payload]


def test_frames_that_are_lost_at_once_leave_again_in_the_order_of_issue() -> None:
    way = Way()
    keyed(way, b"a", b"b", b"c")
    way.tick(b"later")
    for number in (1, 2, 3):
        way.lane.lose(FrameLost(SPACE, number, "its entry was lost"))
    assert left(way) == [b"a", b"b", b"c", b"later"]


@pytest.mark.parametrize("lost_first", [False, True])
def test_a_frame_that_is_lost_before_refused_ones_leaves_again_before_them(
    lost_first: bool,
) -> None:
    way = Way()
    keyed(way, b"a", b"b", b"c")
    lost = FrameLost(SPACE, 1, "its shard was closed")
    if lost_first:
        way.lane.lose(lost)
    for number in (2, 3):
        way.refuse(number, ReadOnly("the disk is full"))
    if not lost_first:
        way.lane.lose(lost)
    way.lane.resume(10.0)
    assert left(way) == [b"a", b"b", b"c"]


def test_what_a_connection_took_with_it_leaves_again_in_the_order_of_issue() -> None:
    way = Way()
    keyed(way, b"a", b"b", b"c", b"d", b"e")
    way.tick(b"later")
    way.refuse(2, Overloaded(0.1))
    way.refuse(3, Overloaded(0.1))
    way.lane.down("it is gone", [5])
    assert left(way) == [b"a", b"b", b"c", b"d", b"e", b"later"]


def test_a_frame_that_was_lost_twice_keeps_its_place() -> None:
    way = Way()
    keyed(way, b"a", b"b")
    way.lane.lose(FrameLost(SPACE, 1, "lost"))
    way.lane.lose(FrameLost(SPACE, 2, "lost"))
    head = way.lane.head()
    assert head is not None
    frame = way.lane.take_head()
    way.lane.lose(FrameLost(SPACE, frame.number, "lost again"))
    assert left(way) == [b"a", b"b"]


def test_a_unit_for_a_logbook_that_is_gone_is_unanswered_until_it_left_and_came_back() -> None:
    way = Way()
    keyed(way, b"a")
    way.route.live = False
    way.refuse(1, Overloaded(0.1))
    way.lane.resume(10.0)
    assert way.lane.unanswered_to(1)
    (frame,) = way.send()
    assert not way.lane.unanswered_to(frame.number - 1)
