"""What the oracle lets a log space lose, and what not."""

from __future__ import annotations

from bokilog.ids import Term
from bokilog.record import Durability
from bokilog.storage_nodes.fold import FrameOutcome
from tests.protocol.storage_rig import BOOK, SPACE, at, cut, frame, opening
from tests.sim.loop import World
from tests.sim.oracle import SpaceOracle


class Told:
    """An oracle that was told of an opening and of records 1 to 3, one entry each."""

    def __init__(self, durability: Durability, *, may_lack: bool) -> None:
        self.world = World(1)
        self.oracle = SpaceOracle(
            SPACE,
            self.world,
            lambda frame: frame,
            durability=durability,
            may_lack=lambda of: may_lack,
        )
        self.oracle.view_stored(Term(1), 0, 1)
        self.oracle.other("a", at(1), opening(), [], 0)
        for place in range(3):
            self.order(place)

    def order(self, place: int, *, lost: bool = False) -> None:
        """The entry of record `place` + 1 is folded, around it if it is lost."""
        entry = cut(place + 1, place, place + 1)
        frames = [] if lost else [frame(place)]
        if lost:
            self.oracle.skipped("b", at(place + 2), [(place + 1, 1)])
        outcomes = [FrameOutcome(place + 1, each, [], ()) for each in frames]
        self.oracle.cut("b", at(place + 2), entry, frames, outcomes, 0)

    @property
    def visible(self) -> list[int]:
        timeline = self.oracle.timeline(BOOK)
        return [seen.seqnum for seen in timeline.visible(None, 0, 99, self.oracle.count)]


def test_records_without_a_copy_are_lost_and_those_behind_them_stay() -> None:
    told = Told("memory", may_lack=True)
    told.order(1, lost=True)
    told.order(2)
    assert told.world.violations == []
    assert told.visible == [1, 3]
    assert told.oracle.lost[0].timeline(BOOK).record(2) is not None
    assert told.oracle.met(at(4)) == 4, "positions stay what they were"


def test_who_folds_what_is_lost_all_the_same_is_found() -> None:
    told = Told("memory", may_lack=True)
    told.order(1, lost=True)
    told.order(1)
    assert told.world.violations != []


def test_nothing_is_lost_of_which_there_is_a_copy() -> None:
    durabilities: tuple[Durability, ...] = ("sync", "flush", "memory")
    for durability in durabilities:
        told = Told(durability, may_lack=False)
        told.order(1, lost=True)
        assert told.world.violations != []
