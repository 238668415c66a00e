"""A view answers by name, refuses what cannot be, and places LogBooks for ever (P5)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import xxhash

from bokilog.errors import InvalidSettings
from bokilog.ids import START, SYSTEM_BOOK, BookNumber, LogSpaceId, NodeId, Position, Term
from bokilog.io.view_store import decode_view, encode_view
from bokilog.record import Durability
from bokilog.view import End, LogSpace, Node, View, first_end

SEQUENCER = NodeId("sequencer-1")
STORAGE = tuple(NodeId(f"storage-{number}") for number in (1, 2, 3))


def space(number: int, durability: Durability = "sync") -> LogSpace:
    return LogSpace(
        id=LogSpaceId(number),
        durability=durability,
        primary=SEQUENCER,
        replicas=STORAGE,
        write_quorum=2,
    )


VIEW = View(
    cluster_id="c1",
    history_id="h1",
    term=Term(3),
    nodes=(Node(id=SEQUENCER, role="sequencer", address="unix:/s"),),
    spaces=(space(0), space(1), space(2, "flush")),
    ends=(
        End(space=LogSpaceId(0), position=Position(Term(2), 9), tail=40, timestamp_ms=500),
        End(space=LogSpaceId(1), position=Position(Term(2), 4), tail=7, timestamp_ms=900),
    ),
)


def test_everything_is_found_by_its_name() -> None:
    assert VIEW.node(SEQUENCER) is VIEW.nodes[0]
    assert VIEW.space(LogSpaceId(1)) is VIEW.spaces[1]
    assert VIEW.end(LogSpaceId(1)) is VIEW.ends[1]


def test_what_the_view_does_not_know_is_named() -> None:
    with pytest.raises(LookupError, match="storage-9 is no node of the view of term 3"):
        VIEW.node(NodeId("storage-9"))
    with pytest.raises(LookupError, match="log space 9 is not in the view of term 3"):
        VIEW.space(LogSpaceId(9))
    with pytest.raises(LookupError, match="log space 2 has no end in the view of term 3"):
        VIEW.end(LogSpaceId(2))


def test_p10_a_term_begins_no_earlier_than_any_log_space_ended() -> None:
    assert VIEW.end_timestamp_ms == 900
    assert replace(VIEW, ends=()).end_timestamp_ms == 0


def test_p05_a_logbook_stays_in_its_log_space() -> None:
    places = [VIEW.space_of("sync", BookNumber(number)) for number in (1, 2, 3, 4)]
    assert places == [1, 0, 1, 0]
    assert VIEW.space_of("flush", BookNumber(5)) == 2
    assert VIEW.space_of("sync", SYSTEM_BOOK) == VIEW.space_of("flush", SYSTEM_BOOK) == 0


def test_a_class_without_a_log_space_is_an_error() -> None:
    with pytest.raises(InvalidSettings, match="durability=memory"):
        VIEW.space_of("memory", BookNumber(5))


@pytest.mark.parametrize("quorum", [0, 4, -1])
def test_a_write_quorum_is_one_to_all_replicas(quorum: int) -> None:
    with pytest.raises(InvalidSettings, match=f"write_quorum={quorum} is not in 1..3"):
        replace(space(1), write_quorum=quorum)


def test_a_view_with_fewer_nodes_than_replicas_names_who_is_missing() -> None:
    view = View(
        cluster_id="c",
        history_id="h",
        term=Term(3),
        nodes=(
            Node(id=NodeId("q"), role="sequencer", address=""),
            Node(id=NodeId("a"), role="storage", address=""),
            Node(id=NodeId("b"), role="engine", address=""),
        ),
        spaces=(
            LogSpace(
                id=LogSpaceId(0),
                durability="sync",
                primary=NodeId("q"),
                replicas=(NodeId("a"), NodeId("b"), NodeId("c")),
                write_quorum=2,
            ),
        ),
        ends=(),
    )
    with pytest.raises(InvalidSettings, match=r"needs 3 storage nodes.*term 3 lacks b, c"):
        view.check_holders()


def test_a_replica_counts_once() -> None:
    replicas = (*space(1).replicas[:2], space(1).replicas[0])
    with pytest.raises(InvalidSettings, match="names a storage node of the log space twice"):
        replace(space(1), replicas=replicas)


def test_a_log_space_begins_with_nothing() -> None:
    assert first_end(LogSpaceId(4)) == End(
        space=LogSpaceId(4), position=START, tail=1, timestamp_ms=0
    )


# --- several sequencers ---------------------------------------------------------------------------


def test_p11_a_majority_of_the_sequencers_holds_the_metalog() -> None:
    others = tuple(NodeId(f"sequencer-{number}") for number in range(2, 6))
    quorums = [replace(space(0), backups=others[:count]).metalog_quorum for count in range(5)]
    assert quorums == [1, 2, 2, 3, 3]
    assert replace(space(0), backups=others[:1]).sequencers == (SEQUENCER, others[0])


def test_a_sequencer_holds_a_metalog_once() -> None:
    with pytest.raises(InvalidSettings, match="sequencer-1 names a sequencer"):
        replace(space(0), backups=(SEQUENCER,))


def test_a_stored_view_keeps_what_sequencers_say_of_themselves() -> None:
    node = replace(VIEW.nodes[0], incarnation=7, disk_id="d1")
    backed = replace(space(0), backups=(NodeId("sequencer-2"),))
    view = replace(VIEW, nodes=(node,), spaces=(backed,))
    assert decode_view(encode_view(view), "x") == view


def test_a_view_stored_before_there_were_backups_is_read() -> None:
    stored = json.loads(encode_view(VIEW))
    for node in stored["view"]["nodes"]:
        del node["incarnation"], node["disk_id"]
    for each in stored["view"]["spaces"]:
        del each["backups"]
    plain = json.dumps(stored["view"], sort_keys=True, separators=(",", ":"))
    stored["checksum"] = xxhash.xxh3_64_hexdigest(plain.encode())
    assert decode_view(json.dumps(stored).encode(), "x") == VIEW
