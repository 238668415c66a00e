"""What an engine knows of a `memory` log space when a term begins: it may have started over (P20).

Whether it has, no engine is told; a fold knows, once it has folded an entry of the term.
"""

from __future__ import annotations

from dataclasses import replace
from mmap import mmap

from bokilog.effects import BatchEnded, Effect, Send
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import LogSpaceId, Position
from bokilog.messages import FollowIndex, FrameOrdered, IndexStream, Read, ReadReply
from bokilog.shared_records import BYTES_MIN, SharedReader, SharedWriter
from bokilog.view import View
from tests.unit.functions.engine.world import (
    BOOK,
    CLIENT,
    ENGINE,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    cut,
    opening,
    read,
    reply,
    run,
    view,
)

S1, S2 = STORAGE[:2]
AGAIN = 1000
"""First seqnum of term 2: all replicas were started again, and their folds begin there."""


def of_memory(term: int = 1, *, count: int = 0, tail: int = 1) -> View:
    plain = view(term, end=at(count, term - 1), tail=tail, replicas=STORAGE[:2])
    return replace(plain, spaces=tuple(replace(each, durability="memory") for each in plain.spaces))


def stream(since: Position, position: Position, tail: int, *following: int) -> IndexStream:
    return IndexStream(SPACE, since, position, tail, [], [], [], [], list(following), [])


class Rig(Sim):
    """An engine that knows the records 20, 40 and 60 of tag "t" at position 10 of term 1, and
    shares them with its workers."""

    def __init__(self) -> None:
        memory = mmap(-1, BYTES_MIN)
        writer = SharedWriter(memory, 1)
        super().__init__(EngineCore(EngineSettings(), ENGINE, NUMBER, shared=writer))
        self.shared = SharedReader(memory)
        self.up(PRIMARY, CLIENT, S1, S2)
        self.install(of_memory())
        self.get(PRIMARY, run(0, opening(S1, S2)))
        self.told(at(0), at(9), 90)
        asked = self.passed(read(tag="t"))
        self.do(BatchEnded(0))
        self.told(at(9), at(10), 100, BOOK)
        found = reply(asked, [20, 40, 60], position=at(10), tail=100, next_seqnum=100)
        self.get(self.followed, found)
        self.here(read(2, start=20, until=21))
        assert self.shared.find(SPACE, BOOK, 20) is not None

    @property
    def followed(self) -> object:
        return self.core.following.spaces[SPACE].chosen

    def told(self, since: Position, until: Position, tail: int, *following: int) -> list[Effect]:
        return self.get(self.followed, stream(since, until, tail, *following))

    def passed(self, asked: Read) -> int:
        """The number under which a read goes to the followed replica."""
        (sent,) = self.get(CLIENT, asked)
        assert isinstance(sent, Send) and isinstance(sent.message, Read), sent
        assert sent.to == self.followed
        return sent.message.request

    def here(self, asked: Read) -> ReadReply:
        (sent,) = self.get(CLIENT, asked)
        assert isinstance(sent, Send) and isinstance(sent.message, ReadReply), sent
        return sent.message

    def begin(self) -> None:
        self.install(of_memory(2, count=10, tail=AGAIN))
        self.do(BatchEnded(0))


def test_p20_nothing_from_before_a_term_is_served_in_it() -> None:
    """Sessions of the new term would be told of records that its log space has lost; the stream has
    no hole there."""
    rig = Rig()
    rig.begin()
    rig.told(at(10), at(12, 2), AGAIN, BOOK)
    rig.passed(read(5, tag="t", reverse=True, position=at(12, 2)))
    rig.passed(read(6, start=20, until=21, position=at(12, 2)))
    assert rig.shared.find(SPACE, BOOK, 20) is None
    assert rig.core._cache.bytes_used == 0
    assert rig.core.stats().shared_hits == 1
    assert rig.core.stats().shared_misses == 1


def test_p20_a_fold_of_the_term_before_teaches_nothing() -> None:
    rig = Rig()
    asked = rig.passed(read(4, tag="u"))
    rig.begin()
    late = reply(asked, [21], position=at(10), tail=100, next_seqnum=100)
    assert rig.get(rig.followed, late) == [Send(CLIENT, late._replace(request=4))]
    rig.told(at(10), at(10), 100, BOOK)
    rig.told(at(10), at(12, 2), AGAIN)
    rig.passed(read(5, tag="u"))
    assert rig.core._cache.bytes_used == 0


