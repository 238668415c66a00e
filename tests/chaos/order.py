"""The order as the files of a stopped cluster have it, for the simulator's oracle.

The metalog of all sequencers and the frames of all storage nodes are folded once, by the product's
own replica and under the oracle's eyes (`tests/sim/oracle.py`): so calls on a real cluster are held
to the same reference as those on a simulated one. What the files themselves may get wrong is found
on the way: two sequencers with different entries at one place, two frames for one LocalId, an
ordered frame that nobody has.

Needs every entry, and every frame that was ever ordered: no segment may have been let go. So these
clusters keep their metalogs (`cluster.py`).
"""

from __future__ import annotations

from bokilog.errors import BokilogError
from bokilog.frame import ITEM_FRAME, Frame, decode_frame
from bokilog.ids import LogSpaceId, Shard, Term
from bokilog.io.file_views import FileViews
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.stopped_journal import StoppedJournal
from bokilog.metalog import Entry, Run, decode_run
from bokilog.record import Durability
from bokilog.shapes.cluster_layout import Layout
from bokilog.shapes.recovery import verify_item
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.replica import Replica
from bokilog.verify import Findings
from bokilog.view import View
from tests.sim.loop import World
from tests.sim.oracle import SpaceOracle, WatchedFold

NO_LIMIT = 1 << 40
JOURNALS = {"sequencer": "metalog", "storage": "journal"}


def read_order(layout: Layout, space: LogSpaceId, world: World) -> SpaceOracle:
    """The one history of a log space; what cannot be is a violation of `world`."""
    views = _views(layout)
    oracle = SpaceOracle(space, world, lambda frame: frame)  # journals verify
    for view in views:
        end = view.end(space)
        oracle.starts[view.term] = end.position.count, end.tail
    durability = views[-1].space(space).durability
    runs = _runs(layout, space, durability, world)
    journal = MemoryJournal(segment_bytes=NO_LIMIT)
    replica = Replica(
        node=views[-1].space(space).replicas[0],
        space=views[0].space(space),
        identity=Identity("files", 0),
        journal=journal,
        fold=WatchedFold(
            Index(space, MemoryStore(), postings_max=NO_LIMIT), node="files", oracle=oracle
        ),
        cache_bytes_max=0,
        pending_bytes_max=NO_LIMIT,
    )
    for frame in _frames(layout, space, durability, world):
        replica.recover_frame(frame, journal.append(ITEM_FRAME, frame.buffers()))
    try:
        for view in views:
            if view.term > 0:
                replica.install(view.space(space), view.term, view.end(space))
        for run in runs:
            replica.metalog(run)
        _fold(replica)
    except (AssertionError, BokilogError) as error:
        world.violation(f"the files of log space {space} cannot be folded: {error!r}")
    reached = max((run.until for run in runs if run.term == views[-1].term), default=0)
    if replica.index.position.count < max(reached, views[-1].end(space).position.count):
        world.violation(
            f"the files of log space {space} fold to {replica.index.position} only: entries lead"
            f" to {reached}, and {len(replica.entries.waiting)} of them lack frames"
        )
    return oracle


def _fold(replica: Replica) -> None:
    before = None
    while before != replica.index.position:
        before = replica.index.position
        replica.folding.timer()


def _views(layout: Layout) -> list[View]:
    store = FileViews(layout.settings.views_dir)
    latest = store.latest_term()
    assert latest is not None
    found = [store.load(Term(term)) for term in range(latest + 1)]
    return [view for view in found if view is not None]


def _journals(
    layout: Layout, role: str, space: LogSpaceId, durability: Durability, world: World
) -> list[tuple[str, StoppedJournal]]:
    found = []
    for node in layout.nodes:
        if node.role != role or node.data_dir is None:
            continue
        directory = node.data_dir / f"{JOURNALS[role]}-{space}"
        if not directory.is_dir():
            continue
        findings = Findings()
        journal = StoppedJournal(
            directory, durable=durability == "sync", verify=verify_item, findings=findings
        )
        for finding in findings.found:
            world.violation(f"{node.id}: {finding}")
        found.append((str(node.id), journal))
    return found


def _runs(layout: Layout, space: LogSpaceId, durability: Durability, world: World) -> list[Run]:
    """Runs of all sequencers, in order; each place of a term has one entry, whoever holds it."""
    entries: dict[tuple[int, int], tuple[str, Entry]] = {}
    runs: dict[tuple[int, int, int], Run] = {}
    for node, journal in _journals(layout, "sequencer", space, durability, world):
        for _, _, data in journal.items():
            run = decode_run(data)
            runs[run.term, run.first, run.until] = run
            for place, entry in enumerate(run.entries, run.first):
                whose, known = entries.setdefault((run.term, place), (node, entry))
                if known != entry:
                    where = f"place {place} of term {run.term}"
                    world.violation(f"{whose} has {known} at {where}, {node} has {entry}")
    return [runs[key] for key in sorted(runs)]


def _frames(layout: Layout, space: LogSpaceId, durability: Durability, world: World) -> list[Frame]:
    """Frames that anybody holds: one per LocalId (P1)."""
    found: dict[tuple[Shard, int], tuple[str, Frame]] = {}
    for node, journal in _journals(layout, "storage", space, durability, world):
        for kind, _, data in journal.items():
            if kind != ITEM_FRAME:
                continue
            frame = decode_frame(bytes(data))
            whose, known = found.setdefault((frame.shard, frame.first), (node, frame))
            if known.checksum != frame.checksum:
                where = f"{frame.first} of {frame.shard}"
                world.violation(f"P1: {whose} and {node} hold different frames for {where}")
    return [frame for _, frame in sorted(found.values(), key=lambda each: each[1].first)]
