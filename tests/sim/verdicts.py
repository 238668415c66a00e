"""What must hold of a history, whatever the world did to the cluster.

The numbers in brackets are those of the checker list that this simulator was built for: acked
appends are there (1), one seqnum one value (2), keys (3), failures never appear (4), real-time
order (5), client order and whole batches (6), neighbours (7), tokens (8), monotone `None` (9),
conditions (10, 11), the metalog (12, 13), trims and holds (14), the index is the fold (15),
durability (17), wiped disks (18), and the chained hash (21); also aux data, times, and LogBooks
that are deleted and made again. Those about the order itself are judged while it is folded
(`oracle.py`); here calls are compared with it.

A read may be answered by the log as it was at any position from what its session had seen to the
last one known to anybody (P27); whoever is told a record that is known for ever is not told that it
was trimmed since, unless its own session knows.

A name may have had several LogBooks, and a log space below class `sync` several histories
(`oracle.py`): then what is right of any of them that the caller may have met is right. What no loss
excuses: two values that anybody was told of one seqnum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bokilog.client.books import Created, Deleted, decode
from bokilog.cold import ColdMiss
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    ConditionFailed,
    CorruptRecord,
    DataError,
    DataLost,
    KeyReused,
    Trimmed,
)
from bokilog.ids import SYSTEM_BOOK, SYSTEM_SPACE, LogSpaceId, Position
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_VISIBLE,
    Read,
)
from bokilog.metalog import Hold, Trim as TrimEntry
from bokilog.record import Durability, Page, Record, Trim
from bokilog.storage_nodes.replica import Replica
from tests.sim.history import Following, History, Operation
from tests.sim.oracle import OrderedUnit, Seen, SpaceOracle, Timeline

NO_END = SEQNUM_MAX + 1
NOBODYS = -1
"""The number of the LogBook that there is when there is none: nothing is in it."""
Oracles = Mapping[LogSpaceId, SpaceOracle]


@dataclass(slots=True)
class Incarnation:
    """One of the LogBooks that a name has had."""

    number: int
    durability: Durability
    born: int
    """Count of the system log space at which it was created."""
    died: int | None = None
    """The same of its deletion."""


class Sight(NamedTuple):
    """A LogBook in one history, and the positions of it that an answer may be of."""

    oracle: SpaceOracle
    timeline: Timeline
    low: int
    high: int
    number: int


def incarnations(oracle: SpaceOracle) -> dict[str, list[Incarnation]]:
    """LogBooks by name, as the system LogBook has them, the oldest first."""
    found: dict[str, list[Incarnation]] = {}
    by_number: dict[int, Incarnation] = {}
    for record in oracle.timeline(SYSTEM_BOOK).records:
        said = decode(record.data)
        if isinstance(said, Created):
            made = Incarnation(record.seqnum, said.durability, record.born)
            by_number[record.seqnum] = made
            found.setdefault(said.name, []).append(made)
        elif isinstance(said, Deleted):
            by_number[said.number].died = record.born
    return found


def broken_rules(history: History, oracles: Oracles) -> Iterator[str]:
    """Everything in a history that no right log could have done."""
    judge = Judge(history, oracles)
    yield from judge.appends()
    yield from judge.order()
    yield from judge.values()
    yield from judge.auxes()
    for operation in history.operations:
        reason = judge.call(operation)
        if reason is not None:
            yield f"{reason}: {operation}"
    for following in history.followings:
        reason = judge.following(following)
        if reason is not None:
            yield f"{following.client} follows {following.book} {following.tag}: {reason}"


class Judge:
    """One history against one order."""

    def __init__(self, history: History, oracles: Oracles) -> None:
        self._history = history
        self._oracles = oracles
        self._books_by_branch = [incarnations(each) for each in oracles[SYSTEM_SPACE].branches]
        self._books = _merged(self._books_by_branch)
        self._spaces = {oracle.durability: LogSpaceId(space) for space, oracle in oracles.items()}

    # --- which LogBook, in which history ----------------------------------------------------------

    def _incarnations(self, book: str) -> list[Incarnation]:
        return self._books.get(book, [])

    def _oracle(self, incarnation: Incarnation) -> SpaceOracle:
        return self._oracles[self._spaces[incarnation.durability]]

    def _numbers(self, book: str) -> set[int]:
        return {each.number for each in self._incarnations(book)}

    def _bounds(self, operation: Operation, oracle: SpaceOracle, branch: int) -> tuple[int, int]:
        """First and last position of a branch that an answer may be of; first past last: none."""
        assert operation.ended is not None
        space = oracle.space
        seen = operation.began.session[space]
        if operation.args.get("linearizable"):
            seen = max(seen, operation.began.anybody[space])
        of = [*oracle.branches][branch]
        fork = oracle.forks[branch] if branch < len(oracle.lost) else None
        if fork is not None and seen.term >= fork.term and not fork.refolded:
            return 1, 0  # whoever has seen what came after it is told nothing of it any more
        if fork is not None and fork.accepted and operation.began.folded[space][0] > branch:
            return 1, 0  # nobody is any more who may tell of what a person has given up
        low = of.met(seen)
        known = oracle.reached(operation.ended.folded[space], branch)
        high = max(low, known, of.met(operation.ended.session[space]))
        if low > of.count:
            return 1, 0
        return low, min(high, of.count)

    def _sights(self, operation: Operation) -> Iterator[Sight]:
        """Everything that an answer may be of."""
        system = self._oracles[SYSTEM_SPACE]
        for number, books in enumerate(self._books_by_branch):
            low, high = self._bounds(operation, system, number)
            if low <= high:
                yield from self._sights_by(operation, books.get(operation.book, []), low, high)

    def _sights_by(
        self, operation: Operation, books: list[Incarnation], low: int, high: int
    ) -> Iterator[Sight]:
        """The same, as the system LogBook knows LogBooks of that name at these positions."""
        for each in books:
            if each.born > high:
                continue
            oracle = self._oracle(each)
            for branch, of in enumerate(oracle.branches):
                first, last = self._bounds(operation, oracle, branch)
                if first <= last:
                    yield Sight(of, of.timeline(each.number), first, last, each.number)
        if _none_between(books, low, high):
            for oracle in self._oracles.values():
                for branch, of in enumerate(oracle.branches):
                    first, last = self._bounds(operation, oracle, branch)
                    if first <= last:
                        yield Sight(of, Timeline(), first, last, NOBODYS)

    # --- appends ----------------------------------------------------------------------------------

    def appends(self) -> Iterator[str]:
        """(1), (3), (4), (6), (10): what appenders were told is what the order decided."""
        for operation in self._history.operations:
            if operation.kind == "append":
                reason = self._append(operation)
                if reason is not None:
                    yield f"{reason}: {operation}"

    def _units(self, operation: Operation) -> list[tuple[SpaceOracle, int, OrderedUnit]]:
        """(log space, branch, unit) of everything that its bytes became."""
        datas = operation.args["datas"]
        assert isinstance(datas, tuple)
        return [
            (oracle, branch, unit)
            for oracle in self._oracles.values()
            for branch, of in enumerate(oracle.branches)
            for unit in of.by_data.get(datas[0], ())
        ]

    def _append(self, operation: Operation) -> str | None:
        found, keyed = self._units(operation), "key" in operation.args
        units = [unit for _, _, unit in found]
        for oracle in self._oracles.values():
            places = [
                unit.seqnum
                for of, branch, unit in found
                if (of, branch) == (oracle, len(of.lost)) and not _goes_to_the_next(oracle, unit)
            ]
            if len(places) > 1 and not keyed:
                return f"it was ordered {len(places)} times, at {places}"
        error = operation.error
        if operation.ended is None or isinstance(error, AppendUnknown):
            return None
        if isinstance(error, ConditionFailed):
            wanted = [VERDICT_CONDITION_FAILED, error.tag, error.winner]
            if not any(unit.verdict[1:] == wanted for unit in units):
                return f"its condition did not fail so: {[unit.verdict for unit in units]}"
            return None
        if isinstance(error, KeyReused):
            wanted = [VERDICT_KEY_REUSED, error.seqnum, error.key]
            if not any(unit.verdict[1:] == wanted for unit in units):
                return f"its key was not used so: {[unit.verdict for unit in units]}"
            return None
        if error is not None:
            visible = [
                unit
                for of, _, unit in found
                if unit.verdict[1] == VERDICT_VISIBLE and not _goes_to_the_next(of, unit)
            ]
            if visible and not keyed and error.definite:
                return f"it failed for certain, and was ordered at {visible[0].seqnum}"
            return None
        return self._acknowledged(operation, found)

    def _acknowledged(
        self, operation: Operation, found: list[tuple[SpaceOracle, int, OrderedUnit]]
    ) -> str | None:
        datas, answer = operation.args["datas"], operation.answer
        assert isinstance(datas, tuple) and operation.ended is not None
        first, uncovered = answer.start if isinstance(answer, range) else answer, ""
        if isinstance(answer, range) and len(answer) != len(datas):
            return f"{len(datas)} records were given {len(answer)} seqnums"
        for oracle, branch, unit in found:
            landed = unit.verdict[2] if unit.verdict[1] == VERDICT_DUPLICATE else unit.seqnum
            if unit.verdict[1] not in (VERDICT_VISIBLE, VERDICT_DUPLICATE) or landed != first:
                continue
            if unit.datas != datas or unit.book not in self._numbers(operation.book):
                return f"something else was ordered: {unit}"
            if not _same_tags(operation.args["tags"], unit.tags):
                return f"it was ordered with other tags: {unit}"
            if [*oracle.branches][branch].met(operation.ended.session[oracle.space]) < unit.at:
                if branch == len(oracle.lost):  # else its session has seen what came after the loss
                    uncovered = f"its token does not cover it: it was ordered by entry {unit.at}"
                continue  # it may have landed at the same seqnum of another log space
            return None
        if uncovered:
            return uncovered
        for each in self._incarnations(operation.book):
            oracle = self._oracle(each)
            told = operation.ended.session[oracle.space]
            if oracle.is_gap(_number(first, 0)):
                return None  # every copy was gone before any fold got there (see `skipped`)
            for fork, was in zip(oracle.forks, oracle.lost, strict=True):
                unseen = told.term < fork.term and told.count > max(was.count, fork.kept)
                over = fork.started_over and not fork.unharmed
                if over and _number(first, 0) < fork.lost_until:
                    return None  # it was in memory, and lost before anybody had folded it
                if not fork.refolded and unseen and _number(first, 0) >= fork.lost_until:
                    return None  # the same of the end of an order
        units = [unit for _, _, unit in found]
        return f"it was acknowledged at {first}, and that is not so: {units}"

    def order(self) -> Iterator[str]:
        """(5), (6): acknowledged before another was issued, or issued before it by the same
        client: ordered before it."""
        placed: dict[int, list[tuple[Operation, int]]] = defaultdict(list)
        for operation in self._history.operations:
            if operation.kind == "append" and "key" not in operation.args:
                found = self._units(operation)
                seqnums = {(each[0].space, each[2].seqnum) for each in found}
                if len(seqnums) == 1 and found[0][2].verdict[1] == VERDICT_VISIBLE:
                    placed[found[0][0].space].append((operation, found[0][2].seqnum))
        for each in placed.values():
            yield from _order(each)

    # --- what no loss excuses ---------------------------------------------------------------------

    def values(self) -> Iterator[str]:
        """(2): whoever is told of a seqnum is told of the same record, also across losses."""
        known: dict[tuple[LogSpaceId, int], tuple[object, object]] = {}
        for book, seqnum, record, who in self._told():
            spaces = {self._spaces[each.durability] for each in self._incarnations(book)}
            if len(spaces) != 1:
                continue  # nothing says of which of them the answer is
            first, told = known.setdefault((spaces.pop(), seqnum), (record, who))
            if first != record:
                yield f"seqnum {seqnum} was {first!r} to {told}, and is {record!r} to {who}"

    def _told(self) -> Iterator[tuple[str, int, bytes, object]]:
        """(LogBook, seqnum, data, who was told) of every record in any answer."""
        for operation in self._history.operations:
            answer = operation.answer
            if operation.kind == "append" and operation.ok:
                datas = operation.args["datas"]
                assert isinstance(datas, tuple)
                first = answer.start if isinstance(answer, range) else answer
                assert isinstance(first, int)
                for place, data in enumerate(datas):
                    yield operation.book, first + place, data, operation.client
            for record in records_in(answer):
                yield operation.book, record.seqnum, record.data, operation.client
        for following in self._history.followings:
            for record in following.records:
                yield following.book, record.seqnum, record.data, following.client

    def auxes(self) -> Iterator[str]:
        """Aux data may get lost; what stands beside a record was set there, and before."""
        kept: dict[tuple[str, object, object], int] = {}
        for operation in self._history.operations:
            if operation.kind == "aux":
                args = operation.args
                name = operation.book, args["seqnum"], args["aux"]
                kept.setdefault(name, operation.began.order)
        for operation in self._history.operations:
            for record in records_in(operation.answer):
                if record.aux is None:
                    continue
                set_at = kept.get((operation.book, record.seqnum, record.aux))
                assert operation.ended is not None
                if set_at is None or set_at > operation.ended.order:
                    yield f"{record.aux!r} was not set beside {record.seqnum}: {operation}"

    # --- other calls ------------------------------------------------------------------------------

    def call(self, operation: Operation) -> str | None:
        """(7), (8), (9), (14): the answer is right at some position that it may be of."""
        if operation.ended is None:
            return None
        match operation.kind:
            case "read_next" | "read_prev" | "read" | "page":
                return self._read(operation)
            case "tail":
                return self._tail(operation)
            case "seqnum_at":
                return self._seqnum_at(operation)
            case "trim":
                return self._trim(operation)
            case "hold":
                return self._hold(operation)
            case "delete":
                return self._delete(operation)
            case _:
                return None

    def _read(self, operation: Operation) -> str | None:
        error = operation.error
        sights = [*self._sights(operation)]
        if isinstance(error, Trimmed):
            reasons = [self._trimmed(operation, sight, error.trim_until) for sight in sights]
            return None if None in reasons else f"nothing is trimmed so: {reasons}"
        if isinstance(error, DataError):
            return self._lost(operation, error, sights)
        if error is not None:
            return None
        if not sights:
            return f"it had seen {operation.began.session}, and the order never came there"
        expected: list[object] = []
        for sight in sights:
            asked = Asked(sight.timeline, operation.args)
            points = sight.timeline.points(sight.low, sight.high)
            if any(asked.right(operation.answer, at) for at in points):
                return None
            if self._right_before(operation, sight, asked):
                return None
            shown = [asked.expected(at) for at in (sight.low, sight.high)]
            expected.append(f"between {sight.low} and {sight.high}: {shown[0]} to {shown[1]}")
        return f"right was {' or '.join(map(str, expected))}"

    def _lost(self, operation: Operation, error: DataError, sights: list[Sight]) -> str | None:
        """What is said to be gone may be: by damage, or with the memory it was in."""
        if isinstance(error, CorruptRecord) and self._history.damaged:
            return None
        if isinstance(error, DataLost):
            for each in self._incarnations(operation.book):
                oracle = self._oracle(each)
                starts = [fork.lost_until for fork in oracle.forks if fork.started_over]
                spans = [*oracle.given_up(), *oracle.byteless]
                if any(start <= error.seqnum < until for start, until in spans):
                    return None
                if any(error.seqnum < start for start in starts) or oracle.is_gap(error.seqnum):
                    return None
        return "nothing was lost or damaged everywhere"

    def _right_before(self, operation: Operation, sight: Sight, asked: Asked) -> bool:
        """Whether the answer was right for ever but for a trim, at some position, and its session
        had not heard of that trim: such an answer may come from any position (P27)."""
        answer = operation.answer
        first = answer.seqnum if isinstance(answer, Record) else None
        if isinstance(answer, Page):
            first = min((record.seqnum for record in answer.records), default=None)
        trimmed = operation.trimmed if len(self._incarnations(operation.book)) == 1 else 0
        if operation.args.get("linearizable") or (first or NO_END) < trimmed:
            return False
        return any(
            asked.right(answer, at) and asked.closed(answer, sight.oracle.tail_at(at))
            for at in sight.timeline.points(0, sight.high)
        )

    def _trimmed(self, operation: Operation, sight: Sight, until: int) -> str | None:
        args, timeline = operation.args, sight.timeline
        tag = args.get("tag")
        assert tag is None or isinstance(tag, str)
        positions = [args.get(name) for name in ("min_seqnum", "max_seqnum", "seqnum", "until")]
        lowest = min((each for each in positions if isinstance(each, int) and each), default=0)
        for at in timeline.points(sight.low, sight.high):
            if timeline.trim_until(tag, at) == until and 0 < lowest < until:
                return None
        gone = timeline.deleted_at is not None and timeline.deleted_at <= sight.high
        if gone and any(fork.accepted for fork in sight.oracle.forks):
            return None  # its name's record of that may be lost, so that it is still read
        return f"it is trimmed until {timeline.trim_until(tag, sight.high)}"

    def _tail(self, operation: Operation) -> str | None:
        """(5): past everything that anybody knew of."""
        if operation.error is not None:
            return None
        tail = operation.answer
        assert isinstance(tail, int)
        reasons = []
        for oracle, timeline, low, _, number in self._sights(operation):
            if number == NOBODYS and tail == 1:
                return None
            if number == NOBODYS or timeline is None:
                continue
            if tail < oracle.tail_at(low):
                reasons.append(f"anybody could know that it is {oracle.tail_at(low)} or more")
            elif tail > oracle.tail:
                reasons.append(f"nothing was ever ordered past {oracle.tail}")
            else:
                return None
        return "; ".join(reasons) or "there was no such LogBook"

    def _seqnum_at(self, operation: Operation) -> str | None:
        """From the answer on is what was ordered at that time or later, and nothing before it."""
        if operation.error is not None:
            return None
        seqnum, at_ms = operation.answer, operation.args["timestamp_ms"]
        assert isinstance(seqnum, int) and isinstance(at_ms, int)
        reasons = []
        for oracle, timeline, low, high, _ in self._sights(operation):
            for at in timeline.points(low, high):
                visible = timeline.visible(None, 0, NO_END, at)
                late = [each.seqnum for each in visible if each.timestamp_ms >= at_ms]
                there = [each for each in late if not oracle.is_byteless(each)]
                if seqnum in (*late[:1], *there[:1]):
                    return None
                if not late and oracle.is_tail(seqnum, low, high):
                    return None  # the tail, or what has been appended there since
                if not late and seqnum == 1 and not visible:
                    return None  # there was no such LogBook
                reasons.append(f"at {at}: {late[:1] or oracle.tail_at(at)}")
        return f"right was {' or '.join(reasons[:6])}"

    def _entries(
        self, operation: Operation, kind: type[TrimEntry] | type[Hold]
    ) -> Iterator[object]:
        """Answers to the entries that this proposal may have become."""
        numbers = self._numbers(operation.book)
        for oracle in self._oracles.values():
            for of in oracle.branches:
                for record in of.entries:
                    if (
                        isinstance(record.entry, kind)
                        and record.entry.book in numbers
                        and all(
                            getattr(record.entry, name, value) == value
                            for name, value in operation.args.items()
                        )
                    ):
                        yield record.answer

    def _trim(self, operation: Operation) -> str | None:
        if operation.error is not None:
            return None
        answer = operation.answer
        assert isinstance(answer, Trim)
        answers = [*self._entries(operation, TrimEntry)]
        if [answer.until, answer.held_by] not in answers:
            return f"the fold answered {answers}"
        return None

    def _hold(self, operation: Operation) -> str | None:
        error = operation.error
        if error is not None and not isinstance(error, Trimmed):
            return None
        answers = [*self._entries(operation, Hold)]
        wanted: object = [] if error is None else (type(error).__name__, error.args)
        return None if wanted in answers else f"the fold answered {answers}"

    def _delete(self, operation: Operation) -> str | None:
        """Whoever is told that a LogBook is deleted can rely on it: its log space knows (P5)."""
        assert operation.ended is not None
        if not operation.ok:
            return None
        folded = operation.ended.folded
        for each in self._incarnations(operation.book):
            if each.died is None or each.died > folded[SYSTEM_SPACE][1]:
                continue
            oracle = self._oracle(each)
            known = oracle.timeline(each.number).deleted_at
            if known is not None and known <= oracle.reached(
                folded[oracle.space], len(oracle.lost)
            ):
                return None
            if oracle.lost:
                return None  # the deletion may have been lost with the end of its order
        if self._oracles[SYSTEM_SPACE].lost:
            return None  # the same of the record
        return "no log space has been told"

    # --- follows ----------------------------------------------------------------------------------

    def following(self, following: Following) -> str | None:
        """(7): every record once, in order, none left out unless it was trimmed."""
        last: dict[int, int] = {}
        for record in following.records:
            found = [
                each
                for each in self._incarnations(following.book)
                for of in self._oracle(each).branches
                if (seen := of.timeline(each.number).record(record.seqnum)) is not None
                and _same(record, seen)
            ]
            if not found:
                return f"{record} is nowhere in the order"
            each = found[-1]
            begins = following.start - 1 if not last else 0
            if record.seqnum <= begins and each is not self._incarnations(following.book)[0]:
                begins = 0  # it began in an earlier LogBook of that name, and found nothing there
            before = last.get(each.number, begins)
            if record.seqnum <= before:
                return f"{record.seqnum} follows {before}"
            if following.tag is not None and following.tag not in record.tags:
                return f"{record} is not of the tag"
            timeline = self._oracle(each).timeline(each.number)
            final = self._final(each)
            for skipped in timeline.visible(following.tag, before + 1, record.seqnum, final):
                if following.over and self._was_trimmed(each, skipped, following.tag):
                    continue
                return f"{skipped} was left out between {before} and {record.seqnum}"
            last[each.number] = record.seqnum
        return None

    def _was_trimmed(self, incarnation: Incarnation, record: Seen, tag: str | None) -> bool:
        """Whether it was, for readers of the tag, by a trim that was lost with the end of an order:
        a person has accepted that, or the class does not outlive what failed."""
        for was in self._oracle(incarnation).lost:
            timeline = was.timeline(incarnation.number)
            if record.seqnum < timeline.trim_until(tag, was.count):
                return True
            if timeline.gone(record, was.count):
                return True
        return False

    def _final(self, incarnation: Incarnation) -> int:
        """The last position at which something could be left out."""
        oracle = self._oracle(incarnation)
        deleted_at = oracle.timeline(incarnation.number).deleted_at
        return oracle.count if deleted_at is None else deleted_at

    def behind(self, following: Following) -> str | None:
        """(20): what a follow that goes on has still to yield."""
        found = self._incarnations(following.book)
        if not found or found[-1].died is not None:
            return None
        if any(self._oracle(each).lost for each in found[:-1]):
            return None  # that an older one was deleted may be lost, where followers would hear it
        oracle, number = self._oracle(found[-1]), found[-1].number
        timeline, start = oracle.timeline(number), 0
        for record in following.records:
            seen = timeline.record(record.seqnum)
            if seen is not None and _same(record, seen):
                start = record.seqnum + 1
        if len(found) == 1:
            start = max(start, following.start)
        for missing in timeline.visible(following.tag, start, NO_END, oracle.count):
            return f"{following.client} {following.book} {following.tag} has yet to see {missing}"
        return None


def _merged(branches: list[dict[str, list[Incarnation]]]) -> dict[str, list[Incarnation]]:
    """LogBooks of all histories of the system LogBook, as the last one has them that knows them."""
    found: dict[str, dict[int, Incarnation]] = {}
    for books in branches:
        for name, each in books.items():
            found.setdefault(name, {}).update({made.number: made for made in each})
    return {name: [each[number] for number in sorted(each)] for name, each in found.items()}


def _none_between(books: list[Incarnation], low: int, high: int) -> bool:
    """Whether there was none of these LogBooks at some position."""
    at = low
    for each in books:
        if at < each.born:
            return True
        if each.died is None:
            return False
        at = max(at, each.died)
    return at <= high


def _goes_to_the_next(oracle: SpaceOracle, unit: OrderedUnit) -> bool:
    """Whether it may be sent to the next LogBook of the name: its own is deleted, or was before the
    log space lost that deletion with all else (class `memory`), and engines still know of it.
    """
    lost = any(unit.book in branch.deleted for branch in oracle.lost)
    return lost or unit.verdict[1] == VERDICT_BOOK_DELETED


def records_in(answer: object) -> list[Record]:
    """Those that a call returned."""
    if isinstance(answer, Page):
        return list(answer.records)
    return [answer] if isinstance(answer, Record) else []


def _order(placed: list[tuple[Operation, int]]) -> Iterator[str]:
    """Of one log space."""
    ends = sorted(
        (operation.ended.order, seqnum)
        for operation, seqnum in placed
        if operation.ok and operation.ended is not None
    )
    largest, place = 0, 0
    for operation, seqnum in sorted(placed, key=lambda each: each[0].began.order):
        while place < len(ends) and ends[place][0] < operation.began.order:
            largest = max(largest, ends[place][1])
            place += 1
        if seqnum < largest:
            yield f"it was ordered at {seqnum}, after {largest} was known: {operation}"
    last: dict[tuple[str, str], int] = defaultdict(int)
    for operation, seqnum in placed:
        if operation.ok:
            line = operation.client, operation.book
            if seqnum < last[line]:
                yield f"an earlier append of its client stands behind it: {operation}"
            last[line] = seqnum


class Asked:
    """A read's question, at any position."""

    def __init__(self, timeline: Timeline, args: dict[str, object]) -> None:
        self._timeline = timeline
        self._args = args
        tag = args.get("tag")
        assert tag is None or isinstance(tag, str)
        self._tag = tag
        self._single = "limit" not in args
        self._reverse = "max_seqnum" in args or bool(args.get("reverse"))
        if "seqnum" in args:
            self._start = _number(args["seqnum"], 0)
            self._until = self._start + 1
        elif "max_seqnum" in args:
            self._start = 0
            self._until = _number(args["max_seqnum"], SEQNUM_MAX) + 1
        else:
            self._start = _number(args["min_seqnum"], 0)
            self._until = _number(args.get("until"), NO_END)

    def _visible(self, at: int) -> list[Seen]:
        found = self._timeline.visible(self._tag, self._start, self._until, at)
        return found[::-1] if self._reverse else found

    def _refused(self, at: int) -> bool:
        explicit = [self._args.get(name) for name in ("min_seqnum", "seqnum", "max_seqnum")]
        trim_until = self._timeline.trim_until(self._tag, at)
        return any(isinstance(each, int) and 0 < each < trim_until for each in explicit)

    def expected(self, at: int) -> object:
        if self._refused(at):
            return "Trimmed"
        found = self._visible(at)
        return (found[0] if found else None) if self._single else found

    def right(self, answer: object, at: int) -> bool:
        """Whether this is what a log at that position answers."""
        if self._refused(at):
            return False
        found = self._visible(at)
        if self._single:
            if answer is None:
                return not found
            return isinstance(answer, Record) and bool(found) and _same(answer, found[0])
        assert isinstance(answer, Page)
        records = answer.records
        if len(records) > len(found) or (not answer.more and len(records) < len(found)):
            return False
        return all(_same(record, seen) for record, seen in zip(records, found, strict=False))

    def closed(self, answer: object, tail: int) -> bool:
        """Whether an answer found with that tail is right for ever, but for trims."""
        if isinstance(answer, Page):
            return answer.next_seqnum <= tail and (answer.more or self._until <= tail)
        return self._until <= tail or (answer is not None and not self._reverse)


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _same(record: Record, seen: Seen) -> bool:
    return (
        record.seqnum == seen.seqnum
        and record.data == seen.data
        and record.tags == seen.tags
        and record.timestamp_ms == seen.timestamp_ms
    )


