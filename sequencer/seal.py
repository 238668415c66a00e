"""The end of a term, as one of its sequencers takes part in it: promises, and what it brings.

A controller seals the term: this sequencer promises that nothing of it is acknowledged here any
more, and answers once the promise is synced, with everything it ever acknowledged (P14). Then a
controller wants the metalogs extended up to the ends that it found: what is missing is fetched from
a sequencer that has it, and the answer comes once all of it is synced, in every class (P13): what
a majority has synced stays with one, also if the next view gives another disk a vote (P11).

Invariants: nothing is acknowledged between asking for the promise to be stored and the next view; a
promise outlives the process; a controller may ask any number of times, and so may several: nothing
is dropped for one of them, since another one's end may be the one that is stored.

Does not know: how ends are found, who is asked, what comes after. Differs from Boki, whose
sequencers promise in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from bokilog.effects import Address, Effect, Send, StorePromise
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.journal import Journal
from bokilog.messages import Extend, Extended, FetchRuns, Runs, RunsGone, Sealed
from bokilog.metalog import Run
from bokilog.named import NamedTuple
from bokilog.sequencer.held import Standing, read_runs
from bokilog.sequencer.runs import RunIndex
from bokilog.view import LogSpace


class Holder(Protocol):
    """A primary or a backup, as far as the end of its term is concerned."""

    space: LogSpace

    @property
    def count(self) -> int:
        """Entries held, durable or not."""

    @property
    def standing(self) -> Standing:
        """What is durable."""

    @property
    def synced_count(self) -> int:
        """Of `flush` and `memory`: entries that were synced because somebody wanted that."""

    @property
    def runs(self) -> RunIndex:
        """Where they lie in the journal."""

    @property
    def begins_at(self) -> int:
        """Count before the first entry that is kept (P16)."""

    def runs_gone(self, count: int) -> None:
        """Whoever feeds it keeps no entries before `count`."""

    def seal(self) -> None:
        """From now on nothing is acknowledged."""

    def take_fetched(self, runs: Iterable[Run], until: int) -> list[Effect]:
        """Entries that another sequencer holds."""

    def sync(self, count: int) -> list[Effect]:
        """So many entries are to be synced, once they are written; `synced_count` tells."""


class Wanted(NamedTuple):
    """What a controller wants held of one log space."""

    controller: Address
    row: list[int]
    """As in `Extend.ends`."""
    source: NodeId

    @property
    def until(self) -> int:
        """How many entries."""
        return self.row[2]


class Sealing:
    """Of one sequencer process, over all its log spaces; pure.

    Args:
        node: its name.
        incarnation: of this start (P3).
        disk_id: of its data directory (P14).
        promised: the last term that an earlier start, or this one, promised to leave alone; None:
            none yet.
    """

    def __init__(
        self, *, node: NodeId, incarnation: int, disk_id: str, promised: Term | None
    ) -> None:
        self.promised = promised
        self._node = node
        self._incarnation = incarnation
        self._disk_id = disk_id
        self._storing: Term | None = None
        self._controllers: dict[Address, None] = {}
        """Who waits for the promise."""
        self._wanted: dict[LogSpaceId, Wanted] = {}

    def is_sealed(self, term: Term) -> bool:
        """Whether nothing of the term is acknowledged here any more."""
        newest = max(
            (each for each in (self.promised, self._storing) if each is not None), default=-1
        )
        return newest >= term

    def begin(self) -> None:
        """Another view begins: what was asked about the last one is over."""
        self._controllers.clear()
        self._wanted.clear()

    # --- the promise ------------------------------------------------------------------------------

    def seal(
        self,
        controller: Address,
        term: Term,
        holders: Mapping[LogSpaceId, Holder],
        ceilings: Mapping[LogSpaceId, int],
    ) -> list[Effect]:
        """A controller asks for the promise; `term` is the present one."""
        for holder in holders.values():
            holder.seal()
        if self.promised is not None and self.promised >= term:
            return [Send(controller, self._answer(term, holders, ceilings))]
        asked_before = controller in self._controllers
        self._controllers[controller] = None
        if self._storing == term and not asked_before:
            return []
        self._storing = term  # once more if it asks again: storing it may have failed
        return [StorePromise(term)]

    def promise_stored(
        self,
        stored: Term,
        term: Term,
        holders: Mapping[LogSpaceId, Holder],
        ceilings: Mapping[LogSpaceId, int],
    ) -> list[Effect]:
        """The promise about `stored` is synced; `term` is the present one."""
        self.promised = max(stored, self.promised or stored)
        if stored < term:
            return []
        controllers, self._controllers = self._controllers, {}
        answer = self._answer(term, holders, ceilings)
        return [Send(controller, answer) for controller in controllers]

    def _answer(
        self, term: Term, holders: Mapping[LogSpaceId, Holder], ceilings: Mapping[LogSpaceId, int]
    ) -> Sealed:
        rows = []
        for space, holder in holders.items():
            if self._node in holder.space.sequencers:
                end = holder.standing.end
                ceiling = ceilings.get(space, 1)
                rows.append([space, *end.position, end.tail, end.timestamp_ms, ceiling])
        return Sealed(term, self._disk_id, self._incarnation, rows)

    # --- everything up to the end -----------------------------------------------------------------

    def extend(
        self, controller: Address, message: Extend, holders: Mapping[LogSpaceId, Holder]
    ) -> list[Effect]:
        """A controller wants these ends held."""
        effects: list[Effect] = []
        for row in message.ends:
            space = LogSpaceId(row[0])
            if space in holders:
                wanted = Wanted(controller, row, NodeId(message.source))
                self._wanted[space] = wanted
                effects += self._fetch(Term(message.term), wanted, holders[space])
                effects += _sync(holders[space], wanted.until)
        return [*effects, *self.moved(Term(message.term), holders)]

    def _fetch(self, term: Term, wanted: Wanted, holder: Holder) -> list[Effect]:
        if holder.count >= wanted.until or wanted.source == self._node:
            return []
        ask = FetchRuns(holder.space.id, term, holder.count, wanted.until)
        return [Send(wanted.source, ask)]

    def fetched(self, message: Runs, holder: Holder) -> list[Effect]:
        """Another sequencer's entries; with some progress the next ones are asked for."""
        wanted = self._wanted.get(LogSpaceId(message.space))
        if wanted is None:
            return []
        before = holder.count
        effects = holder.take_fetched(message.runs, wanted.until)
        if holder.count > before:
            effects += self._fetch(Term(message.term), wanted, holder)
        return effects

    def runs_gone(self, source: Address, message: RunsGone, holder: Holder) -> None:
        """The sequencer that was asked keeps no entries before that: its first ones follow."""
        wanted = self._wanted.get(LogSpaceId(message.space))
        if wanted is not None and wanted.source == source:
            holder.runs_gone(message.count)

    def moved(self, term: Term, holders: Mapping[LogSpaceId, Holder]) -> list[Effect]:
        """More may be synced: who wanted it is told."""
        done: dict[Address, list[list[int]]] = {}
        for space, wanted in list(self._wanted.items()):
            if _kept_count(holders[space]) >= wanted.until:
                del self._wanted[space]
                done.setdefault(wanted.controller, []).append(wanted.row)
        return [
            Send(controller, Extended(term, self._disk_id, self._incarnation, rows))
            for controller, rows in done.items()
        ]


def _sync(holder: Holder, count: int) -> list[Effect]:
    """Entries of class `sync` are synced anyhow."""
    return [] if holder.space.durability == "sync" else holder.sync(count)


def _kept_count(holder: Holder) -> int:
    """Entries that no loss of power takes from it."""
    is_sync = holder.space.durability == "sync"
    return holder.standing.count if is_sync else holder.synced_count


def serve(source: Address, message: FetchRuns, holder: Holder, journal: Journal) -> list[Effect]:
    """What this sequencer durably holds of the entries that another one lacks; from where its
    metalog begins, if the other one holds less (P16)."""
    until, begins_at = min(message.until, holder.standing.count), holder.begins_at
    gone = RunsGone(message.space, message.term, begins_at)
    told = [Send(source, gone)] if message.first < begins_at < until else []
    runs = read_runs(journal, holder.runs, max(message.first, begins_at), until)
    return [*told, Send(source, Runs(message.space, message.term, tuple(runs)))]
