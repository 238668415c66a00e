"""Frames from their LocalIds to the end of what is told of them."""

from __future__ import annotations

from bokilog.effects import Effect, Send
from bokilog.errors import NotReady, ReadOnly, to_wire
from bokilog.functions.engine.admission import Admission
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.deletions import Deletions
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.taken import Taken
from bokilog.functions.engine.under_way import UnderWay
from bokilog.ids import Term
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    AppendFrame,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    ResumeShard,
    ShardHeld,
)
from bokilog.metalog import Lost
from tests.unit.functions.engine.world import (
    BOOK,
    BULK,
    CLIENT,
    ENGINE,
    NUMBER,
    SPACE,
    STORAGE,
    append,
    at,
    shard,
    short,
)


class Rig:
    """In term 1, with an open shard on one storage node."""

    def __init__(self) -> None:
        self.links = Links()
        self.links.went_up(BULK[0])
        self.cache = RecordCache(1 << 20)
        self.deletions = Deletions()
        self.admission = Admission(SPACE, node=ENGINE, settings=EngineSettings(), horizon=Horizon())
        self.under_way = UnderWay(
            SPACE,
            number=NUMBER,
            links=self.links,
            cache=self.cache,
            admission=self.admission,
            deletions=self.deletions,
        )
        self.begin(1, 0)
        self.under_way.opened(STORAGE[:1])

    def begin(self, term: int, count: int) -> list[Effect]:
        """The view of a term, whose predecessor ended at this entry, and is caught up with."""
        effects = self.under_way.end_term(Term(term), count)
        self.under_way.begin_term()
        self.under_way.check(closed=False)
        return effects

    def take(self, message: AppendFrame, client: int = CLIENT) -> Taken:
        taken = self.admission.take(client, message)
        assert isinstance(taken, Taken)
        return taken

    def issue(self, message: AppendFrame, client: int = CLIENT) -> list[object]:
        effects: list[Effect] = []
        self.under_way.issue(self.take(message, client), effects)
        self.under_way.check(closed=False)
        return short(effects)

    def order(self, until: int, seqnum: int, position: int = 2, term: int = 1) -> list[Effect]:
        effects: list[Effect] = []
        self.under_way.order(until, seqnum, at(position, term), 1000, effects)
        self.under_way.check(closed=False)
        return effects


def ordered(number: int, seqnum: int, position: int = 2, client: int = CLIENT) -> Send:
    return Send(client, FrameOrdered(SPACE, number, seqnum, at(position), 1000))


def lost(number: int, reason: str) -> Send:
    return Send(CLIENT, FrameLost(SPACE, number, reason))


def conditional(number: int) -> AppendFrame:
    return append(number, "a", unless={0: [("a", 0)]})


def test_records_get_localids_without_a_hole_and_leave_at_once() -> None:
    rig = Rig()
    assert rig.issue(append(1, "a", "b")) == [(BULK[0], shard(), 0, 2)]
    assert rig.issue(append(2, "c")) == [(BULK[0], shard(), 2, 3)]


def test_a_cut_orders_whole_frames_and_its_clients_learn_their_seqnums() -> None:
    rig = Rig()
    rig.issue(append(1, "a", "b"))
    rig.issue(append(1, "c"), client=2)
    rig.issue(append(2, "d"))
    assert rig.order(3, 10) == [ordered(1, 10), ordered(1, 12, client=2)]
    assert (rig.under_way.ordered_count, rig.under_way.count) == (3, 4)
    assert rig.admission.frames == 1
    assert rig.cache.find_visible(SPACE, BOOK, 12) is not None
    assert rig.under_way.any_left


def test_p20_what_an_earlier_term_ordered_is_not_kept_for_readers() -> None:
    rig = Rig()
    rig.issue(append(1, "a"))
    rig.under_way.end_term(Term(2), 5)
    assert rig.order(1, 10) == [ordered(1, 10)]
    assert rig.cache.bytes_used == 0


def test_p4_a_term_numbers_what_is_unordered_anew_before_what_waits() -> None:
    rig = Rig()
    rig.issue(append(1, "a"))
    rig.issue(append(2, "b", "c"))
    rig.order(1, 10)
    rig.under_way.waiting.append(rig.take(append(3, "d")))
    rig.begin(2, 5)
    rig.under_way.opened(STORAGE[:1])
    assert short(rig.under_way.issue_waiting()) == [
        (BULK[0], shard(2), 0, 2),
        (BULK[0], shard(2), 2, 3),
    ]
    assert not rig.under_way.waiting


