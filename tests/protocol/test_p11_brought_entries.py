"""P11: the end of a `flush` or `memory` term is the longest prefix that any sequencer or storage
node brings to the seal.

1. Records of class `flush` are acknowledged; the metalog that orders them is written, not synced.
2. Every sequencer's machine loses power, with the last seconds of the metalog. 3. Storage nodes on
other machines go on: they hold the frames, were told the entries, and have folded them. Without
them the records would be lost that all of them still hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.effects import Address, BatchEnded, LinkDown, LinkUp, Received, Send
from bokilog.ids import Position, Term
from bokilog.io.journal_file import JournalFile
from bokilog.io.network import Identity, Network
from bokilog.io.sync import NoSync
from bokilog.messages import FetchRuns, Message, Metalog, Runs
from bokilog.metalog import Entry, Lost, Run
from bokilog.record import Durability
from bokilog.sequencer.brought import bring
from bokilog.sequencer.recovery import following, recover_metalog
from bokilog.storage_nodes import kept_runs, replica as module
from bokilog.storage_nodes.arrivals import Identity as DiskIdentity
from bokilog.storage_nodes.fold import Fold
from bokilog.view import End, Node, View
from tests.protocol.storage_rig import (
    NODE,
    OTHER,
    PEER,
    PRIMARY,
    SPACE,
    StorageRig,
    at,
    cut,
    messages,
    opening,
    view,
)

CEILING = 5_000


def flush_view(term: int = 1, *, durability: Durability = "flush", count: int = 0) -> View:
    made = view(term, end=Position(Term(term - 1), count))
    return replace(made, spaces=(replace(made.spaces[0], durability=durability),))


class FlushRig(StorageRig):
    """A storage node of a log space that is not synced."""

    def __init__(self, durability: Durability = "flush") -> None:
        self.durability = durability
        super().__init__()

    def _start(self):  # type: ignore[no-untyped-def]  # as in StorageRig
        core = super()._start()
        space = replace(view().space(SPACE), durability=self.durability)
        old = core.replicas[SPACE]
        core.replicas[SPACE] = module.Replica(
            node=self.node,
            space=space,
            identity=DiskIdentity("d", 0),
            journal=self.journal,
            fold=Fold(old.index),
            cache_bytes_max=1 << 20,
            pending_bytes_max=1 << 20,
        )
        return core

    def told(self, *runs: Run) -> FlushRig:
        for run in runs:
            self.get(PRIMARY, Metalog(run))
        return self

    def gives(self, first: int) -> list[int]:
        (answer,) = messages(self.get(7, FetchRuns(SPACE, 0, first, 2**62)), Runs)
        assert isinstance(answer, Runs)
        return [run.first for run in answer.runs]


def a_run(first: int, *entries: Entry, term: int = 1) -> Run:
    return Run(SPACE, Term(term), first, entries)


RUNS = (
    a_run(0, opening()),
    a_run(1, cut(1, 0, 1), cut(2, 1, 2)),
    a_run(3, cut(3, 2, 3)),
    a_run(4, cut(4, 3, 5)),
)


def begun(durability: Durability = "flush") -> FlushRig:
    rig = FlushRig(durability)
    rig.install(flush_view(durability=durability))
    return rig.told(*RUNS)


# --- what a storage node keeps --------------------------------------------------------------------


def test_p11_a_storage_node_gives_what_follows_a_place() -> None:
    """Folded or not: it has no frame of them here."""
    rig = begun()
    assert rig.gives(0) == [0, 1, 3, 4]
    assert rig.gives(3) == [3, 4]
    assert rig.gives(6) == [] and rig.gives(2) == [], "no run begins there"
    assert rig.told(RUNS[1], RUNS[3]).gives(0) == [0, 1, 3, 4], "sent again"
    assert rig.told(a_run(9, cut(9, 8, 9))).gives(9) == [9]
    assert rig.gives(0) == [], "a hole: what came before it is of no use"


def test_p11_it_keeps_a_bounded_part_and_nothing_of_class_sync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_runs, "RUNS_KEPT", 2)
    assert begun().gives(3) == [3, 4]
    assert begun().gives(0) == []
    assert begun("sync").gives(3) == []
    monkeypatch.setattr(kept_runs, "RUNS_GIVEN", 1)
    assert begun().gives(3) == [3]


def test_p13_it_gives_nothing_past_the_end_of_a_term() -> None:
    rig = FlushRig()
    rig.install(flush_view())
    rig.told(*RUNS[:2])
    rig.get(PRIMARY, Metalog(RUNS[3]))  # ahead: never followed by what it continues
    rig.install(flush_view(2, count=3))
    assert rig.gives(0) == [0, 1] or rig.gives(0) == []
    assert rig.gives(4) == []


# --- what a sequencer takes -----------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    made = JournalFile(tmp_path / "metalog", sync=NoSync(), verify=lambda *_: True)
    yield made
    made.close()


def first_end() -> End:
    return End(space=SPACE, position=at(0, 0), tail=1, timestamp_ms=0)


def ended(ends: dict[int, int]):  # type: ignore[no-untyped-def]
    def of(term: Term) -> End | None:
        if term not in ends:
            return None
        return End(space=SPACE, position=at(ends[term], term - 1), tail=1, timestamp_ms=0)

    return of


def test_p11_what_follows_without_a_gap_is_taken(journal: JournalFile) -> None:
    known = recover_metalog(journal, first_end(), ceiling=1)
    alone = ended({1: 0})
    assert following(known, RUNS, last=Term(1), ended=alone) == [*RUNS]
    assert following(known, RUNS[1:], last=Term(1), ended=alone) == []
    assert following(known, [RUNS[0], RUNS[2]], last=Term(1), ended=alone) == [RUNS[0]]
    other = a_run(0, opening())._replace(space=9)  # type: ignore[arg-type]
    assert following(known, [other], last=Term(1), ended=alone) == []


def test_p13_nothing_past_a_stored_end_is_taken(journal: JournalFile) -> None:
    known = recover_metalog(journal, first_end(), ceiling=1)
    ends = ended({1: 0, 2: 3})
    assert following(known, RUNS, last=Term(2), ended=ends) == [*RUNS[:2]]
    later = a_run(3, opening(9), term=2)
    assert following(known, [*RUNS[:2], later], last=Term(2), ended=ends) == [*RUNS[:2], later]
    assert following(known, [*RUNS[:2], later], last=Term(1), ended=ends) == [*RUNS[:2]]
    assert following(known, RUNS, last=Term(2), ended=ended({1: 0})) == [], "an end is not known"


# --- over real connections ------------------------------------------------------------------------


class Served:
    """A storage node's core behind a listening network."""

    def __init__(self, rig: StorageRig) -> None:
        self.rig = rig
        identity = Identity(
            role="storage", node=rig.node, incarnation=1, cluster_id="c", history_id="h", term=1
        )
        self.network = Network(identity, self)

    def received(self, source: Address, message: Message) -> None:
        self._do(Received(source, message))

    def link_up(self, peer: Address) -> None:
        self._do(LinkUp(peer))

    def link_down(self, peer: Address) -> None:
        self._do(LinkDown(peer))

    def link_clogged(self, peer: Address, *, clear: bool) -> None: ...

    def newer_term(self, term: int) -> None: ...

    def greet_client(self, connection: int) -> None: ...

    def _do(self, event: Received | LinkUp | LinkDown) -> None:
        core = self.rig.core
        for effect in (*core.handle(event, 0.0), *core.handle(BatchEnded(0), 0.0)):
            if isinstance(effect, Send):
                self.network.send(effect.to, effect.message)
        self.network.flush()


