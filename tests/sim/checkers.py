"""What must hold of a history, whatever the world did to the cluster."""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.ids import Position
from bokilog.messages import Read, ReadReply
from bokilog.storage_nodes.replica import Replica
from tests.sim.clients import BOOK, Append
from tests.sim.world import SPACE, STORAGE, World


def records_of(world: World, node: str) -> dict[int, tuple[bytes, str]]:
    """Every visible record as one storage node serves it: seqnum to (data, tag)."""
    replica: Replica = world.processes[node].core.replicas[SPACE]  # type: ignore[attr-defined,index]
    found: dict[int, tuple[bytes, str]] = {}
    start = 0
    while True:
        read = Read(
            *(1, SPACE, BOOK, None, start, 2**53, 50, 1 << 20, False),
            *(Position(replica.index.position.term, 0), 0, False, -1, -1),
        )
        reply = replica._reader.read(read, replica.index.position)
        assert isinstance(reply, ReadReply), reply
        for seqnum, tag, data in zip(reply.seqnums, reply.tags, reply.payload, strict=True):
            found[seqnum] = (bytes(data), str(tag))
        start = reply.next_seqnum
        if not reply.more:
            return found


def check_history(world: World, appends: Iterable[Append]) -> int:
    """All replicas stand at one position; returns how many records were acknowledged."""
    appends = list(appends)
    served = [records_of(world, node) for node in STORAGE]
    hashes = {world.index(node).chained_hash for node in STORAGE}
    assert len(hashes) == 1, f"replicas disagree about their history: {hashes}"
    assert served[0] == served[1] == served[2], "replicas serve different records"
    by_data: dict[bytes, list[int]] = {}
    for seqnum, (data, _) in served[0].items():
        by_data.setdefault(data, []).append(seqnum)
    for append in appends:
        places = by_data.get(append.data, [])
        assert len(places) <= 1, f"{append.data!r} stands at {places}"
        if append.seqnum is not None:
            assert places == [append.seqnum], f"{append} was acknowledged, found at {places}"
        if append.void:
            assert not places, f"{append} is void and visible at {places}"
    _check_real_time(appends)
    _check_conditions(served[0], appends)
    return sum(append.seqnum is not None for append in appends)


def _check_real_time(appends: list[Append]) -> None:
    """Acknowledged before another was issued: ordered before it."""
    acked = [append for append in appends if append.seqnum is not None]
    ends = sorted((append.answered_s or 0.0, append.seqnum or 0) for append in acked)
    starts = sorted((append.issued_s, append.seqnum or 0) for append in acked)
    largest = 0
    place = 0
    for issued_s, seqnum in starts:
        while place < len(ends) and ends[place][0] < issued_s:
            largest = max(largest, ends[place][1])
            place += 1
        assert seqnum > largest, f"seqnum {seqnum} was issued after {largest} was acknowledged"


def _check_conditions(served: dict[int, tuple[bytes, str]], appends: list[Append]) -> None:
    """A conditional record is visible iff nothing of its tag stood past its `after` before it."""
    by_data = {append.data: append for append in appends}
    last: dict[str, int] = {}
    for seqnum in sorted(served):
        data, tag = served[seqnum]
        append = by_data[data]
        if append.unless is not None:
            beaten = last.get(tag, 0)
            assert beaten <= append.unless, f"{append} won at {seqnum} against {beaten}"
        last[tag] = seqnum
    for append in appends:
        if append.void:
            assert append.winner in served, f"{append} lost to a record that is not there"
            assert served[append.winner][1] == append.tag and append.winner > (append.unless or 0)
