"""What an engine does when a view says that entries it knew were lost, as a class may (P11)."""

from __future__ import annotations

from bokilog.effects import BatchEnded, Effect, Send
from bokilog.messages import FollowIndex, FrameLost, IndexStream, Read, ReadReply
from bokilog.view import View
from tests.unit.functions.engine.world import (
    BOOK,
    CLIENT,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    cut,
    read,
    reply,
    run,
    sends,
    view,
)

S1 = STORAGE[0]


def knowing() -> Sim:
    """At position 10 it knows tag "t" up to the tail, 100, and the bytes of what there is."""
    sim = Sim().start()
    (asked,) = sim.get(CLIENT, read(tag="t"))
    assert isinstance(asked, Send) and isinstance(asked.message, Read)
    found = reply(asked.message.request, [20, 40, 60], position=at(10), tail=100, next_seqnum=100)
    sim.do(BatchEnded(0))
    sim.get(S1, found)
    sim.get(S1, IndexStream(SPACE, at(10), at(10), 100, [], [], [], [], [BOOK], []))
    (answered,) = sim.get(CLIENT, read(tag="t"))
    assert isinstance(answered, Send) and isinstance(answered.message, ReadReply)
    return sim


def test_p13_facts_and_records_past_the_end_are_not_served_any_more() -> None:
    sim = knowing()
    sim.install(view(2, end=at(8), tail=1000))
    (passed,) = sim.get(CLIENT, read(5, tag="t"))
    assert isinstance(passed, Send) and passed.to == S1, "whoever folded the metalog anew knows"
    (passed,) = sim.get(CLIENT, read(6, start=60, until=61))
    assert isinstance(passed, Send) and passed.to == S1
    assert sim.core._cache.bytes_used == 0


def test_p27_log_books_are_followed_anew() -> None:
    """Facts that were closed by this must open again, or a read that waits would never be woken."""
    sim = knowing()
    sim.get(CLIENT, read(4, tag="t", start=61, wait_ms=1000))
    effects = sim.install(view(2, end=at(8), tail=1000))
    again = [each for each in sends(effects, S1) if isinstance(each, Send)]
    assert [type(each.message) for each in again if isinstance(each.message, Read)] == [Read]
    told = sends(sim.do(BatchEnded(0)), S1)
    assert told == [Send(S1, FollowIndex(SPACE, NUMBER, [BOOK], []))]


def test_what_lies_before_the_end_stays_known() -> None:
    sim = knowing()
    sim.install(view(2, end=at(10), tail=100))
    (answered,) = sim.get(CLIENT, read(5, tag="t"))
    assert isinstance(answered, Send) and answered.to == CLIENT


def test_p11_a_frame_whose_order_was_lost_waits_for_no_verdict() -> None:
    """No replica will ever fold it: its client would wait until its timeout."""
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a", unless={0: [("a", 0)]}))
    sim.get(CLIENT, append(1, "b", unless={0: [("b", 0)]}))
    sim.get(PRIMARY, run(1, cut(50, (0, 1))))
    sim.get(PRIMARY, run(2, cut(51, (1, 2))))
    told = sends(sim.install(view(2, end=at(2), tail=1000)), CLIENT)
    lost = FrameLost(SPACE, 1, "the entry that ordered it was lost")
    assert told == [Send(CLIENT, lost)], "the first one is before the end"


# --- a later term is heard of before its view is here ---------------------------------------------


def flush_view(term: int, *, end: int) -> View:
    return view(term, end=at(end), tail=1000, durability="flush")


def knowing_flush() -> Sim:
    """The same of a log space of class `flush`."""
    sim = Sim().start()
    sim.install(flush_view(2, end=0))
    (asked,) = sim.get(CLIENT, read(tag="t"))
    sim.do(BatchEnded(0))
    sim.get(S1, IndexStream(SPACE, at(9, 2), at(10, 2), 100, [], [], [], [], [BOOK], []))
    assert isinstance(asked, Send) and isinstance(asked.message, Read)
    found = reply(asked.message.request, [20], position=at(10, 2), tail=100, next_seqnum=100)
    sim.get(S1, found)
    assert is_answered(sim.get(CLIENT, read(tag="t")))
    return sim