def _same_tags(asked: object, ordered: tuple[tuple[str, ...], ...]) -> bool:
    assert isinstance(asked, tuple)
    return len(asked) == len(ordered) and all(
        {of} == set(tags) if isinstance(of, str) else set(of) == set(tags)
        for of, tags in zip(asked, ordered, strict=True)
    )


# --- replicas -------------------------------------------------------------------------------------


Fetch = Callable[[int, ColdMiss], bytes | None]
"""Bytes of a log space that lie in the object store."""


def unlike_the_order(
    node: str, replica: Replica, oracle: SpaceOracle, fetch: Fetch
) -> Iterator[str]:
    """(1), (2), (14), (15): what a replica serves at the end is what the order says, and so does
    the reference."""
    at = replica.index.position.count
    if at != oracle.count or not oracle.is_tail(replica.index.tail, at, at):
        stands = f"{node} stands at {at}, tail {replica.index.tail}"
        yield f"{stands}: not {oracle.count}, {oracle.tail}"
        return
    for book, timeline in oracle.timelines.items():
        if timeline.deleted_at is not None:
            continue
        expected = {seen.seqnum: seen for seen in timeline.visible(None, 0, NO_END, at)}
        reference = oracle.books.get(book)
        if reference is not None:
            kept = [record.seqnum for record in reference.visible(None, 0, NO_END)]
            assert kept == list(expected), "the timeline is not the reference"
        if oracle.byteless:
            expected = {
                seqnum: seen
                for seqnum, seen in expected.items()
                if not oracle.is_byteless(seqnum) or not _says_lost(replica, book, seqnum)
            }
            found = served_singly(replica, book, fetch, expected)
        else:
            found = served(replica, book, fetch)
        if not isinstance(found, dict):
            yield f"{node} reads LogBook {book}: {found!r}"
            continue
        if found.keys() != expected.keys():
            missing, more = expected.keys() - found.keys(), found.keys() - expected.keys()
            yield f"{node} LogBook {book} lacks {sorted(missing)}, has {sorted(more)} too many"
            continue
        for seqnum, seen in expected.items():
            if found[seqnum] != (seen.data, seen.tags, seen.timestamp_ms):
                yield f"{node} serves {found[seqnum]} for {seen}"


