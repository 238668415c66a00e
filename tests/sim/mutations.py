"""Bugs to plant: a checker that cannot fail is worthless.

Each mutation breaks one rule by replacing a few lines of the product (or of what stands in for the
operating system) for as long as it is planted, and names the world that shows it: knobs under which
the rule matters, and seeds of which at least one has to end in a violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import bokilog.conditions as conditions
import bokilog.sequencer.controller as controller
import bokilog.sequencer.next_run as next_run
import bokilog.sequencer.next_view as next_view
import bokilog.sequencer.progress as progress
import bokilog.sequencer.seal as seal
import bokilog.shapes.what_is_left as what_is_left
import bokilog.storage_nodes.fold as fold
import bokilog.storage_nodes.unit_verdicts as unit_verdicts
import tests.sim.cluster as cluster
from bokilog.client.lane import Lane
from bokilog.client.session import Session
from bokilog.cold import ColdState
from bokilog.conditions import KeyUse, Unit
from bokilog.effects import Checkpoint, Send, ViewInstalled
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.reader import Reader as EngineReader
from bokilog.functions.engine.taken import Taken
from bokilog.functions.engine.under_way import UnderWay
from bokilog.ids import Position, Term
from bokilog.journal import SyncResult
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import (
    VERDICT_CONDITION_FAILED,
    VERDICT_VISIBLE,
    AppendFrame,
    RunsHeld,
    Tail,
)
from bokilog.record import Durability
from bokilog.sequencer.backup import Backup
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.cut_clock import CutClock
from bokilog.sequencer.next_run import NextRun
from bokilog.sequencer.primary import Primary
from bokilog.sequencer.progress import Progress
from bokilog.sequencer.recovery import recover_metalog
from bokilog.sequencer.replication import Replication
from bokilog.sequencer.roles import Roles
from bokilog.sequencer.seal import Sealing
from bokilog.sequencer.survival import Survival
from bokilog.shapes.what_is_left import Left
from bokilog.storage_nodes.answers import Answers
from bokilog.storage_nodes.aux_data import AuxData
from bokilog.storage_nodes.books import Book, Books
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.peer_folds import PeerFolds
from bokilog.storage_nodes.reader import Reader
from bokilog.storage_nodes.replica import Replica
from bokilog.storage_nodes.storing import Storing
from bokilog.storage_nodes.streams import Streams
from bokilog.view import End, LogSpace
from tests.sim.cluster import _StoreCalls
from tests.sim.disk import SimJournal
from tests.sim.objects import ObjectStore
from tests.sim.swarm import MORE_WEIGHTS, WEIGHTS, Knobs


def _from(*shown: int) -> tuple[int, ...]:
    """Seeds, those first that are known to show it soon, the cheapest of all to begin with."""
    return (*shown, *(seed for seed in range(8) if seed not in shown))


Patch = tuple[object, str, Any]
"""(owner, name, replacement)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One planted bug."""

    name: str
    rule: str
    """Of PROTOCOL.md, or of the checker list."""
    patches: Callable[[], list[Patch]]
    knobs: Knobs
    seeds: tuple[int, ...] = _from(0)

    @contextmanager
    def planted(self) -> Iterator[None]:
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in self.patches()]
        for owner, name, replacement in self.patches():
            setattr(owner, name, replacement)
        try:
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)


# --- worlds ---------------------------------------------------------------------------------------

_CALM = Knobs(duration_s=0.6, pause_s=0.02, settle_s=8.0, timeout_s=2.0, followers=1)
_APPENDS = dict.fromkeys(WEIGHTS, 0.0) | {"append": 10, "burst": 3, "read_prev": 1}


def _world(**changes: Any) -> Knobs:
    faults = changes.pop("faults", {})
    weights = changes.pop("weights", None)
    knobs = replace(_CALM, **changes)
    knobs.faults = dict(faults)
    knobs.weights = dict(WEIGHTS) if weights is None else dict(weights)
    return knobs


def _powerless() -> Knobs:
    """Machines lose power while syncs take long."""
    faults = {"kill_storage": 6.0, "reset": 2.0}
    return _world(faults=faults, power_share=1.0, down_s=0.03, sync_s=0.01, weights=_APPENDS)


def _reads(**changes: Any) -> Knobs:
    weights = dict(WEIGHTS) | {"read_prev": 15, "linearizable": 8, "read_next": 8}
    return _world(weights=weights, **changes)


def _changing(**changes: Any) -> Knobs:
    """Three sequencers, of which some primary is always cut off or paused."""
    faults = {"pause": 5.0, "kill_sequencer": 2.0, "cut": 3.0, "reset": 2.0}
    changes.setdefault("faults", faults)
    return _world(
        sequencer_count=3,
        heartbeat_s=0.01,
        duration_s=changes.pop("duration_s", 1.2),
        down_s=0.05,
        pause_s=0.01,
        **changes,
    )


# --- appends and durability -----------------------------------------------------------------------


def _ack_before_persist() -> list[Patch]:
    """A storage node reports what is only staged."""
    original = Replica.__init__

    def init(self: Replica, **arguments: Any) -> None:
        original(self, **arguments)
        self.arrivals.report_written = True

    return [(Replica, "__init__", init)]


def _unsynced_reported() -> list[Patch]:
    """`Persisted` comes when a group is written, not when it is synced."""

    def sync(self: SimJournal, on_done: Callable[[SyncResult], None]) -> None:
        self._world.later(0.0001, lambda: on_done(SyncResult(self.inner._last_group)))
        self.inner._unsynced = None

    return [(SimJournal, "sync_in_thread", sync)]


def _torn_counts() -> list[Patch]:
    """Of a group that was cut off by a loss of power, the first half is taken for good."""

    def lose(self: SimJournal, *, keep_unsynced: bool) -> None:
        unsynced = self.inner._unsynced
        if unsynced is not None and not keep_unsynced and len(unsynced[1]) > 1:
            number, offsets = unsynced
            for offset in offsets[len(offsets) // 2 :]:
                del self.inner._segments[number].items[offset]
            keep_unsynced = True
        self.inner.crash(keep_unsynced=keep_unsynced)

    def recover(self: Replica, frame: Any, location: Any) -> None:
        room = self._pending.shard(frame.shard)
        if frame.first > room.staged:
            room.held = room.staged = frame.first  # what lies before it was there once
        if self._pending.wanted(frame):
            self._pending.add(frame, location, durable=True)

    return [(SimJournal, "_lose", lose), (Replica, "recover_frame", recover)]


def _frontier_of(pick: Callable[[list[int], int], int]) -> Callable[[], list[Patch]]:
    def frontier(counts: Any, *, write_quorum: int) -> int:
        return pick(sorted(counts, reverse=True), write_quorum)

    return lambda: [(progress, "frontier", frontier)]


def _old_incarnation_counts() -> list[Patch]:
    """What a node claimed with its last disk goes on to count."""
    return [(Progress, "_forget", lambda self, node: None)]


def _shard_reused() -> list[Patch]:
    """An engine's next start takes the number of the one before."""
    original = EngineCore.__init__

    def init(self: EngineCore, settings: Any, node_id: Any, incarnation: int) -> None:
        original(self, settings, node_id, 1000 + int(node_id[-1]))

    return [(EngineCore, "__init__", init)]


