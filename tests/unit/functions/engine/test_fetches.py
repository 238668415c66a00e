"""Bytes on their way: who is asked, and who shares an answer."""

from __future__ import annotations

from itertools import count

from bokilog.effects import Effect, Send
from bokilog.facts import Facts
from bokilog.functions.engine.fetches import SPREAD_SEQNUMS, Fetches
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.local_answers import Missing
from bokilog.functions.engine.order import Horizon
from bokilog.messages import Read
from tests.unit.functions.engine.world import CLIENT, SPACE, STORAGE, at, read

S1, S2, S3 = STORAGE


class Rig:
    """Three replicas of which two are connected."""

    def __init__(self) -> None:
        self.links = Links()
        self.links.went_up(S1)
        self.links.went_up(S2)
        self.space = IndexFollower(SPACE, facts=Facts(0), horizon=Horizon())
        self.space.replicas = STORAGE
        self.space.horizon.saw(at(12), 100)
        self.fetches = Fetches(links=self.links, ids=count(1))

    def fetch(
        self, asked: Read, *seqnums: int, budget_bytes: int = 1000, client: int = CLIENT
    ) -> list[Effect] | None:
        missing = Missing(list(seqnums), budget_bytes)
        effects = self.fetches.fetch(self.space, client, asked, missing, 0.0)
        self.fetches.check()
        return effects


def test_one_read_asks_for_all_that_is_missing_at_the_furthest_position() -> None:
    rig = Rig()
    asked = read(77, tag="t", wait_ms=50, limit=10, position=at(3))
    wanted = asked._replace(
        request=1, start=20, until=61, limit=3, max_bytes=1000, position=at(12), wait_ms=0
    )
    assert rig.fetch(asked, 20, 40, 60) == [Send(S1, wanted)]
    assert (rig.fetches.count, rig.fetches.waiting) == (1, 1)


def test_a_page_in_reverse_names_the_same_range() -> None:
    rig = Rig()
    effects = rig.fetch(read(77, tag="t", reverse=True), 60, 40, 20)
    assert effects is not None
    (sent,) = effects
    assert isinstance(sent, Send) and isinstance(sent.message, Read)
    assert (sent.message.start, sent.message.until, sent.message.reverse) == (20, 61, True)


def test_who_lacks_the_same_records_waits_for_the_same_answer() -> None:
    rig = Rig()
    rig.fetch(read(1, tag="t"), 20, 40)
    assert rig.fetch(read(2, tag="t"), 20, 40, client=2) == []
    (fetch,) = rig.fetches.by_request.values()
    assert fetch.waiters == [(CLIENT, read(1, tag="t")), (2, read(2, tag="t"))]


def test_another_limit_of_bytes_is_another_fetch() -> None:
    rig = Rig()
    rig.fetch(read(1, tag="t"), 20, 40)
    assert rig.fetch(read(2, tag="t"), 20, 40, budget_bytes=10) != []
    first, second = rig.fetches.by_request.values()
    rig.fetches.drop(first)
    rig.fetches.check()
    assert rig.fetch(read(3, tag="t"), 20, 40, budget_bytes=10) == []
    assert len(second.waiters) == 2


def test_a_read_for_which_nothing_is_left_asks_for_a_byte() -> None:
    effects = Rig().fetch(read(1, tag="t"), 20, budget_bytes=-5)
    assert effects is not None
    assert isinstance(effects[0], Send) and isinstance(effects[0].message, Read)
    assert effects[0].message.max_bytes == 1


def test_neighbours_come_from_one_replica_and_the_next_ones_from_the_next() -> None:
    rig = Rig()
    nodes = []
    for first in (0, SPREAD_SEQNUMS - 1, SPREAD_SEQNUMS, 2 * SPREAD_SEQNUMS):
        (effect,) = rig.fetch(read(1, tag="t"), first) or []
        assert isinstance(effect, Send)
        nodes.append(effect.to)
    assert nodes == [S1, S1, S2, S1]


def test_parts_of_records_and_reads_without_a_replica_are_not_fetched() -> None:
    rig = Rig()
    assert rig.fetch(read(1, tag="t", bytes_start=0), 20) is None
    rig.links.went_down(S1)
    rig.links.went_down(S2)
    assert rig.fetch(read(1, tag="t"), 20) is None


def test_a_client_that_is_gone_waits_no_more_but_the_bytes_still_come() -> None:
    rig = Rig()
    rig.fetch(read(1, tag="t"), 20)
    rig.fetches.forget_client(CLIENT)
    assert rig.fetches.waiting == 0
    (fetch,) = rig.fetches.of(S1)
    rig.fetches.drop(fetch)
    assert rig.fetches.of(S1) == []