async def brought(
    journal: JournalFile, tmp_path: Path, *rigs: StorageRig, durability: Durability = "flush"
) -> Position:
    """Where a sequencer's metalog stands once it has asked; its journal says the same."""
    served, nodes = [], []
    for name, rig in zip((NODE, PEER, OTHER), [*rigs, None, None], strict=False):
        address = f"unix:{tmp_path / name}.sock"
        nodes.append(Node(id=name, role="storage", address=address))
        if rig is not None:
            served.append(Served(rig))
            await served[-1].network.listen(address)
    known = recover_metalog(journal, first_end(), ceiling=CEILING)
    made = replace(flush_view(durability=durability), nodes=tuple(nodes))
    try:
        (found,) = (
            await bring({SPACE: known}, {SPACE: journal}, view=made, ended={SPACE: ended({1: 0})})
        ).values()
    finally:
        for each in served:
            await each.network.aclose()
    assert found.end.tail == CEILING, "seqnums that were given out and lost are not given again"
    assert sum(len(run.entries) for run in stored(journal)) == found.end.position.count
    return found.end.position


def stored(journal: JournalFile) -> Iterable[Run]:
    from bokilog.metalog import decode_run

    return [decode_run(bytes(data)) for _, _, data in journal.items()]


@pytest.mark.asyncio
async def test_p11_entries_that_only_storage_nodes_hold_are_not_lost(
    journal: JournalFile, tmp_path: Path
) -> None:
    """One has less, one more, one is gone."""
    shorter = FlushRig()
    shorter.install(flush_view())
    shorter.told(*RUNS[:2])
    assert await brought(journal, tmp_path, shorter, begun()) == at(5)


@pytest.mark.asyncio
async def test_p11_nobody_is_asked_for_what_is_synced(journal: JournalFile, tmp_path: Path) -> None:
    rig = begun()
    assert await brought(journal, tmp_path, rig, durability="sync") == at(0, 0)


@pytest.mark.asyncio
async def test_p24_what_is_lost_is_remembered_of_brought_entries(
    journal: JournalFile, tmp_path: Path
) -> None:
    rig = begun().told(a_run(5, Lost(9, 1, 5, 3, 5)))
    assert isinstance(rig, FlushRig)
    assert await brought(journal, tmp_path, rig) == at(6)
    journal.close()
    again = JournalFile(tmp_path / "metalog", sync=NoSync(), verify=lambda *_: True)
    try:
        known = recover_metalog(again, first_end(), ceiling=1)
    finally:
        again.close()
    assert [type(run.entries[0]) for run in known.deletions] == [Lost]