def _resent_as_new() -> list[Patch]:
    """Now and then a frame gets LocalIds twice."""
    original = UnderWay.issue

    def issue(self: UnderWay, taken: Taken, effects: Any) -> None:
        original(self, taken, effects)
        if self.count % 7 == 0:
            message = AppendFrame(self._space, taken.number, taken.columns, taken.payload)
            self._admission.frames += 1
            self._admission.bytes += taken.size_bytes
            again = Taken(None, message, taken.size_bytes)
            original(self, again, effects)

    return [(UnderWay, "issue", issue)]


def _keyless_sent_again() -> list[Patch]:
    """After a lost connection a client sends everything once more."""

    def down(self: Lane, reason: str, *more: Any) -> None:
        again = list(self.sent.values())
        self.sent = {}
        self._return_refused()
        self.backlog.extendleft(reversed(again))
        self.resume_at_s = 0.0

    return [(Lane, "down", down)]


def _checkpoint_ahead_of_frames() -> list[Patch]:
    """The fold is stored although frames it has folded are not synced."""
    original = Storing.begin

    def begin(self: Storing, **more: Any) -> list[Any]:
        effects = original(self, **more)
        if self.waits_for is not None:
            self.waits_for = None
            effects.append(Checkpoint(self._membership.space.id))
        return effects

    return [(Storing, "begin", begin)]


def _checkpoint_ahead_of_the_metalog() -> list[Patch]:
    """The fold is stored although no sequencer has synced the entries that it is of."""
    return [(Storing, "_write", lambda self: [Checkpoint(self._membership.space.id)])]


def _closed_shards_count() -> list[Patch]:
    """What follows the close of a shard is ordered still."""

    def close(self: Progress, number: int) -> int:
        return self.shards[number].ordered

    return [(Progress, "close", close)]


# --- the fold -------------------------------------------------------------------------------------


def _decide_with(
    change: Callable[[Unit, list[object]], list[object]],
) -> Callable[[], list[Patch]]:
    original = conditions.decide

    def decide(unit: Unit, book: Any) -> list[object]:
        return change(unit, original(unit, book))

    return lambda: [(unit_verdicts, "decide", decide)]


def _per_record(unit: Unit, verdict: list[object]) -> list[object]:
    """The second record of a unit meets the first one."""
    tags = list(unit.tags)
    if verdict[1] == VERDICT_VISIBLE and len(tags) > 1:
        for tag, _ in unit.tests:
            first = tags[0] or ()
            if tag in ((first,) if isinstance(first, str) else first):
                return [unit.number, VERDICT_CONDITION_FAILED, tag, unit.first_seqnum]
    return verdict