def is_answered(effects: list[Effect]) -> bool:
    (effect,) = effects
    assert isinstance(effect, Send)
    return effect.to == CLIENT


def streamed(sim: Sim, count: int, term: int, tail: int, *, following: bool = False) -> None:
    books = [BOOK] if following else []
    position = at(count, term)
    sim.get(S1, IndexStream(SPACE, position, position, tail, [], [], [], [], books, []))
    sim.do(BatchEnded(0))


def tell_of_what_is_lost(sim: Sim) -> None:
    """A storage node that still stands at entry 10 of term 2 answers a read, and streams."""
    sim.do(BatchEnded(0))
    (passed,) = sim.get(CLIENT, read(5, tag="t"))
    assert isinstance(passed, Send) and isinstance(passed.message, Read)
    streamed(sim, 10, 2, 100, following=True)
    request = passed.message.request
    sim.get(S1, reply(request, [20], position=at(10, 2), tail=100, next_seqnum=100))


def test_p11_nothing_is_served_between_a_later_term_and_its_view() -> None:
    """What is known may be of entries that the term before has lost (simulator, seed 16)."""
    sim = knowing_flush()
    streamed(sim, 8, 3, 1000)
    assert not is_answered(sim.get(CLIENT, read(5, tag="t")))
    sim.install(flush_view(3, end=8))
    assert not is_answered(sim.get(CLIENT, read(6, tag="t"))), "it was known up to 10"


def test_p11_what_a_later_term_has_kept_is_served_once_its_view_is_here() -> None:
    sim = knowing_flush()
    streamed(sim, 10, 3, 100)
    assert not is_answered(sim.get(CLIENT, read(5, tag="t")))
    sim.install(flush_view(3, end=10))
    assert is_answered(sim.get(CLIENT, read(6, tag="t")))


def test_p11_a_later_term_may_end_before_the_one_before_it_did() -> None:
    """Its sequencer lost power as it began: what was within the first end is lost all the same
    (simulator, seed 225)."""
    sim = knowing_flush()
    streamed(sim, 8, 4, 1000)
    sim.install(flush_view(3, end=10))
    sim.install(flush_view(4, end=8))
    assert not is_answered(sim.get(CLIENT, read(5, tag="t")))


def test_p11_what_is_told_late_counts_by_every_end_since() -> None:
    """A storage node that hears of no view for a while tells of entries that the order has not any
    more, though it is longer than they were by now."""
    sim = knowing_flush()
    sim.install(flush_view(3, end=8))
    sim.install(flush_view(4, end=12))
    tell_of_what_is_lost(sim)
    assert not is_answered(sim.get(CLIENT, read(6, tag="t")))


def test_p11_a_session_that_has_met_a_later_term_is_not_answered_from_before_it() -> None:
    sim = knowing_flush()
    assert not is_answered(sim.get(CLIENT, read(5, tag="t", position=at(8, 3))))
    assert is_answered(sim.get(CLIENT, read(6, tag="t", position=at(9, 2))))


def test_p11_a_fold_that_stands_past_the_end_tells_nothing_that_counts() -> None:
    """Its storage node has not heard of the end yet, and names LogBooks as before."""
    sim = knowing_flush()
    sim.install(flush_view(3, end=8))
    tell_of_what_is_lost(sim)
    assert not is_answered(sim.get(CLIENT, read(6, tag="t")))
    streamed(sim, 8, 2, 15)
    streamed(sim, 9, 3, 1000, following=True)
    (passed,) = sim.get(CLIENT, read(7, tag="t"))
    assert isinstance(passed, Send) and isinstance(passed.message, Read)
    request = passed.message.request
    sim.get(S1, reply(request, [], position=at(9, 3), tail=1000, next_seqnum=1000))
    assert is_answered(sim.get(CLIENT, read(8, tag="t")))
