"""A metalog as an engine follows it."""

from hypothesis import given, strategies as st

from bokilog.functions.engine.order import ENDS_KEPT, Ends, Horizon, SpaceOrder
from bokilog.ids import START, Position, Term
from bokilog.messages import FollowMetalog
from bokilog.metalog import CloseShard, Entry, Run
from tests.unit.functions.engine.world import NUMBER, SPACE, at


def entry(place: int) -> Entry:
    return CloseShard(place, 99, place)


def run(first: int, until: int, term: int = 1) -> Run:
    return Run(SPACE, Term(term), first, tuple(entry(place) for place in range(first, until)))


def taken(order: SpaceOrder, offered: Run) -> list[tuple[Position, int]]:
    ready = order.offer(offered)
    order.check()
    return [(position, each.timestamp_ms) for position, each in ready]


def order() -> SpaceOrder:
    return SpaceOrder(SPACE, NUMBER)


def test_lite_takes_entries_once_and_skips_what_is_left_out() -> None:
    lite = order()
    assert taken(lite, run(0, 2)) == [(at(1), 0), (at(2), 1)]
    assert taken(lite, run(1, 3)) == [(at(3), 2)]
    assert taken(lite, run(8, 9)) == [(at(9), 8)]
    assert taken(lite, run(4, 5)) == []
    assert lite.follow() == FollowMetalog(SPACE, at(9), NUMBER)


def test_a_published_position_moves_it_forward_only() -> None:
    lite = order()
    lite.seen(at(7))
    lite.seen(at(5))
    assert lite.position == at(7)
    lite.seen(at(7, 2))
    assert lite.position == at(7, 2)


def test_p13_nothing_past_the_end_of_a_term_comes_out() -> None:
    lite = order()
    lite.offer(run(0, 2))
    lite.end_term(Term(1), 3)
    assert taken(lite, run(2, 6)) == [(at(3), 2)]
    lite.seen(at(6))
    assert lite.position == at(3)
    assert taken(lite, run(3, 4, term=2)) == [(at(4, 2), 3)]
    assert taken(lite, run(3, 9)) == []


def test_p11_what_a_class_may_lose_is_not_counted_any_more() -> None:
    lite = order()
    lite.offer(run(0, 5))
    lite.end_term(Term(1), 3)
    assert lite.position == at(3)


def test_catching_up_takes_every_entry_and_waits_for_those_that_are_missing() -> None:
    strict = order()
    strict.offer(run(0, 2))
    strict.catch_up(6)
    assert strict.follow() == FollowMetalog(SPACE, at(2), 0)
    assert taken(strict, run(4, 6)) == []
    strict.seen(at(9))
    assert not strict.caught_up()
    assert taken(strict, run(2, 4)) == [(at(place + 1), place) for place in range(2, 6)]
    assert strict.caught_up() and not strict.catching_up
    assert strict.follow() == FollowMetalog(SPACE, at(6), NUMBER)


def test_catching_up_stops_at_the_end_of_the_term_and_goes_on_in_the_next() -> None:
    strict = order()
    strict.offer(run(0, 2))
    strict.end_term(Term(1), 4)
    strict.catch_up(4)
    assert taken(strict, run(4, 5, term=2)) == []
    assert taken(strict, run(2, 9)) == [(at(3), 2), (at(4), 3), (at(5, 2), 4)]
    assert strict.caught_up()


def test_what_could_not_be_used_comes_again() -> None:
    strict = order()
    strict.catch_up(4)
    strict.offer(run(0, 3))
    strict.rewind(at(1))
    strict.check()
    assert taken(strict, run(0, 3)) == [(at(2), 1), (at(3), 2)]


@given(
    views=st.lists(st.integers(0, 20), max_size=12),
    position=st.builds(Position, st.integers(0, 13).map(Term), st.integers(0, 25)),
)
def test_an_entry_is_past_the_end_if_any_end_since_its_term_lies_before_it(
    views: list[int], position: Position
) -> None:
    ends = Ends()
    for term, count in enumerate(views, 1):
        ends.install(Term(term), count)
    since = [count for term, count in enumerate(views, 1) if term > position.term]
    assert ends.is_past(position) == any(count < position.count for count in since)


def test_of_old_terms_more_counts_as_lost_than_is() -> None:
    ends = Ends()
    for term in range(1, 3 * ENDS_KEPT):
        ends.install(Term(term), 10 * term)
    assert not ends.is_past(at(10, 0)) and ends.is_past(at(11, 0))
    assert ends.is_past(at(11, ENDS_KEPT)), "it is not known any more that it counts"
    newest = Term(3 * ENDS_KEPT - 2)
    assert not ends.is_past(at(10 * newest + 10, newest)) and ends.is_past(at(10**6, newest))


def test_the_horizon_keeps_the_furthest_pair() -> None:
    horizon = Horizon()
    assert (horizon.position, horizon.tail) == (START, 1)
    horizon.saw(at(5), 50)
    horizon.saw(at(4), 40)
    assert (horizon.position, horizon.tail) == (at(5), 50)