def _skipped(unit: Unit, verdict: list[object]) -> list[object]:
    """Conditions of units past the first of a frame are not looked at."""
    if unit.number and verdict[1] == VERDICT_CONDITION_FAILED:
        return [unit.number, VERDICT_VISIBLE, unit.first_seqnum, None]
    return verdict


def _tag_state_lost() -> list[Patch]:
    """A tag whose records are all trimmed counts as one that never had any."""
    original = unit_verdicts._View.last

    def last(self: Any, tag: str | None) -> int:
        seqnum = original(self, tag)
        if self._book is not None and seqnum < self._book.trim_until:
            return 0
        return seqnum

    return [(unit_verdicts._View, "last", last)]


def _holds_ignored() -> list[Patch]:
    return [(Book, "lowest_hold", lambda self, now_ms: None)]


def _trim_past_the_tail() -> list[Patch]:
    original = Books.trim

    def trim(self: Books, entry: Any, *, tail: int, now_ms: int) -> Any:
        return original(self, entry, tail=SEQNUM_MAX, now_ms=now_ms)

    return [(Books, "trim", trim)]


def _keys_forgotten_early() -> list[Patch]:
    """A key lives for a millisecond of the log's time."""
    return [
        (unit_verdicts, "expiry_ms", lambda timestamp_ms, horizon_s: timestamp_ms + 1),
        (next_run, "FORGET_KEYS_MS", 20),
    ]


def _void_marks_dropped() -> list[Patch]:
    """Engines that follow the index are not told which units are void."""
    original = Streams.frame

    def frame(self: Streams, outcome: Any, timestamp_ms: int) -> None:
        original(self, outcome._replace(void_units=()), timestamp_ms)

    return [(Streams, "frame", frame)]


def _trimmed_records_served() -> list[Patch]:
    """Reads do not look at trims of tags."""
    original = Index.seqnums

    def seqnums(self: Any, book: int, tag: str | None, start: int, until: int, **more: Any) -> Any:
        if tag is None:
            return original(self, book, tag, start, until, **more)
        return self.postings.seqnums(book, tag, start, min(until, self.tail), **more)

    return [(Index, "seqnums", seqnums)]


# --- reads ----------------------------------------------------------------------------------------


def _none_below_the_token() -> list[Patch]:
    """A replica answers at once, wherever it stands."""
    original = Answers.read

    def read(self: Answers, source: Any, read: Any) -> Any:
        position = min(read.position, self._index.position)
        return original(self, source, read._replace(position=position))

    return [(Answers, "read", read)]


def _facts_above_their_position() -> list[Patch]:
    """An engine says of what it knows that it is as new as anything it has heard of."""
    original = IndexFollower.advance

    def advance(self: IndexFollower, message: Any) -> None:
        original(self, message)
        self.position = max(self.position, self.horizon.position)

    return [(IndexFollower, "advance", advance)]


def _trims_unheard() -> list[Patch]:
    """Engines that follow the index are not told of trims."""
    return [
        (Streams, "trim", lambda self, book, tag, until: None),
        (EngineReader, "trimmed", lambda self, book, tag, until: None),
    ]


def _session_forgets() -> list[Patch]:
    """A session does not keep what its answers say."""
    return [(Session, "observe", lambda self, space, position: None)]


def _stale_tail() -> list[Patch]:
    """A primary answers for a tail without asking whether it still is one."""

    def answer(self: Primary) -> list[Any]:
        waiting, self._tails = self._tails, []
        return [self._tell_tail(*waiter) for waiter in waiting]

    return [(Primary, "_answer_tails", answer)]


def _tail_of_the_past() -> list[Patch]:
    """A tail is what it was some answers ago."""
    known: dict[int, Tail] = {}
    original = Primary._tell_tail

    def tell(self: Primary, source: Any, request: int) -> Any:
        effect = original(self, source, request)
        assert isinstance(effect, Send) and isinstance(effect.message, Tail)
        old = known.get(id(self), effect.message)
        if request % 3 == 0 or id(self) not in known:
            known[id(self)] = effect.message
        return effect._replace(message=old._replace(request=request))

    return [(Primary, "_tell_tail", tell)]


# --- order, terms and views -----------------------------------------------------------------------


def _time_goes_back() -> list[Patch]:
    original = NextRun.entries

    def read(self: CutClock, now_s: float, wall_ms: int) -> int:
        return wall_ms

    def entries(self: NextRun, wall_ms: int, **more: Any) -> Any:
        self.timestamp_ms = 0
        return original(self, wall_ms, **more)

    return [(CutClock, "read", read), (NextRun, "entries", entries)]


def _published_alone() -> list[Patch]:
    """The primary's own journal is enough."""
    return [(Replication, "held_count", property(lambda self: self.standing.count))]


