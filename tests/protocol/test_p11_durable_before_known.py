"""P11: entries are held to the class's standard before anybody sees them; ceilings come first.

1. The primary orders records; its disk has not synced the entry.
2. A storage node folds it, an engine acknowledges, and the primary's machine dies.

Were the entry sent at once, the next term would give the same seqnums to other records.
"""

from __future__ import annotations

from bokilog.effects import RaiseCeiling
from bokilog.ids import Position
from bokilog.messages import MetalogPosition, Propose
from bokilog.metalog import Proposer, Trim
from bokilog.sequencer.recovery import recover_metalog
from bokilog.view import first_end
from tests.unit.sequencer.rig import (
    SPACE,
    TERM,
    Rig,
    end,
    entries_sent,
    journalled,
    opened,
    sent,
)

FOLLOWERS = ("storage-1", "engine-1")


def followed() -> Rig:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    rig.follow("engine-1", Position(TERM, 11), shard=1)
    return rig


def test_p11_nobody_sees_an_entry_before_its_sync() -> None:
    rig = followed()
    rig.held({1: 5})
    effects = rig.end_batch()
    assert [sent(effects, to) for to in FOLLOWERS] == [[], []]
    effects = rig.sync()
    assert [len(entries_sent(effects, to)) for to in FOLLOWERS] == [1, 1]


def test_p11_not_even_its_position_is_told() -> None:
    rig = followed()
    rig.held({1: 5})
    rig.end_batch()
    assert rig.follow("engine-2", Position(TERM, 11), shard=2) == rig.follow(
        "engine-2", Position(TERM, 11), shard=2
    )
    told = sent(rig.follow("engine-2", Position(TERM, 11), shard=2), "engine-2")
    assert told == [MetalogPosition(SPACE, Position(TERM, 11), 100)]


def test_p11_what_was_known_survives_and_what_was_not_may_go() -> None:
    rig = followed()
    rig.ordered({1: 5})
    rig.held({1: 9})
    rig.end_batch()
    rig.journal.commit()
    rig.journal.crash()  # before its sync
    assert journalled(rig.journal, end()).end.tail == rig.primary.stats().tail == 105


def test_p11_after_a_lost_metalog_no_seqnum_is_given_again() -> None:
    rig = Rig(durability="flush")
    rig.open(1)
    (ceiling,) = [each for each in rig.turn() if isinstance(each, RaiseCeiling)]
    rig.primary.ceiling_raised(ceiling.seqnum)
    rig.ordered({1: 5000})
    given_until = rig.primary.stats().tail
    rig.journal = type(rig.journal)()  # the whole machine went down
    found = recover_metalog(rig.journal, first_end(SPACE), ceiling=ceiling.seqnum)
    assert found.end.tail >= given_until


def test_p11_trims_wait_for_no_ceiling() -> None:
    """They take no seqnum: what frees the disk is never kept back by a slow one."""
    rig = Rig(durability="flush")
    rig.follow("storage-1")
    rig.primary.propose("engine-1", Propose(1, SPACE, Trim(0, 7, None, 5, Proposer(1, 1))))
    assert len(entries_sent(rig.turn(), "storage-1")) == 1
