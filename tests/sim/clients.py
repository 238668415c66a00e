"""Appenders and what they were told: the history that the checkers judge."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from bokilog.columns import Columns, record_sum
from bokilog.ids import NodeId
from bokilog.messages import (
    VERDICT_CONDITION_FAILED,
    VERDICT_VISIBLE,
    AppendFrame,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    Message,
)
from tests.sim.world import SPACE, World

BOOK = 7


@dataclass
class Append:
    """One unit of one record, and its outcome as far as its client knows."""

    data: bytes
    tag: str
    unless: int | None
    """`unless={tag: after}`"""
    issued_s: float
    seqnum: int | None = None
    """Acknowledged there."""
    answered_s: float | None = None
    void: bool = False
    """Told that its condition failed."""
    winner: int | None = None
    unknown: bool = False


@dataclass
class Client:
    """Appends frames of a few records; after its engine died it goes to the other one."""

    number: int
    world: World
    appends: list[Append] = field(default_factory=list)
    _sent: dict[int, list[Append]] = field(default_factory=dict)
    _ordered: dict[int, int] = field(default_factory=dict)
    _next_frame: int = 0
    _made: int = 0
    refused_count: int = 0
    _refused: int | None = None
    """First frame that was refused: nothing is sent before all later ones are refused too (P4)."""
    engine: NodeId | None = None

    def connect(self, engine: NodeId) -> None:
        self.engine = engine
        self._next_frame, self._refused = 0, None
        self.world.attach(self.number, engine, self.receive)

    def lost(self) -> None:
        """The engine died: what was sent and not answered is unknown, for ever."""
        for appends in self._sent.values():
            for append in appends:
                append.unknown = True
        self._sent.clear()
        self._ordered.clear()
        self.engine = None

    def append(self, count: int, *, unless: int | None = None) -> None:
        """One frame of `count` units."""
        if self.engine is None or self._refused is not None:
            return
        batch = []
        for _ in range(count):
            self._made += 1
            data = f"{self.number}:{self._made}".encode()
            tag = f"t{self.world.random.randrange(4)}"
            batch.append(Append(data, tag, unless, self.world.now_s))
        frame = self._next_frame
        self._next_frame += 1
        self._sent[frame] = batch
        self.appends += batch
        if not self.world.send(self.number, self.engine, _message(frame, batch)):
            self.lost()

    def receive(self, message: Message) -> None:
        now_s = self.world.now_s
        match message:
            case FrameOrdered(number=number, first_seqnum=first):
                batch = self._sent[number]
                if batch[0].unless is not None:
                    self._ordered[number] = first
                    return
                del self._sent[number]
                for place, append in enumerate(batch):
                    append.seqnum, append.answered_s = first + place, now_s
            case FrameVerdicts(number=number, outcomes=outcomes):
                first = self._ordered.pop(number)
                batch = self._sent.pop(number)
                for unit, verdict, _, winner in outcomes:
                    append = batch[int(str(unit))]
                    append.answered_s = now_s
                    if verdict == VERDICT_VISIBLE:
                        append.seqnum = first + int(str(unit))
                    else:
                        assert verdict == VERDICT_CONDITION_FAILED
                        append.void, append.winner = True, int(str(winner))
            case FrameRefused(number=number):
                self.refused_count += 1
                for append in self._sent.pop(number):
                    self.appends.remove(append)
                first = number if self._refused is None else self._refused
                later = any(known > first for known in self._sent)
                self._next_frame, self._refused = first, first if later else None
            case FrameLost(number=number):
                for append in self._sent.pop(number):
                    append.unknown = True
            case _:
                raise AssertionError(f"client {self.number} was told {message}")

    @property
    def waiting(self) -> bool:
        return bool(self._sent)


def _message(number: int, batch: list[Append]) -> AppendFrame:
    sums, lengths = array("Q"), array("I")
    for append in batch:
        sums.append(record_sum(append.data)[0])
        lengths.append(len(append.data))
    columns = Columns(
        books=BOOK,
        unit_records=None,
        tags=[append.tag for append in batch],
        lengths=lengths,
        sums=sums,
        blocks=array("Q"),
        unless=[
            (unit, [(append.tag, append.unless)])
            for unit, append in enumerate(batch)
            if append.unless is not None
        ],
        keys=[],
    )
    return AppendFrame(SPACE, number, columns, [b"".join(append.data for append in batch)])