def _backup_tells_unsynced() -> list[Patch]:
    """A backup counts what it has not synced."""

    def tell_held(self: Backup) -> Any:
        return self._tell(RunsHeld(self.space.id, self.term, self.count))

    original = Backup._replicate

    def take(self: Backup, run: Any) -> Any:
        return [*original(self, run), *tell_held(self)]

    return [(Backup, "_tell_held", tell_held), (Backup, "_replicate", take)]


def _seal_forgotten() -> list[Patch]:
    """A sequencer that has promised goes on as before."""
    return [
        (Primary, "seal", lambda self: None),
        (Backup, "seal", lambda self: None),
        (Sealing, "is_sealed", lambda self, term: False),
    ]


def _resumes_as_primary() -> list[Patch]:
    """A process that was restarted takes up the term of its last life."""

    def is_named(self: Roles, space: Any, view: Any) -> bool:
        return bool(space.primary == self._node)

    return [
        (Roles, "_is_named", is_named),
        (Sealing, "is_sealed", lambda self, term: False),
    ]


def _unstored_end() -> list[Patch]:
    """A controller has its view installed by its own sequencer, and stores it or not."""
    original = _StoreCalls._answer

    def answer(self: _StoreCalls, effect: Any) -> Any:
        view = getattr(effect, "view", None)
        if view is None:
            return original(self, effect)
        self._process().deliver(ViewInstalled(view))
        return None if self._chance.random() < 0.7 else original(self, effect)

    return [(_StoreCalls, "_answer", answer)]


def _shortest_end() -> list[Patch]:
    """A term ends where the sequencer with the least says."""
    original = next_view.endings

    def endings(view: Any, answers: Any) -> Any:
        least = min(answers, key=lambda node: answers[node].ends)
        return original(view, {least: answers[least]})

    return [(controller, "endings", endings)]


def _taken_with_a_view_uncommitted() -> list[Patch]:
    """What a backup takes in the batch of a view is left to whatever its next role commits."""
    original = SequencerCore._end_of

    def end_of(self: SequencerCore, space: Any, timestamp_ms: int) -> Any:
        return original(self, space, timestamp_ms) if timestamp_ms else []

    return [(SequencerCore, "_end_of", end_of)]


def _extended_unsynced() -> list[Patch]:
    """A term's end may be with the operating systems of two sequencers when the next one begins."""
    return [(seal, "_kept_count", lambda holder: holder.standing.count)]


def _minority_seals() -> list[Patch]:
    """One answer to the seal is enough."""
    return [(controller, "is_quorum", lambda view, nodes: bool(list(nodes)))]


# --- other classes, LogBooks that go, what stands beside records ----------------------------------


def _more(durabilities: Sequence[Durability] = ("sync",), **changes: Any) -> Knobs:
    """Worlds with everything that drawn ones have; `weights` are added."""
    weights = WEIGHTS | MORE_WEIGHTS | changes.pop("weights", {})
    books = len(durabilities)
    return _world(durabilities=tuple(durabilities), books=books, weights=weights, **changes)


def _aux_of_a_neighbour() -> list[Patch]:
    """A record without aux data shows that of the next one."""
    original = AuxData.get

    def get(self: AuxData, seqnum: int) -> bytes | None:
        found = original(self, seqnum)
        return original(self, seqnum + 1) if found is None else found

    return [(AuxData, "get", get)]


def _deleted_takes_appends() -> list[Patch]:
    return [(fold, "_delete_book", lambda index, book: None)]


def _ceilings_ignored() -> list[Patch]:
    """A view does not go above the seqnums that may have been given."""
    original = next_view._holding

    def holding(*arguments: Any) -> Any:
        return replace(original(*arguments), ceiling=1)

    return [(next_view, "_holding", holding)]


def _late_seqnum_at() -> list[Patch]:
    original = Index.seqnum_at

    def seqnum_at(self: Any, timestamp_ms: int) -> int:
        return min(original(self, timestamp_ms) + 2, int(self.tail))

    return [(Index, "seqnum_at", seqnum_at)]


def _keyed_unit_is_one_record() -> list[Patch]:
    """Of a unit with a key only the first record is remembered."""
    use = KeyUse
    return [(unit_verdicts, "KeyUse", lambda first, count, *more: use(first, 1, *more))]


def _empty_replicas_say_nothing() -> list[Patch]:
    """A fold in memory that is gone is reported as one that stands at the start."""
    original = PeerFolds.report

    def report(self: PeerFolds) -> Any:
        return original(self)._replace(empty=False)

    return [(PeerFolds, "report", report)]


def _unfolded_frames_are_nothing() -> list[Patch]:
    """Replicas of a log space in memory that hold frames, and have folded none yet, say that they
    are empty."""
    return [(PeerFolds, "_holds_records", property(lambda self: self._rebuilt))]


def _one_empty_replica_is_enough() -> list[Patch]:
    """A log space in memory starts over as soon as one of its replicas holds nothing."""

    def nothing_left(self: Survival) -> bool:
        return self._applies and any(self._empty.get(node, False) for node in self._replicas)

    return [(Survival, "nothing_left", property(nothing_left))]


