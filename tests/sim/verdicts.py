"""What must hold of a history, whatever the world did to the cluster.

The numbers in brackets are those of the checker list that this simulator was built for: acked
appends are there (1), one seqnum one value (2), keys (3), failures never appear (4), real-time
order (5), client order and whole batches (6), neighbours (7), tokens (8), monotone `None` (9),
conditions (10, 11), the metalog (12, 13), trims and holds (14), the index is the fold (15),
durability (17), wiped disks (18), and the chained hash (21). Those about the order itself are
judged while it is folded (`oracle.py`); here calls are compared with it.

A read may be answered by the log as it was at any position from what its session had seen to the
last one known to anybody (P27); whoever is told a record that is known for ever is not told that it
was trimmed since, unless its own session knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from bokilog.client.books import Created, decode
from bokilog.errors import (
    AppendUnknown,
    ConditionFailed,
    CorruptRecord,
    DataError,
    KeyReused,
    Trimmed,
)
from bokilog.ids import SYSTEM_BOOK, Position
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import (
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_VISIBLE,
    Read,
    ReadReply,
)
from bokilog.metalog import Hold, Trim as TrimEntry
from bokilog.record import Page, Record, Trim
from bokilog.storage_nodes.replica import Replica
from tests.sim.history import Following, History, Operation
from tests.sim.oracle import OrderedUnit, Seen, SpaceOracle, Timeline

NO_END = SEQNUM_MAX + 1


def book_numbers(oracle: SpaceOracle) -> dict[str, int]:
    """LogBooks by name, as the system LogBook has them."""
    found = {}
    for record in oracle.timeline(SYSTEM_BOOK).records:
        said = decode(record.data)
        if isinstance(said, Created):
            found[said.name] = record.seqnum
    return found


def broken_rules(history: History, oracle: SpaceOracle) -> Iterator[str]:
    """Everything in a history that no right log could have done."""
    judge = Judge(history, oracle)
    yield from judge.appends()
    yield from judge.order()
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

    def __init__(self, history: History, oracle: SpaceOracle) -> None:
        self._history = history
        self._oracle = oracle
        self._numbers = book_numbers(oracle)

    def timeline(self, book: str) -> Timeline:
        return self._oracle.timeline(self._numbers.get(book, -1))

    # --- appends ----------------------------------------------------------------------------------

    def appends(self) -> Iterator[str]:
        """(1), (3), (4), (6), (10): what appenders were told is what the order decided."""
        for operation in self._history.operations:
            if operation.kind == "append":
                reason = self._append(operation)
                if reason is not None:
                    yield f"{reason}: {operation}"

    def _units(self, operation: Operation) -> list[OrderedUnit]:
        datas = operation.args["datas"]
        assert isinstance(datas, tuple)
        return self._oracle.by_data.get(datas[0], [])

    def _append(self, operation: Operation) -> str | None:
        units, keyed = self._units(operation), "key" in operation.args
        if len(units) > 1 and not keyed:
            return f"it was ordered {len(units)} times, at {[unit.seqnum for unit in units]}"
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
            if units and not keyed and error.definite:
                return f"it failed for certain, and was ordered at {units[0].seqnum}"
            return None
        return self._acknowledged(operation, units)

    def _acknowledged(self, operation: Operation, units: list[OrderedUnit]) -> str | None:
        datas, answer = operation.args["datas"], operation.answer
        assert isinstance(datas, tuple) and operation.ended is not None
        first = answer.start if isinstance(answer, range) else answer
        if isinstance(answer, range) and len(answer) != len(datas):
            return f"{len(datas)} records were given {len(answer)} seqnums"
        for unit in units:
            landed = unit.verdict[2] if unit.verdict[1] == VERDICT_DUPLICATE else unit.seqnum
            if unit.verdict[1] not in (VERDICT_VISIBLE, VERDICT_DUPLICATE) or landed != first:
                continue
            if unit.datas != datas or unit.book != self._numbers.get(operation.book):
                return f"something else was ordered: {unit}"
            if not _same_tags(operation.args["tags"], unit.tags):
                return f"it was ordered with other tags: {unit}"
            if operation.ended.session < unit.at:
                return f"its token does not cover it: it was ordered by entry {unit.at}"
            return None
        return f"it was acknowledged at {first}, and that is not so: {units}"

    def order(self) -> Iterator[str]:
        """(5), (6): acknowledged before another was issued, or issued before it by the same
        client: ordered before it."""
        placed = []
        for operation in self._history.operations:
            if operation.kind == "append" and "key" not in operation.args:
                units = self._units(operation)
                if units and units[0].verdict[1] == VERDICT_VISIBLE:
                    placed.append((operation, units[0].seqnum))
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
            case "trim":
                return self._trim(operation)
            case "hold":
                return self._hold(operation)
            case _:
                return None

    def _bounds(self, operation: Operation) -> tuple[int, int]:
        """First and last position that an answer may be of."""
        assert operation.ended is not None
        low = operation.began.session
        if operation.args.get("linearizable"):
            low = max(low, operation.began.anybody)
        high = max(low, operation.ended.folded, operation.ended.session)
        return low, min(high, self._oracle.count)

    def _read(self, operation: Operation) -> str | None:
        error = operation.error
        timeline = self.timeline(operation.book)
        low, high = self._bounds(operation)
        if low > high:
            return f"it had seen {low}, and the order ended at {high}"
        if isinstance(error, Trimmed):
            return self._trimmed(operation, timeline, low, high, error.trim_until)
        if isinstance(error, DataError) and not (
            isinstance(error, CorruptRecord) and self._history.damaged
        ):
            return "nothing was lost or damaged everywhere"
        if error is not None:
            return None
        asked = Asked(timeline, operation.args)
        points = timeline.points(low, high)
        if any(asked.right(operation.answer, at) for at in points):
            return None
        if self._right_before(operation, timeline, asked, high):
            return None
        expected = [asked.expected(at) for at in (low, high)]
        return f"right between {low} and {high} was {expected[0]} to {expected[1]}"

    def _right_before(
        self, operation: Operation, timeline: Timeline, asked: Asked, high: int
    ) -> bool:
        """Whether the answer was right for ever but for a trim, at some position, and its session
        had not heard of that trim: such an answer may come from any position (P27)."""
        answer = operation.answer
        first = answer.seqnum if isinstance(answer, Record) else None
        if isinstance(answer, Page):
            first = min((record.seqnum for record in answer.records), default=None)
        if operation.args.get("linearizable") or (first or NO_END) < operation.trimmed:
            return False
        return any(
            asked.right(answer, at) and asked.closed(answer, self._oracle.tail_at(at))
            for at in timeline.points(0, high)
        )

    def _trimmed(
        self, operation: Operation, timeline: Timeline, low: int, high: int, until: int
    ) -> str | None:
        args = operation.args
        tag = args.get("tag")
        assert tag is None or isinstance(tag, str)
        positions = [args.get(name) for name in ("min_seqnum", "max_seqnum", "seqnum", "until")]
        lowest = min((each for each in positions if isinstance(each, int) and each), default=0)
        for at in timeline.points(low, high):
            if timeline.trim_until(tag, at) == until and 0 < lowest < until:
                return None
        return f"it is trimmed until {timeline.trim_until(tag, high)}"

    def _tail(self, operation: Operation) -> str | None:
        """(5): past everything that anybody knew of."""
        if operation.error is not None:
            return None
        low, _ = self._bounds(operation)
        oracle, tail = self._oracle, operation.answer
        if self._numbers.get(operation.book) is None:
            return None
        assert isinstance(tail, int)
        if tail < oracle.tail_at(min(low, oracle.count)) and tail != 1:
            return f"anybody could know that it is {oracle.tail_at(low)} or more"
        if tail > oracle.tail:
            return f"nothing was ever ordered past {oracle.tail}"
        return None

    def _entries(self, operation: Operation, kind: type[TrimEntry] | type[Hold]) -> list[int]:
        """Counts of the entries that this proposal may have become."""
        _, high = self._bounds(operation)
        number = self._numbers.get(operation.book)
        return [
            count
            for count, record in enumerate(self._oracle.entries[:high], 1)
            if isinstance(record.entry, kind)
            and record.entry.book == number
            and all(
                getattr(record.entry, name, value) == value
                for name, value in operation.args.items()
            )
        ]

    def _trim(self, operation: Operation) -> str | None:
        if operation.error is not None:
            return None
        answer = operation.answer
        assert isinstance(answer, Trim)
        found = self._entries(operation, TrimEntry)
        answers = [self._oracle.entries[count - 1].answer for count in found]
        if [answer.until, answer.held_by] not in answers:
            return f"the fold answered {answers}"
        return None

    def _hold(self, operation: Operation) -> str | None:
        error = operation.error
        if error is not None and not isinstance(error, Trimmed):
            return None
        answers = [
            self._oracle.entries[count - 1].answer for count in self._entries(operation, Hold)
        ]
        wanted: object = [] if error is None else (type(error).__name__, error.args)
        return None if wanted in answers else f"the fold answered {answers}"

    # --- follows ----------------------------------------------------------------------------------

    def following(self, following: Following) -> str | None:
        """(7): every record once, in order, none left out unless it was trimmed."""
        timeline, last = self.timeline(following.book), following.start - 1
        final = self._oracle.count
        for record in following.records:
            if record.seqnum <= last:
                return f"{record.seqnum} follows {last}"
            seen = timeline.record(record.seqnum)
            if seen is None or not _same(record, seen):
                return f"{record} is not {seen}"
            if following.tag is not None and following.tag not in record.tags:
                return f"{record} is not of the tag"
            for skipped in timeline.visible(following.tag, last + 1, record.seqnum, final):
                return f"{skipped} was left out between {last} and {record.seqnum}"
            last = record.seqnum
        return None

    def behind(self, following: Following) -> str | None:
        """(20): what a follow that goes on has still to yield."""
        last = following.records[-1].seqnum if following.records else following.start - 1
        timeline = self.timeline(following.book)
        for missing in timeline.visible(following.tag, last + 1, NO_END, self._oracle.count):
            return f"{following.client} {following.book} {following.tag} has yet to see {missing}"
        return None


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


def unlike_the_order(node: str, replica: Replica, oracle: SpaceOracle) -> Iterator[str]:
    """(1), (2), (14), (15): what a replica serves at the end is what the order says, and so does
    the reference."""
    at = replica.index.position.count
    if at != oracle.count or replica.index.tail != oracle.tail:
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
        served = _served(replica, book)
        if isinstance(served, str):
            yield f"{node} reads LogBook {book}: {served}"
            continue
        if served.keys() != expected.keys():
            missing, more = expected.keys() - served.keys(), served.keys() - expected.keys()
            yield f"{node} LogBook {book} lacks {sorted(missing)}, has {sorted(more)} too many"
            continue
        for seqnum, seen in expected.items():
            if served[seqnum] != (seen.data, seen.tags, seen.timestamp_ms):
                yield f"{node} serves {served[seqnum]} for {seen}"


def _served(replica: Replica, book: int) -> dict[int, tuple[bytes, tuple[str, ...], int]] | str:
    """Every visible record of a LogBook as one storage node serves it."""
    found: dict[int, tuple[bytes, tuple[str, ...], int]] = {}
    start = 0
    while True:
        read = Read(
            *(1, replica.space.id, book, None, start, NO_END, 50, 1 << 20, False),
            *(Position(replica.index.position.term, 0), 0, False, -1, -1),
        )
        reply = replica._reader.read(read, replica.index.position)
        if not isinstance(reply, ReadReply):
            return repr(reply)
        for place, seqnum in enumerate(reply.seqnums):
            tags = reply.tags[place]
            names = () if tags is None else (tags,) if isinstance(tags, str) else tuple(tags)
            data = bytes(reply.payload[place])
            found[seqnum] = data, names, reply.timestamps_ms[place]
        start = reply.next_seqnum
        if not reply.more:
            return found


def first(reasons: Iterable[str], limit: int = 5) -> list[str]:
    return [reason for _, reason in zip(range(limit), reasons, strict=False)]