def test_p8_a_replica_gets_what_it_lacks_past_the_first_unordered() -> None:
    rig = Rig()
    for number in (1, 2, 3):
        rig.issue(append(number, "a"))
    rig.order(1, 10)
    assert rig.under_way.replicas.link_up(BULK[0]) == [Send(BULK[0], ResumeShard(shard()))]
    assert short(rig.under_way.held(BULK[0], ShardHeld(shard(), 0))) == [
        (BULK[0], shard(), 1, 2),
        (BULK[0], shard(), 2, 3),
    ]
    assert rig.under_way.held(BULK[0], ShardHeld(shard(2), 0)) == []
    rig.begin(2, 5)
    assert rig.under_way.resent_count == 2  # counted on over the terms


def test_p22_verdicts_are_told_after_the_order_whichever_comes_first() -> None:
    rig = Rig()
    failed = [[0, VERDICT_CONDITION_FAILED, "a", 3]]
    rig.issue(conditional(1))
    rig.issue(conditional(2))
    assert rig.under_way.verdicts([[1, NUMBER, 0, failed]]) == []
    first, second = (Send(CLIENT, FrameVerdicts(SPACE, number, at(2), failed)) for number in (1, 2))
    assert rig.order(2, 10) == [ordered(1, 10), first, ordered(2, 11)]
    assert len(rig.under_way.awaited) == 1
    assert rig.under_way.verdicts([[1, NUMBER, 1, failed]]) == [second]
    assert not rig.under_way.any_left
    assert rig.cache.find_visible(SPACE, BOOK, 11) is None


def test_p5_units_of_a_deleted_logbook_are_told_to_be_void_before_the_order() -> None:
    rig = Rig()
    rig.deletions.add(BOOK, 1)
    rig.issue(append(1, "a", "b", books=[BOOK, 8]))
    void = FrameVerdicts(SPACE, 1, at(2), [[0, VERDICT_BOOK_DELETED, 0, 0]])
    assert rig.order(2, 10) == [Send(CLIENT, void), ordered(1, 10)]
    assert rig.cache.find_visible(SPACE, BOOK, 10) is None
    assert rig.cache.find_visible(SPACE, 8, 11) is not None


def test_p7_a_full_disk_leaves_nobody_knowing_and_what_has_no_localids_untaken() -> None:
    rig = Rig()
    rig.issue(append(1, "a"))
    rig.under_way.waiting.append(rig.take(append(2, "b")))
    error = ReadOnly("the disk is full")
    assert rig.under_way.read_only("the disk is full", error) == [
        lost(1, "the disk is full"),
        Send(CLIENT, FrameRefused(SPACE, 2, to_wire(error))),
    ]
    assert rig.order(1, 10) == []  # it is ordered after all; its client was told that nobody knows
    assert rig.under_way.lost_count == 1


def test_p2_past_the_count_of_a_closed_shard_nothing_happened() -> None:
    rig = Rig()
    rig.issue(append(1, "a"))
    rig.issue(append(2, "b"))
    error = NotReady("a newer start")
    assert rig.under_way.close(1, error) == [
        lost(1, "the entry that ordered it did not arrive"),
        Send(CLIENT, FrameRefused(SPACE, 2, to_wire(error))),
    ]
    assert not rig.under_way.any_left
    rig.under_way.check(closed=True)


def test_frames_whose_place_cannot_be_known_are_not_sent_again() -> None:
    rig = Rig()
    for number in (1, 2, 3):
        rig.issue(append(number, "a"))
    reason = "the entry that ordered it is not kept any more"
    assert rig.under_way.give_up(2) == [lost(1, reason), lost(2, reason)]
    rig.under_way.check(closed=False)
    assert rig.order(3, 12) == [ordered(3, 12)]


def test_p11_verdicts_of_what_was_ordered_past_the_end_never_come() -> None:
    rig = Rig()
    rig.issue(conditional(1))
    rig.issue(conditional(2))
    rig.order(1, 10, position=2)
    rig.order(2, 11, position=3)
    assert rig.begin(2, 2) == [lost(2, "the entry that ordered it was lost")]
    assert [taken.number for taken in rig.under_way.awaited] == [1]


def test_p24_verdicts_of_lost_records_never_come() -> None:
    rig = Rig()
    rig.issue(conditional(1))
    rig.order(1, 10)
    effects: list[Effect] = []
    rig.under_way.lost(Lost(1000, 1, NUMBER, 0, 1), effects)
    assert effects == [lost(1, "no replica has it any more")]
    assert not rig.under_way.any_left


def test_what_a_client_that_is_gone_appended_is_ordered_and_nobody_is_told() -> None:
    rig = Rig()
    rig.issue(append(1, "a"))
    rig.issue(append(1, "b"), client=2)
    rig.under_way.forget_client(CLIENT)
    assert rig.order(2, 10) == [ordered(1, 11, client=2)]