def _lost_frames_not_missed() -> list[Patch]:
    """A fold goes on as it was stored, whatever its journal has lost with the power."""
    return [(Replica, "recovered_frames", lambda self: 0)]


def _ends_not_met_at_a_start() -> list[Patch]:
    """A sequencer that goes on alone takes what its journal holds for its metalog, also what the
    set that it was one of had left out."""

    def recover(*arguments: Any, **named: Any) -> Any:
        return recover_metalog(*arguments, **named | {"until": 0})

    return [(cluster, "recover_metalog", recover)]


def _lost_entries_by_the_newest_term() -> list[Patch]:
    """An engine looks only at the newest term that it has heard of for what was lost before it."""

    def install(self: IndexFollower, term: Term, end: End) -> bool:
        self._ends.install(term, end.position.count)
        known = self.horizon.position
        return known.term < term and known.count > end.position.count

    return [(IndexFollower, "install", install)]


_POWER_OF_FEWER: Final = _more(
    ("sync", "flush"),
    sequencer_count=3,
    heartbeat_s=0.01,
    duration_s=1.5,
    shrinks=True,
    faults={"kill_sequencer": 20.0},
    power_share=0.5,
    down_s=0.02,
    checkpoint_s=0.1,
)


# --- losses that a person accepts -----------------------------------------------------------------


def _losing(**changes: Any) -> Knobs:
    """Two of three sequencers lose their disks for good, after the third was away for a while."""
    return _world(
        sequencer_count=3,
        heartbeat_s=0.01,
        loses=changes.pop("loses", "sequencers"),
        releases=True,
        metalog_segment_bytes=1 << 12,
        duration_s=1.5,
        pause_s=0.01,
        down_s=changes.pop("down_s", 0.02),
        checkpoint_s=0.03,
        weights=_APPENDS,
        **changes,
    )


def _folds_past_moved_aside() -> list[Patch]:
    """Whatever the sequencers that are left do not have in their metalog is given up, also where
    every replica has stored it: then no fold is left to go on from."""

    def goes_on(self: Left, space: LogSpace) -> None:
        return None

    def astray(position: Position, *, until: int, ended: object) -> bool:
        return position.count > 0

    return [(Left, "anew_at", goes_on), (what_is_left, "is_astray", astray)]


def _runs_of_before_count() -> list[Patch]:
    """A metalog that begins anew goes on with what a journal holds of the one before."""

    def recover(*arguments: Any, **named: Any) -> Any:
        return recover_metalog(*arguments, **named | {"begun": 0})

    return [(cluster, "recover_metalog", recover)]


def _seqnums_of_a_loss_given_again() -> list[Patch]:
    """The next term begins right where what is left ends."""
    return [(what_is_left, "SEQNUMS_LEFT_OUT", 0)]


# --- cold segments --------------------------------------------------------------------------------


def _colds(**changes: Any) -> Knobs:
    """Everything that is stored goes to an object store at once, and is read from there."""
    weights = dict.fromkeys(WEIGHTS, 0.0) | {"append": 10, "burst": 5, "read": 10, "page": 5}
    return _world(
        releases=True,
        segment_bytes=1 << 14,
        cold_hot_bytes=1,
        cold_cache_bytes=1_000,
        node_cache_bytes=0,
        cache_bytes=0,
        facts=False,
        checkpoint_s=0.03,
        data_bytes=400,
        duration_s=2.0,
        weights=weights,
        **changes,
    )


def _gone_before_it_is_cold() -> list[Patch]:
    """A segment is let go while its object is still on its way."""
    original = Cold.turn

    def turn(self: Cold, *arguments: Any, **named: Any) -> Any:
        effects, there = original(self, *arguments, **named)
        uploading = [n for n in self.kept() if self._stored.get(n) is ColdState.UPLOADING]
        return effects, [*there, *uploading]

    return [(Cold, "turn", turn)]


def _not_read_back() -> list[Patch]:
    """What the store says of an upload is believed."""
    return [(ObjectStore, "gives_back", lambda self, name, data: True)]


def _other_object() -> list[Patch]:
    """Ranges are read from whichever object is asked for most, and nobody looks what they hold."""
    original = ObjectStore._fetch

    def fetch(self: ObjectStore, name: str, start: int, until: int) -> Any:
        mine = name.rpartition("/")[0]
        others = [each for each in self.objects if each.startswith(mine) and each != name]
        return original(self, others[0] if others else name, start, until)

    def fits(self: Reader, row: Any, frame: Any) -> bool:
        return True

    return [(ObjectStore, "_fetch", fetch), (Reader, "_was_ordered_there", fits)]


