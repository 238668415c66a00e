"""What clients said, as the history that the simulator's checkers judge.

Lines of all clients are sorted by the machine's monotonic time and told again to `History`
(`tests/sim/history.py`). A call's answer may be of any entry ordered before the answer was known:
entries carry the wall time of the one machine that all of this runs on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from bokilog.errors import BokilogError
from bokilog.ids import SYSTEM_SPACE, Position
from bokilog.record import Record
from tests.chaos.client import Line
from tests.sim.history import Folded, Following, History, Kind, Operation, Track
from tests.sim.loop import World
from tests.sim.oracle import SpaceOracle
from tests.sim.verdicts import Judge, broken_rules

CLOCK_SLACK_MS = 50
REASONS_MAX = 20
REASON_CHARACTERS_MAX = 1_000


@dataclass(slots=True)
class Told:
    """Everything that was heard of clients in one round."""

    lines: list[tuple[str, Line]] = field(default_factory=list)
    """With the life of who said it."""
    counts: Counter[str] = field(default_factory=Counter)
    audited: dict[str, int] = field(default_factory=dict)
    """By LogBook: the seqnum that followers have to come to."""
    followed: dict[tuple[str, object], tuple[str, str | None, int]] = field(default_factory=dict)
    """Follows that go on: LogBook, tag and last seqnum."""
    waiting: dict[str, set[object]] = field(default_factory=dict)
    """Calls without an answer, by life."""
    bugs: list[str] = field(default_factory=list)

    def heard(self, life: str, line: Line) -> None:
        """Take one line."""
        self.lines.append((life, line))
        what = line.what
        if line.kind == "begin":
            self.waiting.setdefault(life, set()).add(what[0])
        elif line.kind == "end":
            self.waiting[life].discard(what[0])
        elif line.kind == "follow":
            _, book, tag, start = what
            assert isinstance(start, int) and (tag is None or isinstance(tag, str))
            self.followed[life, what[0]] = str(book), tag, start - 1
        elif line.kind == "record":
            known = self.followed[life, what[0]]
            assert isinstance(what[1], Record)
            self.followed[life, what[0]] = known[0], known[1], what[1].seqnum
        elif line.kind == "over":
            del self.followed[life, what[0]]
        elif line.kind == "audited":
            assert isinstance(what[1], int)
            self.audited[str(what[0])] = what[1]
        elif line.kind == "bug":
            self.bugs.append(f"{life}: {what[0]}")

    def died(self, life: str) -> None:
        """Nobody hears more of it: its calls have no answer, its follows are over."""
        self.waiting.pop(life, None)
        for key in [key for key in self.followed if key[0] == life]:
            del self.followed[key]

    def behind(self) -> list[str]:
        """Follows that have yet to come to what the audit appended."""
        return [
            f"{life} follows {book} {tag}: is at {last}, not at {self.audited[book]}"
            for (life, _), (book, tag, last) in self.followed.items()
            if last < self.audited.get(book, 0)
        ]


def judged(told: Told, oracle: SpaceOracle, world: World) -> Iterator[str]:
    """Everything in what was told that no right log could have done."""
    history, oracles = _History(told, oracle, world).history, {SYSTEM_SPACE: oracle}
    for count, reason in enumerate(broken_rules(history, oracles)):
        if count < REASONS_MAX:
            yield reason[:REASON_CHARACTERS_MAX]
    judge = Judge(history, oracles)
    for following in history.followings:
        missing = None if following.over else judge.behind(following)
        if missing is not None:
            yield missing
    for operation in history.operations:
        told.counts[_outcome(operation)] += 1


def _outcome(operation: Operation) -> str:
    if operation.kind != "append":
        return "read" if operation.ok else "read failed"
    if operation.ok:
        return "acked"
    return "unknown" if operation.unknown else "failed"


class _History:
    """Lines in, history out."""

    def __init__(self, told: Told, oracle: SpaceOracle, world: World) -> None:
        self.history = History(world, self._folded)
        self._timestamps_ms = [each.entry.timestamp_ms for each in oracle.entries]
        self._wall_ms = 0
        self._tracks: dict[str, Track] = {}
        self._operations: dict[tuple[str, object], Operation] = {}
        self._followings: dict[tuple[str, object], Following] = {}
        for life, line in sorted(told.lines, key=lambda each: each[1].time_ns):
            world.now_s = line.time_ns / 1e9
            self._wall_ms = max(self._wall_ms, line.wall_ms)
            self._take(life, line.kind, line.what)
        for (life, number), following in self._followings.items():
            following.over = following.over or (life, number) not in told.followed

    def _folded(self) -> Folded:
        return ((0, bisect_right(self._timestamps_ms, self._wall_ms + CLOCK_SLACK_MS)),)

    def _take(self, life: str, kind: str, what: tuple[object, ...]) -> None:
        if kind == "begin":
            self._begin(life, what)
        elif kind == "end":
            number, positions, answer, error = what
            assert isinstance(positions, tuple)
            assert error is None or isinstance(error, BokilogError)
            operation = self._operations[life, number]
            self.history.end(operation, positions, answer=answer, error=error)
            self.history.answered()
        elif kind == "follow":
            number, book, tag, start = what
            assert isinstance(start, int) and (tag is None or isinstance(tag, str))
            following = Following(life, str(book), tag, start)
            self._followings[life, number] = following
            self.history.followings.append(following)
        elif kind == "record":
            assert isinstance(what[1], Record)
            self._followings[life, what[0]].records.append(what[1])
        elif kind == "over":
            self._followings[life, what[0]].over = True

    def _begin(self, life: str, what: tuple[object, ...]) -> None:
        number, kind, client, book, seen, args = what
        assert isinstance(seen, tuple) and isinstance(args, dict)
        name, positions, trims = seen
        track = self._tracks.setdefault(name, Track(name))
        track.positions, track.trims = tuple(Position(*each) for each in positions), trims
        self._operations[life, number] = self.history.begin(
            cast(Kind, kind), str(client), str(book), track, args
        )
