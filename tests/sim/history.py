"""What clients did and were told: the history that the checkers judge.

Every operation has its place in real time (numbers that only grow, so that "was answered before the
other began" is exact), what its session had seen when it began, and its outcome. Whoever was not
told an outcome may have had any: such operations stay indeterminate for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bokilog.errors import BokilogError
from bokilog.ids import START, Position
from bokilog.record import Page, Record
from tests.sim.loop import World

Kind = Literal[
    "append",
    "read_next",
    "read_prev",
    "read",
    "page",
    "tail",
    "trim",
    "hold",
    "release",
    "aux",
    "seqnum_at",
    "create",
    "delete",
]
Answer = object
"""What a call returned: a seqnum, a range, a record, a page, a trim, or None."""
Positions = tuple[Position, ...]
"""One per log space."""
Folded = tuple[tuple[int, int], ...]
"""How far the order of each log space had been folded: (branch, count), as `SpaceOracle.now`."""


@dataclass(slots=True)
class Track:
    """A session as its holder knows it: what it has to reflect, whatever the client believes."""

    name: str
    positions: Positions = ()
    """What it has seen of each metalog; of those that are not here, nothing."""
    trims: dict[str, int] = field(default_factory=dict)
    """By LogBook: the first kept seqnum that it was told."""


@dataclass(slots=True)
class Seen:
    """What was known when something began or ended."""

    order: int
    at_s: float
    session: Positions
    """What the session has seen."""
    anybody: Positions
    """What any client had seen."""
    folded: Folded
    """Up to where the order had been folded by any replica."""


@dataclass(slots=True)
class Operation:
    """One call."""

    kind: Kind
    client: str
    """Name of the client's life: a client that comes back is another one."""
    book: str
    args: dict[str, object]
    track: Track
    began: Seen
    trimmed: int
    """First kept seqnum of the LogBook as the session knew when it began."""
    ended: Seen | None = None
    answer: Answer = None
    error: BokilogError | None = None

    @property
    def ok(self) -> bool:
        return self.ended is not None and self.error is None

    @property
    def unknown(self) -> bool:
        """Whether it may have happened or not."""
        return self.ended is None or (self.error is not None and not self.error.definite)

    def __str__(self) -> str:
        args = " ".join(f"{name}={value!r}" for name, value in self.args.items())
        outcome = "no answer" if self.ended is None else f"{self.error or self.answer!r}"
        ended = f" ended {self.ended}" if self.ended is not None else ""
        return (
            f"{self.client} {self.kind} {self.book} {args} -> {outcome:.300} [{self.track.name}"
            f" began {self.began}{ended}]"
        )


@dataclass(slots=True)
class Following:
    """What one follow of one client's life was given."""

    client: str
    book: str
    tag: str | None
    start: int
    records: list[Record] = field(default_factory=list)
    over: bool = False
    """It ended: by an error, or with its client."""


class History:
    """All that was done in one run."""

    def __init__(self, world: World, folded: Callable[[], Folded], *, spaces: int = 1) -> None:
        self.operations: list[Operation] = []
        self.followings: list[Following] = []
        self.tokens: list[tuple[str, Track]] = []
        """Given out by clients for others, with what they stand for."""
        self.old_tokens: list[str] = []
        """The same of histories that ended (P15)."""
        self.keyed: list[tuple[str, str, bytes, str | None]] = []
        """(LogBook, key, data, tag) of appends with a key, to be tried again."""
        self.unanswered = 0
        self.damaged = False
        """Some disk was: a read that meets it may say so, and must not answer anything else."""
        self._world = world
        self._folded = folded
        self._order = itertools.count()
        self._nothing: Positions = (START,) * spaces
        self._anybody = self._nothing

    def begin(
        self, kind: Kind, client: str, book: str, track: Track, args: dict[str, object]
    ) -> Operation:
        operation = Operation(
            kind, client, book, args, track, self._seen(track), track.trims.get(book, 0)
        )
        self.operations.append(operation)
        self.unanswered += 1
        return operation

    def end(
        self,
        operation: Operation,
        positions: Sequence[Position],
        *,
        answer: Answer = None,
        error: BokilogError | None = None,
    ) -> None:
        """An operation was answered; `positions` are what its session says it has seen now."""
        track, said = operation.track, tuple(positions)
        known = track.positions or self._nothing
        if any(now < before for now, before in zip(said, known, strict=True)):
            self._world.violation(f"session {track.name} went back from {known} to {said}")
        track.positions = _later(said, known)
        self._anybody = _later(said, self._anybody)
        operation.answer, operation.error = answer, error
        operation.ended = self._seen(track)
        self._world.note(f"{operation.client} {operation.kind} {_short(answer)} {error!r}")

    def given_up(self, operation: Operation) -> None:
        """Its client died."""
        self.unanswered -= 1

    def answered(self) -> None:
        self.unanswered -= 1

    def _seen(self, track: Track) -> Seen:
        session = track.positions or self._nothing
        return Seen(next(self._order), self._world.now_s, session, self._anybody, self._folded())


def _later(some: Positions, others: Positions) -> Positions:
    return tuple(map(max, some, others))


def _short(answer: Answer) -> str:
    if isinstance(answer, Record):
        return f"record {answer.seqnum}"
    if isinstance(answer, Page):
        return f"page {[record.seqnum for record in answer.records]} {answer.next_seqnum}"
    return repr(answer)