Served = dict[int, tuple[bytes, tuple[str, ...], int]]


def served(replica: Replica, book: int, fetch: Fetch) -> Served | BokilogError | ColdMiss:
    """Every visible record of a LogBook as one storage node serves it."""
    found: Served = {}
    start = 0
    while True:
        read = Read(
            *(1, replica.space.id, book, None, start, NO_END, 50, 1 << 20, False),
            *(Position(replica.index.position.term, 0), 0, False, -1, -1),
        )
        reply = replica._reader.read(read, replica.index.position)
        while isinstance(reply, ColdMiss):
            data = fetch(replica.space.id, reply)
            if data is None:
                return reply
            replica._cold.reads._cache.put(reply.segment, reply.start, data)
            reply = replica._reader.read(read, replica.index.position)
        if isinstance(reply, BokilogError):
            return reply
        for place, seqnum in enumerate(reply.seqnums):
            tags = reply.tags[place]
            names = () if tags is None else (tags,) if isinstance(tags, str) else tuple(tags)
            data = bytes(reply.payload[place])
            found[seqnum] = data, names, reply.timestamps_ms[place]
        start = reply.next_seqnum
        if not reply.more:
            return found


def _exact(replica: Replica, book: int, seqnum: int) -> Read:
    return Read(
        *(1, replica.space.id, book, None, seqnum, seqnum + 1, 1, 1 << 20, False),
        *(Position(replica.index.position.term, 0), 0, False, -1, -1),
    )


