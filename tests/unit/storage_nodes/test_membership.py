"""Who is asked and told depends on the view and on the links."""

from __future__ import annotations

from dataclasses import replace

from bokilog.ids import NodeId, Term
from bokilog.storage_nodes.membership import Membership
from tests.protocol.storage_rig import NODE, OTHER, PEER, SPACE, view

SPARE = NodeId("storage-9")


def membership(node: NodeId = NODE) -> Membership:
    return Membership(node, view().space(SPACE))


def test_only_connected_replicas_are_asked_and_never_this_node() -> None:
    found = membership()
    assert found.connected() == [] and found.others == [PEER, OTHER]
    found.peers_up |= {OTHER, PEER, NODE, SPARE}
    assert found.connected() == [PEER, OTHER]


def test_p33_a_spare_is_no_member_until_a_view_names_it() -> None:
    found = membership(SPARE)
    before = found.is_member
    found.install(replace(found.space, replicas=(SPARE, PEER, OTHER)), Term(2))
    assert (before, found.is_member) == (False, True)
    assert found.term == 2 and found.others == [PEER, OTHER]


def test_a_replica_without_others_is_alone() -> None:
    found = membership()
    before = found.is_alone
    found.install(replace(found.space, replicas=(NODE,), write_quorum=1), Term(2))
    assert (before, found.is_alone) == (False, True) and found.others == []
