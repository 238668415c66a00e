"""What an engine says of a read by itself: an answer, what it lacks, or nothing."""

from __future__ import annotations

from bokilog.errors import Trimmed, to_wire
from bokilog.facts import Facts
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.local_answers import NOTHING_YET, LocalAnswers, Missing
from bokilog.functions.engine.order import Horizon
from bokilog.ids import START
from bokilog.messages import Read, ReadReply, RequestFailed, SetAux
from tests.unit.functions.engine.world import BOOK, SPACE, at, read, reply

TAIL = 100


class Rig:
    """Follows BOOK at position 10; nothing is known of it yet."""

    def __init__(self) -> None:
        self.facts = Facts(1 << 20)
        self.cache = RecordCache(1 << 20)
        self.local = LocalAnswers(self.facts, self.cache, None)
        self.space = IndexFollower(SPACE, facts=self.facts, horizon=Horizon())
        self.space.books[BOOK] = None
        self.space.following.add(BOOK)
        self.space.position, self.space.tail.seqnum = at(10), TAIL
        self.space.horizon.saw(at(10), TAIL)
        self.facts.follow(BOOK, self.space.tail)

    def learn(self, asked: Read, *seqnums: int, **more: int | bool) -> None:
        fields = {"position": at(10), "tail": TAIL, "next_seqnum": TAIL} | more
        self.local.learn(self.space, asked, reply(1, seqnums, **fields))  # type: ignore[arg-type]
        self.facts.check()

    def answered(self, asked: Read) -> ReadReply:
        found = self.local.answer(self.space, asked)
        assert isinstance(found, ReadReply), found
        return found


def test_what_a_reply_told_is_answered_again_with_its_bytes() -> None:
    rig = Rig()
    assert rig.local.answer(rig.space, read(tag="t")) is None
    rig.learn(read(tag="t"), 20, 40)
    found = rig.answered(read(7, tag="t", limit=1))
    assert (found.request, found.seqnums, found.payload) == (7, [20], [b"data-20"])
    assert (found.more, found.next_seqnum) == (True, 21)
    assert (found.position, found.tail) == (at(10), TAIL)


def test_a_reply_in_reverse_is_a_fact_from_its_last_record_on() -> None:
    rig = Rig()
    rig.learn(read(tag="t", reverse=True, limit=1), 40, next_seqnum=40, more=True)
    assert rig.answered(read(tag="t", start=40)).seqnums == [40]
    assert rig.answered(read(tag="t", reverse=True, limit=1)).seqnums == [40]
    assert rig.local.answer(rig.space, read(tag="t", start=39)) is None


def test_p27_what_leans_on_the_tail_needs_the_position_of_the_token() -> None:
    rig = Rig()
    rig.learn(read(tag="t"), 20)
    later = read(tag="t", position=at(11))
    assert rig.local.answer(rig.space, later) is None
    assert rig.answered(later._replace(until=TAIL)).seqnums == [20]


def test_p27_an_answer_that_does_not_lean_on_the_tail_names_the_furthest_position() -> None:
    rig = Rig()
    rig.learn(read(tag="t"), 20)
    rig.space.horizon.saw(at(12), 130)
    inside = rig.answered(read(tag="t", until=TAIL))
    assert (inside.position, inside.tail) == (at(12), 130)
    at_the_end = rig.answered(read(tag="t"))
    assert (at_the_end.position, at_the_end.tail) == (at(10), TAIL)


def test_p28_nothing_yet_is_said_only_to_who_would_wait() -> None:
    rig = Rig()
    rig.learn(read(tag="t"))
    assert rig.local.answer(rig.space, read(tag="t", wait_ms=50)) is NOTHING_YET
    assert rig.answered(read(tag="t")).seqnums == []
    closed = read(tag="t", wait_ms=50, until=TAIL)  # nothing can come there any more
    assert rig.answered(closed).seqnums == []


def test_p15_p24_whether_one_record_is_absent_or_lost_is_never_said_here() -> None:
    """A scan goes on without what is lost, and so teaches nothing of it."""
    rig = Rig()
    rig.learn(read(), 20)
    assert rig.local.answer(rig.space, read(start=30, until=31)) is None
    assert rig.local.answer(rig.space, read(start=30, until=31, reverse=True)) is None
    assert rig.answered(read(start=30, until=32)).seqnums == []
    assert rig.answered(read(start=20, until=21)).seqnums == [20]
    assert rig.answered(read(start=TAIL, until=TAIL + 1)).seqnums == []  # not ordered yet


def test_what_lacks_its_bytes_is_named_from_there_on_with_what_the_limit_leaves() -> None:
    rig = Rig()
    rig.learn(read(tag="t"), 20)
    rig.facts.learn(BOOK, "t", 20, TAIL, [20, 40, 60])
    found = rig.local.answer(rig.space, read(tag="t", max_bytes=100))
    assert found is not None
    assert isinstance(found, Missing)
    assert (list(found.seqnums), found.budget_bytes) == ([40, 60], 100 - len(b"data-20"))


def test_bytes_that_were_fetched_end_the_page_where_they_end() -> None:
    rig = Rig()
    rig.facts.learn(BOOK, "t", 0, TAIL, [20, 40, 60])
    fetched = reply(1, [20, 40], position=at(10), tail=TAIL, next_seqnum=41)
    extra = rig.local.keep(read(tag="t"), fetched)
    found = rig.local.answer(rig.space, read(tag="t"), extra)
    assert isinstance(found, ReadReply)
    assert (found.seqnums, found.more, found.next_seqnum) == ([20, 40], True, 41)
    assert rig.local.answer(rig.space, read(tag="t", start=41), extra) is None


def test_a_record_is_found_by_its_seqnum_without_facts() -> None:
    rig = Rig()
    one = read(start=20, until=21)
    assert rig.local.answer(rig.space, one) is None
    rig.local.keep(one, reply(1, [20], position=at(10), tail=TAIL, next_seqnum=21))
    assert rig.answered(one).payload == [b"data-20"]
    rig.space.following.clear()  # its trims are not told from now on
    assert rig.local.answer(rig.space, one) is None


def test_nothing_below_a_trim_is_answered() -> None:
    rig = Rig()
    rig.learn(read(tag="t"), 20, 40)
    rig.local.trim(BOOK, None, 30)
    refused = RequestFailed(1, to_wire(Trimmed(30)), START)
    assert rig.local.answer(rig.space, read(tag="t", start=20)) == refused
    assert rig.answered(read(tag="t")).seqnums == [40]


def test_a_part_of_a_record_is_cut_here_and_never_kept() -> None:
    rig = Rig()
    rig.learn(read(tag="t"), 20)
    part = read(tag="t", bytes_start=1, bytes_until=3)
    assert rig.answered(part).payload == [b"at"]
    before = rig.cache.bytes_used
    assert rig.local.keep(part, reply(1, [40], position=at(10), tail=TAIL, next_seqnum=41)) == {}
    assert rig.cache.bytes_used == before


def test_aux_data_comes_with_the_record() -> None:
    rig = Rig()
    rig.learn(read(tag="t"), 20)
    assert rig.answered(read(tag="t")).auxes is None
    rig.local.set_aux(SetAux(1, SPACE, BOOK, 20, b"aux"))
    assert rig.answered(read(tag="t")).auxes == [b"aux"]