def _says_lost(replica: Replica, book: int, seqnum: int) -> bool:
    """Whether a read of one record says that it is lost, and that it is this one."""
    position = replica.index.position
    reply = replica._reader.read(_exact(replica, book, seqnum), position)
    return isinstance(reply, DataLost) and reply.seqnum == seqnum


def served_singly(
    replica: Replica, book: int, fetch: Fetch, seqnums: Iterable[int]
) -> Served | BokilogError | ColdMiss:
    """These records of a LogBook, each by itself: between them are some without bytes."""
    found: Served = {}
    for seqnum in seqnums:
        reply = replica._reader.read(_exact(replica, book, seqnum), replica.index.position)
        if isinstance(reply, BokilogError | ColdMiss):
            return reply
        for place, each in enumerate(reply.seqnums):
            tags = reply.tags[place]
            names = () if tags is None else (tags,) if isinstance(tags, str) else tuple(tags)
            found[each] = bytes(reply.payload[place]), names, reply.timestamps_ms[place]
    return found


def absent_though_lost(node: str, replica: Replica, oracle: SpaceOracle) -> Iterator[str]:
    """What a person has given up is said to be lost, not to be absent (P15, P33)."""
    if oracle.durability == "memory":
        return
    for start, until in oracle.given_up():
        for seqnum in {(start + until) // 2, until - 1} if start < until else ():
            reply = replica._reader.read(_exact(replica, NO_END, seqnum), replica.index.position)
            if not isinstance(reply, DataLost) or reply.seqnum != seqnum:
                yield f"{node} says of {seqnum}, which is lost: {reply!r}"


def first(reasons: Iterable[str], limit: int = 5) -> list[str]:
    return [reason for _, reason in zip(range(limit), reasons, strict=False)]
