"""P18: storage nodes get every entry; an engine gets what touches its shards, every deletion, and
the position.

An engine that missed a deletion would go on acknowledging appends that nobody will ever see.
"""

from __future__ import annotations

from bokilog.ids import START, Position, Term
from bokilog.messages import Message, MetalogBegins, MetalogPosition, Propose
from bokilog.metalog import Cut, DeleteBook, EndTags, Entry, Hold, Proposer, Release, Trim
from bokilog.sequencer.primary import Primary
from tests.unit.sequencer.rig import BASE, SPACE, TERM, Rig, entries_sent, opened, sent

WHO = Proposer(2, 1)
PROPOSALS: list[Entry] = [
    Trim(0, 7, None, 5, WHO),
    Hold(0, 7, "report", 5, 1000, WHO),
    Release(0, 7, "report", WHO),
    EndTags(0, 7, "$w", WHO),
]


def begins(message: Message) -> bool:
    return isinstance(message, MetalogBegins)


def busy() -> Rig:
    """Two engines, and one of everything that may happen, each in a run of its own."""
    rig = opened(1, 2)
    rig.ordered({1: 3})
    rig.ordered({2: 4})
    for entry in [*PROPOSALS, DeleteBook(0, 7, WHO)]:
        rig.primary.propose("engine-2", Propose(1, SPACE, entry))
        rig.turn()
    return rig


def test_p18_a_storage_node_gets_every_entry() -> None:
    rig = busy()
    served = entries_sent(rig.follow("storage-1", BASE), "storage-1")
    assert [position.count for position, _ in served] == list(range(11, rig.primary.count + 1))


def test_p18_an_engine_gets_its_own_and_every_deletion() -> None:
    rig = busy()
    served = [entry for _, entry in entries_sent(rig.follow("e", BASE, shard=1), "e")]
    cuts = [entry for entry in served if isinstance(entry, Cut)]
    assert [[span.number for span in cut.spans] for cut in cuts] == [[1]]
    assert any(isinstance(entry, DeleteBook) for entry in served)
    assert not any(isinstance(entry, Trim | Hold | Release | EndTags) for entry in served)


def test_p18_an_engine_that_starts_later_hears_of_deletions_of_long_ago() -> None:
    rig = busy()
    served = [entry for _, entry in entries_sent(rig.follow("e", START, shard=3), "e")]
    assert [entry.book for entry in served if isinstance(entry, DeleteBook)] == [7]
    assert len(served) == 1


def test_p18_an_engine_that_starts_later_is_told_where_deletions_may_be_missing() -> None:
    """A sequencer that starts finds none in what it has let go (P16)."""
    rig = busy()
    assert not [each for each in sent(rig.follow("e", START, shard=3), "e") if begins(each)]
    known = rig.primary.holding().metalog.recovered()
    recovered = known._replace(deletions=(), begins_at=15)
    rig.primary = Primary(
        space=rig.primary.space, term=Term(TERM + 1), recovered=recovered, journal=rig.journal
    )
    assert sent(rig.follow("e", START, shard=3), "e")[0] == MetalogBegins(SPACE, 15)
    assert not [each for each in sent(rig.follow("e", BASE, shard=3), "e") if begins(each)]
    assert not [each for each in sent(rig.follow("storage-1", START), "e") if begins(each)]


def test_p18_an_engine_learns_the_position_also_when_nothing_concerns_it() -> None:
    rig = opened(1, 2)
    rig.follow("e", Position(TERM, 12), shard=1)
    rig.held({2: 4})
    assert sent(rig.turn(), "e") == []
    told = [MetalogPosition(SPACE, Position(TERM, 13), 104)]
    assert sent(rig.primary.tell_positions(), "e") == told
