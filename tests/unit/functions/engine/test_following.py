"""Which storage node's index is followed, and when what it told counts no more."""

from __future__ import annotations

from dataclasses import replace

from bokilog.effects import Send
from bokilog.facts import UNKNOWN, Facts
from bokilog.functions.engine.cache import CachedRecord, RecordCache
from bokilog.functions.engine.following import Following
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import START, NodeId, Position, Term
from bokilog.messages import FollowIndex
from bokilog.record import Durability
from bokilog.view import View
from tests.unit.functions.engine.world import BOOK, ENGINE, NUMBER, SPACE, STORAGE, at, view

S1, S2, S3 = STORAGE


class Rig:
    """An engine's storage nodes; none is connected before it is said."""

    def __init__(self, *up: NodeId, node: NodeId = ENGINE) -> None:
        self.links = Links()
        self.facts = Facts(1 << 20)
        self.cache = RecordCache(1 << 20)
        self.horizon = Horizon()
        self.following = Following(
            settings=EngineSettings(followed_books_max=2),
            node=node,
            number=NUMBER,
            links=self.links,
            facts=self.facts,
            cache=self.cache,
            published=None,
        )
        for peer in up:
            self.links.went_up(peer)

    def install(
        self,
        *replicas: NodeId,
        term: int = 1,
        durability: Durability = "sync",
        end: Position = START,
        tail: int = 1,
    ) -> list[IndexFollower]:
        new: View = view(term, replicas=replicas or STORAGE, end=end, tail=tail)
        of = replace(new.spaces[0], durability=durability)
        anew = self.following.install(new, of, self.horizon)
        self.following.check()
        return anew

    @property
    def space(self) -> IndexFollower:
        return self.following.spaces[SPACE]

    def knows(self) -> bool:
        """Whether the facts of BOOK and its cached record are still there."""
        known = self.facts.range(BOOK, "t", start=0, until=10, limit=1)
        assert (known is UNKNOWN) == (self.cache.find(SPACE, 5) is None)
        return known is not UNKNOWN

    def chosen(self) -> NodeId | None:
        return self.space.chosen

    def due(self) -> tuple[bool, bool]:
        """Whether anything is to be asked for at the end of the batch, and whether verdicts are."""
        return self.following.due, self.following.verdicts_due

    def learn(self) -> None:
        self.space.want(BOOK)
        self.facts.learn(BOOK, "t", 0, 10, [5])
        self.cache.add_records(SPACE, [5], [CachedRecord(BOOK, b"x", "t", 1)])


def test_a_view_is_followed_as_far_as_a_replica_is_connected() -> None:
    rig = Rig()
    assert rig.install() == [rig.space]
    assert rig.chosen() is None
    rig.links.went_up(S2)
    assert rig.following.link_up(S2) == [rig.space]
    assert rig.chosen() == S2
    rig.links.went_up(S1)
    assert rig.following.link_up(S1) == []  # it goes on with the one it has
    assert rig.install(term=2) == []


def test_a_new_link_to_the_followed_replica_is_followed_anew() -> None:
    rig = Rig(S1)
    rig.install()
    assert rig.following.link_up(S1) == [rig.space]
    assert rig.following.chosen_anew() == {SPACE}
    assert rig.following.chosen_anew() == set()


def test_another_one_takes_the_place_of_one_that_is_gone_or_no_replica_any_more() -> None:
    rig = Rig(*STORAGE)
    rig.install()
    first = rig.space.chosen
    assert first is not None
    rig.links.went_down(first)
    assert rig.following.link_down(first) == [rig.space]
    second = rig.space.chosen
    assert second is not None
    assert second != first
    (third,) = set(STORAGE) - {first, second}
    assert rig.following.link_down(third) == []
    assert rig.install(third, term=2) == [rig.space]
    assert rig.space.chosen == third


def test_engines_are_spread_over_the_replicas() -> None:
    chosen = set()
    for number in range(20):
        rig = Rig(*STORAGE, node=NodeId(f"engine-{number}"))
        rig.install()
        chosen.add(rig.space.chosen)
    assert chosen == set(STORAGE)


def test_p32_who_lags_is_given_up_for_the_next_and_comes_last_until_it_is_back() -> None:
    rig = Rig(S1, S2)
    rig.install()
    first = rig.space.chosen
    assert first is not None
    (second,) = {S1, S2} - {first}
    assert rig.following.give_up(rig.space) == [Send(first, FollowIndex(SPACE, NUMBER, [], []))]
    assert rig.space.chosen == second
    rig.following.give_up(rig.space)
    assert rig.space.chosen == first  # left longer ago
    rig.following.link_up(second)
    assert rig.space.chosen == first
    rig.links.went_down(second)
    assert rig.following.give_up(rig.space) is None  # nobody else is there


def test_p20_a_term_of_class_memory_forgets_what_is_known() -> None:
    rig = Rig(S1)
    rig.install(durability="memory")
    rig.learn()
    assert rig.knows()
    assert rig.following.meet(rig.space, Term(2))
    assert not rig.knows()
    assert not rig.space.settled
    assert not rig.following.meet(rig.space, Term(2))
    assert rig.install(term=2, durability="memory") == []


def test_p20_what_is_told_counts_once_the_replica_folds_the_term() -> None:
    rig = Rig(S1)
    rig.install(durability="memory")
    rig.following.meet(rig.space, Term(2))
    rig.following.chosen_anew()
    assert not rig.following.settle(rig.space, at(9, 1))
    assert rig.following.chosen_anew() == set()
    assert rig.following.settle(rig.space, at(10, 2))
    assert rig.space.settled
    assert rig.following.chosen_anew() == {SPACE}


def test_other_classes_keep_what_they_know_in_the_next_term() -> None:
    rig = Rig(S1)
    rig.install()
    rig.learn()
    assert not rig.following.meet(rig.space, Term(2))
    assert rig.install(term=2) == []
    assert rig.knows()


def test_p13_what_a_view_says_was_lost_is_forgotten() -> None:
    rig = Rig(S1)
    rig.install()
    rig.learn()
    rig.horizon.saw(at(7, 1), 20)
    assert rig.install(term=2, end=at(5, 1), tail=10) == [rig.space]
    assert not rig.knows()


def test_a_replica_is_told_at_the_end_of_the_batch_what_is_wanted() -> None:
    rig = Rig(S1)
    rig.install()
    rig.following.end_batch({}, set())
    assert rig.due() == (False, False)
    rig.space.want(BOOK)
    assert rig.due() == (True, False)
    assert rig.following.end_batch({}, set()) == [
        Send(rig.space.chosen, FollowIndex(SPACE, NUMBER, [BOOK], []))
    ]
    assert rig.following.end_batch({}, set()) == []


def test_logbooks_that_somebody_waits_on_stay_when_there_are_too_many() -> None:
    rig = Rig(S1)
    rig.install()
    for book in (1, 2, 3):
        rig.space.want(book)
    told = FollowIndex(SPACE, NUMBER, [1, 3], [])
    assert rig.following.end_batch({}, {1}) == [Send(S1, told)]


def test_p23_verdicts_are_asked_for_when_they_are_due() -> None:
    rig = Rig(S1)
    rig.install()
    rig.following.end_batch({}, set())
    assert rig.due() == (False, False)
    rig.space.want_verdicts()
    assert rig.due() == (True, True)
    rows = [[1, NUMBER, 0, 20]]
    assert rig.following.end_batch({SPACE: rows}, set()) == [
        Send(S1, FollowIndex(SPACE, NUMBER, [], rows))
    ]