def _cold_is_missed() -> list[Patch]:
    """A start of a `flush` storage node takes cold segments for lost ones."""
    return [(Cold, "ends", lambda self: {})]


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="ack before persist",
        seeds=_from(5, 2, 4),
        rule="P9",
        patches=_ack_before_persist,
        knobs=_powerless(),
    ),
    Mutation(
        name="unsynced group reported",
        seeds=_from(5, 6, 8),
        rule="P7",
        patches=_unsynced_reported,
        knobs=_powerless(),
    ),
    Mutation(
        name="torn group counted",
        seeds=_from(5, 36, 29, 4),
        rule="P30",
        patches=_torn_counts,
        knobs=_powerless(),
    ),
    Mutation(
        name="largest instead of W-th largest",
        seeds=_from(7, 4, 5),
        rule="P9",
        patches=_frontier_of(lambda counts, quorum: counts[0] if counts else 0),
        knobs=_world(faults={"reset": 5.0}, weights=_APPENDS),
    ),
    Mutation(
        name="minimum instead of W-th largest",
        rule="P9",
        patches=_frontier_of(lambda counts, quorum: counts[-1] if len(counts) == 3 else 0),
        knobs=_world(away_share=1.0, weights=_APPENDS),
    ),
    Mutation(
        name="an old incarnation counts",
        seeds=_from(6, 2),
        rule="P6",
        patches=_old_incarnation_counts,
        knobs=_world(
            faults={"wipe": 12.0, "clog": 60.0, "kill_engine": 8.0},
            write_quorum=3,
            engine_count=3,
            down_s=0.003,
            latency_s=0.0002,
            clog_s=0.03,
            sync_s=0.0003,
            workers=3,
            pause_s=0.01,
            weights=_APPENDS,
        ),
    ),
    Mutation(
        name="a shard is reused",
        rule="P1",
        patches=_shard_reused,
        knobs=_world(faults={"kill_engine": 6.0}, down_s=0.03, weights=_APPENDS),
    ),
    Mutation(
        name="a frame is resent as a new one",
        rule="P8",
        patches=_resent_as_new,
        knobs=_world(weights=_APPENDS),
    ),
    Mutation(
        name="keyless appends are sent again",
        seeds=_from(3, 9, 7),
        rule="P23",
        patches=_keyless_sent_again,
        knobs=_world(faults={"reset": 25.0}, latency_s=0.003, weights=_APPENDS),
    ),
    Mutation(
        name="checkpoint ahead of its frames",
        seeds=_from(4, 1, 0),
        rule="P19",
        patches=_checkpoint_ahead_of_frames,
        knobs=replace(
            _powerless(), checkpoint_s=0.01, postings_max=5, sync_s=0.003, sync_slow_share=0.5
        ),
    ),
    Mutation(
        name="checkpoint ahead of its metalog",
        rule="P11",
        patches=_checkpoint_ahead_of_the_metalog,
        knobs=_world(durabilities=("sync", "flush"), books=2, weights=_APPENDS, checkpoint_s=0.05),
    ),
    Mutation(
        name="a closed shard counts",
        rule="P2",
        patches=_closed_shards_count,
        knobs=_world(
            faults={"kill_engine": 12.0},
            down_s=0.002,
            latency_s=0.0001,
            sync_s=0.004,
            sync_slow_share=0.3,
            workers=4,
            pause_s=0.005,
            weights=_APPENDS,
        ),
    ),
    Mutation(
        name="conditions per record",
        seeds=_from(4, 7, 9, 6),
        rule="P22",
        patches=_decide_with(_per_record),
        knobs=_world(weights=WEIGHTS | {"batch": 20}, tags=1),
    ),
    Mutation(
        name="a verdict is skipped",
        seeds=_from(5, 6, 4),
        rule="P22",
        patches=_decide_with(_skipped),
        knobs=_world(weights=WEIGHTS | {"unless": 20, "burst": 10}, tags=1, latency_s=0.003),
    ),
    Mutation(
        name="tag state is lost with trimmed records",
        seeds=_from(4, 9, 7),
        rule="P20",
        patches=_tag_state_lost,
        knobs=_world(weights=WEIGHTS | {"trim": 10, "unless": 10, "batch": 10}),
    ),
    Mutation(
        name="holds are ignored",
        seeds=_from(6, 1, 3),
        rule="P25",
        patches=_holds_ignored,
        knobs=_world(weights=WEIGHTS | {"trim": 8, "hold": 8}),
    ),
    Mutation(
        name="a trim goes past the tail",
        seeds=_from(3, 9, 6, 2),
        rule="P25",
        patches=_trim_past_the_tail,
        knobs=_world(weights=WEIGHTS | {"trim": 10}),
    ),
    Mutation(
        name="keys are forgotten too early",
        seeds=_from(6, 5, 0),
        rule="P22",
        patches=_keys_forgotten_early,
        knobs=_world(weights=WEIGHTS | {"key": 20}),
    ),
    Mutation(
        name="void marks are dropped",
        seeds=_from(2, 6, 1),
        rule="P22",
        patches=_void_marks_dropped,
        knobs=_reads(tags=1, books=1),
    ),
    Mutation(
        name="trimmed records are served",
        rule="P25",
        patches=_trimmed_records_served,
        knobs=_reads(facts=False, tags=1, books=1),
        seeds=(21, 11, 2, 16, 26),
    ),
    Mutation(
        name="none below the token",
        seeds=_from(3),
        rule="P27",
        patches=_none_below_the_token,
        knobs=_reads(facts=False, faults={"clog": 10.0}, clog_s=0.05),
    ),
    Mutation(
        name="facts above their position",
        rule="P27",
        patches=_facts_above_their_position,
        knobs=_reads(faults={"clog": 10.0}, clog_s=0.05),
        seeds=(14, 10, 6, 7, 18),
    ),
    Mutation(
        name="trims unheard",
        seeds=_from(4, 5, 6),
        rule="P27",
        patches=_trims_unheard,
        knobs=_world(
            weights=WEIGHTS | {"trim": 6, "trim_tag": 6, "linearizable": 20}, tags=1, books=1
        ),
    ),
    Mutation(
        name="a session forgets",
        seeds=_from(6, 4, 5),
        rule="P27",
        patches=_session_forgets,
        knobs=_reads(),
    ),
    Mutation(
        name="a stale primary answers a linearizable read",
        seeds=(229, 41),  # about one in forty: a partition must leave the old primary an engine
        rule="P26",
        patches=_stale_tail,
        knobs=_changing(
            duration_s=2.0,
            workers=4,
            weights=WEIGHTS | {"linearizable": 10, "tail": 40, "append": 40},
            faults={"partition": 1.2},
        ),
    ),
    Mutation(
        name="a tail of the past",
        seeds=_from(1, 0, 2),
        rule="P26",
        patches=_tail_of_the_past,
        knobs=_world(weights=WEIGHTS | {"linearizable": 10, "tail": 10}),
    ),
    Mutation(
        name="time goes back",
        seeds=_from(2, 5, 6),
        rule="P10",
        patches=_time_goes_back,
        knobs=_world(faults={"clock": 8.0}),
    ),
    Mutation(
        name="published before a majority holds it",
        seeds=_from(2, 9, 0),
        rule="P11",
        patches=_published_alone,
        knobs=_changing(),
    ),
    Mutation(
        name="a backup counts what is not synced",
        seeds=_from(3, 9, 4),
        rule="P11",
        patches=_backup_tells_unsynced,
        knobs=_changing(sync_s=0.01),
    ),
    Mutation(
        name="the seal is forgotten",
        rule="P14",
        patches=_seal_forgotten,
        knobs=_changing(),
        seeds=_from(36, 14),
    ),
    Mutation(
        name="a restarted process resumes as primary",
        seeds=_from(5, 4, 0),
        rule="P12",
        patches=_resumes_as_primary,
        knobs=_changing(faults={"kill_sequencer": 6.0}),
    ),
    Mutation(
        name="an end that was not stored",
        seeds=_from(3, 9, 1),
        rule="P13",
        patches=_unstored_end,
        knobs=_changing(),
    ),
    Mutation(
        name="the shortest answer is the end",
        seeds=_from(2, 9, 0),
        rule="P14",
        patches=_shortest_end,
        knobs=_changing(faults={"kill_sequencer": 5.0, "clog": 8.0, "reset": 4.0}),
    ),
    Mutation(
        name="a minority is enough to seal",
        seeds=_from(1, 8),
        rule="P13",
        patches=_minority_seals,
        knobs=_changing(faults={"cut": 8.0, "kill_sequencer": 4.0, "clog": 5.0}),
    ),
    Mutation(
        name="a term's end is not synced",
        seeds=_from(15, 5, 38, 21),
        rule="P13",
        patches=_extended_unsynced,
        knobs=_changing(
            durabilities=("sync", "flush"),
            books=3,
            faults={"kill_sequencer": 8.0, "exchange": 3.0, "isolate": 3.0},
            checkpoint_s=0.03,
            sync_s=0.005,
            power_share=1.0,
            followers=0,
            duration_s=2.5,
        ),
    ),
    Mutation(
        name="aux data of a neighbour",
        seeds=_from(4, 5, 3),
        rule="contract: set_aux",
        patches=_aux_of_a_neighbour,
        knobs=_more(facts=False, weights={"aux": 20}),
    ),
    Mutation(
        name="a deleted LogBook takes appends",
        rule="P5",
        patches=_deleted_takes_appends,
        knobs=_more(weights={"delete": 4}),
    ),
    Mutation(
        name="ceilings are ignored",
        seeds=_from(12, 6, 3),
        rule="P11",
        patches=_ceilings_ignored,
        knobs=_more(
            ("sync", "flush"),
            sequencer_count=3,
            heartbeat_s=0.01,
            duration_s=1.5,
            faults={"kill_sequencer": 12.0},
            power_share=1.0,
            down_s=0.05,
        ),
    ),
    Mutation(
        name="seqnum_at is late",
        rule="contract: seqnum_at",
        patches=_late_seqnum_at,
        knobs=_more(weights={"seqnum_at": 20}),
    ),
    Mutation(
        name="a unit with a key is one record",
        seeds=_from(4, 3, 0),
        rule="P22",
        patches=_keyed_unit_is_one_record,
        knobs=_more(weights={"key_batch": 20}),
    ),
    Mutation(
        name="empty replicas say nothing",
        rule="P20",
        patches=_empty_replicas_say_nothing,
        knobs=_more(("sync", "memory"), faults={"blackout": 3.0}, settle_s=4.0, down_s=0.05),
    ),
    Mutation(
        name="frames that no fold has met are nothing",
        rule="P20",
        # The first cut of all is under way as the primary dies: one in 1,000. Without a world:
        # tests/protocol/test_p11_lost_metalogs.py.
        seeds=(172,),
        patches=_unfolded_frames_are_nothing,
        knobs=_more(
            ("sync", "memory"),
            sequencer_count=3,
            heartbeat_s=0.02,
            latency_s=0.01,
            duration_s=0.7,
            pause_s=0.03,
            down_s=0.05,
            power_share=0.0,
            followers=0,
            client_count=2,
            faults={"kill_sequencer": 2.5},
        ),
    ),
    Mutation(
        name="one empty replica is enough to start over",
        rule="P20",
        seeds=_from(4, 2, 1),
        patches=_one_empty_replica_is_enough,
        knobs=_more(
            ("sync", "memory"),
            duration_s=1.0,
            faults={"in_turn": 4.0},
            down_s=0.05,
            checkpoint_s=0.05,
        ),
    ),
    Mutation(
        name="a lone sequencer takes what others left out",
        # It must have been behind a partition, and not be behind: one in 200. The shell's own call:
        # tests/unit/sequencer/test_node.py.
        seeds=(139, 707, 1031),
        rule="P13",
        patches=_ends_not_met_at_a_start,
        knobs=_POWER_OF_FEWER,
    ),
    Mutation(
        name="what came in the batch of a view is not committed",
        rule="P13",
        # It takes entries that arrive as late as the view: one in ten.
        seeds=(20, 21, 124, 32, 59),
        patches=_taken_with_a_view_uncommitted,
        knobs=_changing(
            busy_share=0.5,
            busy_s=0.1,
            view_lag_s=0.1,
            slow_share=0.1,
            slow_s=0.1,
            duration_s=4.0,
            workers=4,
            client_count=4,
            faults={
                "isolate": 4.0,
                "cut": 8.0,
                "pause": 8.0,
                "kill_sequencer": 3.0,
                "cut_one_way": 8.0,
            },
        ),
    ),
    Mutation(
        name="what was lost is looked for in the newest term only",
        # A storage node must tell of the next term before its view is there: one in 200. Without a
        # world: tests/unit/functions/engine/test_lost_entries.py.
        seeds=(417, 522, 405),
        rule="P11",
        patches=_lost_entries_by_the_newest_term,
        knobs=_POWER_OF_FEWER,
    ),
    Mutation(
        name="folds past a metalog that is left are moved aside",
        seeds=_from(6, 5, 2),
        rule="P15",
        patches=_folds_past_moved_aside,
        knobs=_losing(),
    ),
    Mutation(
        name="runs from before a loss count",
        seeds=_from(5, 7, 9),
        rule="P15",
        patches=_runs_of_before_count,
        knobs=_losing(loses="write quorum", faults={"kill_storage": 6.0, "clog": 2.0}, down_s=0.6),
    ),
    Mutation(
        name="seqnums of a loss are given again",
        seeds=_from(1, 0),
        rule="P15",
        patches=_seqnums_of_a_loss_given_again,
        knobs=_losing(),
    ),
    Mutation(
        name="lost frames are not missed",
        seeds=_from(0, 13, 12),
        rule="P11",
        patches=_lost_frames_not_missed,
        knobs=_more(
            ("sync", "flush"),
            faults={"kill_storage": 6.0},
            power_share=1.0,
            down_s=0.05,
            checkpoint_s=0.05,
            node_cache_bytes=0,
        ),
    ),
    Mutation(
        name="a segment goes before its object is confirmed",
        seeds=_from(4, 7, 0),
        rule="P21",
        patches=_gone_before_it_is_cold,
        knobs=_colds(cold_latency_s=0.2, faults={"kill_storage": 3.0}, down_s=0.05),
    ),
    Mutation(
        name="an upload is not read back",
        rule="P21",
        patches=_not_read_back,
        knobs=_colds(cold_lost_share=0.5),
    ),
    Mutation(
        name="ranges of another object are served",
        seeds=_from(5, 8, 0),
        rule="P21",
        patches=_other_object,
        knobs=_colds(),
    ),
    Mutation(
        name="cold segments are missed at a start",
        rule="P24",
        seeds=_from(3),
        patches=_cold_is_missed,
        knobs=_colds(
            durabilities=("sync", "flush"), books=2, faults={"blackout": 2.0}, down_s=0.05
        ),
    ),
)