def test_p20_what_is_told_past_the_begin_of_a_term_is_served_again() -> None:
    rig = Rig()
    rig.begin()
    rig.told(at(10), at(10), 100, BOOK)
    rig.told(at(10), at(12, 2), AGAIN)
    wanted = FollowIndex(SPACE, NUMBER, [BOOK], [])
    assert Send(rig.followed, wanted) in rig.do(BatchEnded(0)), "what it named before is not known"
    rig.told(at(12, 2), at(13, 2), AGAIN + 1, BOOK)
    asked = rig.passed(read(5, tag="t"))
    found = reply(
        asked, [AGAIN], position=at(13, 2), tail=AGAIN + 1, next_seqnum=AGAIN + 1, tags=["t"]
    )
    rig.get(rig.followed, found)
    assert rig.here(read(6, tag="t")).seqnums == [AGAIN]


def test_p20_a_session_of_a_term_that_is_not_heard_of_here_is_answered_by_a_fold() -> None:
    rig = Rig()
    rig.passed(read(5, start=20, until=21, position=at(12, 2)))
    assert rig.here(read(6, tag="t", position=at(9))).seqnums == [20, 40, 60]


def test_p20_a_reply_of_a_later_term_says_that_it_began() -> None:
    """Its reader may look into shared memory next."""
    rig = Rig()
    asked = rig.passed(read(4, tag="u", position=at(12, 2)))
    found = reply(asked, [], position=at(12, 2), tail=AGAIN, next_seqnum=AGAIN)
    sent = rig.get(rig.followed, found)
    assert sent[0] == Send(CLIENT, found._replace(request=4))
    assert rig.shared.find(SPACE, BOOK, 20) is None
    rig.passed(read(5, tag="t"))


def test_p20_a_replica_that_is_still_in_the_term_before_is_followed_once_it_is_past_it() -> None:
    rig = Rig()
    rig.begin()
    rig.told(at(10), at(12, 2), AGAIN)
    rig.do(BatchEnded(0))
    rig.told(at(12, 2), at(12, 2), AGAIN, BOOK)
    rig.told(at(10), at(10), 100, BOOK)
    rig.passed(read(5, tag="t"))
    rig.told(at(10), at(13, 2), AGAIN)
    assert Send(rig.followed, FollowIndex(SPACE, NUMBER, [BOOK], [])) in rig.do(BatchEnded(0))


def test_p20_other_log_spaces_stay_known() -> None:
    """A view begins a term of every log space: it is no reason to ask for everything anew."""
    spaces, other = of_memory(), LogSpaceId(2)
    sync = replace(view().spaces[0], id=other)
    views = [
        replace(
            each,
            spaces=(*each.spaces, sync),
            ends=(*each.ends, replace(view(end=end).ends[0], space=other)),
        )
        for each, end in ((spaces, at(0)), (of_memory(2, count=3, tail=AGAIN), at(10)))
    ]
    sim = Sim()
    sim.up(PRIMARY, CLIENT, S1)
    sim.install(views[0])
    asked = read(1, tag="t", book=8)._replace(space=other)
    (passed,) = sim.get(CLIENT, asked)
    assert isinstance(passed, Send) and isinstance(passed.message, Read)
    found = reply(passed.message.request, [20], position=at(10), tail=100, next_seqnum=100)
    sim.get(S1, found)
    sim.install(views[1])
    (answered,) = sim.get(CLIENT, asked._replace(until=50))
    assert isinstance(answered, Send) and answered.to == CLIENT


def test_p20_own_frames_that_the_term_before_had_ordered_are_not_kept() -> None:
    """They are learned of late, when the end of that term is known (P13)."""
    rig = Rig()
    rig.get(CLIENT, append(0, "t"))
    rig.get(CLIENT, append(1, "t"))
    rig.get(PRIMARY, run(10, cut(100, (0, 1))))
    rig.install(of_memory(2, count=12, tail=AGAIN))
    assert rig.core._cache.bytes_used == 0
    effects = rig.get(PRIMARY, run(11, cut(101, (1, 2))))
    told = [each.message for each in effects if isinstance(each, Send) and each.to == CLIENT]
    assert told == [FrameOrdered(SPACE, 1, 101, at(12), 1000)]
    assert rig.core._cache.bytes_used == 0
