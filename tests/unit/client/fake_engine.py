"""An engine in memory behind a port: what the client talks to in its tests.

It keeps each LogBook as the executable specification does (`bokilog/reference.py`), orders frames
in the order of their arrival, and answers in the loop's next turn; a test can hold answers back,
refuse or lose frames, and cut the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import accumulate, pairwise

from bokilog.client.port import Events
from bokilog.columns import Columns
from bokilog.errors import (
    BokilogError,
    ConditionFailed,
    KeyReused,
    Overloaded,
    TagsEnded,
    Trimmed,
    to_wire,
)
from bokilog.ids import Position, Term
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
    Answer,
    AppendFrame,
    BookState,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    Message,
    Propose,
    Read,
    ReadReply,
    RequestFailed,
    SeqnumAt,
    SetAux,
    Tail,
    TailRequest,
    Welcome,
)
from bokilog.metalog import DeleteBook, Hold, Release, Trim
from bokilog.record import Page, Record, Unit
from bokilog.reference import ReferenceBook

SPACES: list[list[object]] = [[0, "sync"], [1, "flush"], [2, "memory"]]
NOW_MS = 1_700_000_000_000


class Space:
    """One log space: a line of seqnums, and how often it moved."""

    def __init__(self) -> None:
        self.tail = 1
        self.count = 0
        self.books: dict[int, ReferenceBook] = {}
        self.deleted: set[int] = set()

    @property
    def position(self) -> Position:
        return Position(Term(1), self.count)

    def book(self, number: int) -> ReferenceBook:
        book = self.books.setdefault(number, ReferenceBook(number))
        book.tail = self.tail
        return book

    def trim_until(self, number: int, tag: str | None) -> int:
        return self.tail if number in self.deleted else self.book(number).trim_until(tag)


class FakeEngine:
    """The port, and what is behind it."""

    def __init__(self, *, answering: bool = True, history: str = "h") -> None:
        self.answering = answering
        """False: messages wait in `inbox` until `answer`."""
        self.history = history
        self.now_ms = NOW_MS
        self.spaces: dict[int, Space] = {0: Space(), 1: Space(), 2: Space()}
        self.received: list[Message] = []
        """Everything ever sent, in order."""
        self.inbox: deque[Message] = deque()
        self.refusing: BokilogError | None = None
        self.losing = False
        self.silent: Callable[[Message], bool] = lambda message: False
        """Which messages are never answered."""
        self.up = False
        self.closed = False
        self._waiting: list[tuple[Read, float]] = []
        self._next: dict[int, int] = {}
        self._events: Events | None = None
        self._scheduled = False

    # --- the port ---

    def attach(self, events: Events) -> FakeEngine:
        self._events = events
        self.connect()
        return self

    def send(self, message: Message) -> bool:
        if not self.up:
            return False
        self.received.append(message)
        self.inbox.append(message)
        if self.answering:
            self._schedule()
        return True

    def flush(self) -> None:
        pass  # it answers in the next turn of the loop

    def leave(self) -> None:
        self.disconnect("the engine is about to stop")

    def close(self) -> None:
        self.up, self.closed = False, True

    # --- what a test does to it ---

    def connect(self) -> None:
        assert self._events is not None
        self.up = True
        self._next.clear()
        self._events.on_up(self.welcome())

    def disconnect(self, reason: str = "cut") -> None:
        """Whatever was not answered never will be."""
        assert self._events is not None
        self.up = False
        self.inbox.clear()
        self._waiting.clear()
        self._events.on_down(reason)

    def answer(self, count: int | None = None) -> None:
        """Answer what has arrived, or only the first `count` of it."""
        replies: list[Message] = []
        while self.inbox and count != 0:
            message = self.inbox.popleft()
            if not self.silent(message):
                replies += self.handle(message)
            count = None if count is None else count - 1
        replies += self._woken()
        if replies and self._events is not None and self.up:
            self._events.on_messages(replies)

    def tell(self, *messages: Message) -> None:
        assert self._events is not None
        self._events.on_messages(list(messages))

    def frames(self, space: int = 0) -> list[AppendFrame]:
        found = [message for message in self.received if isinstance(message, AppendFrame)]
        return [frame for frame in found if frame.space == space]

    def welcome(self) -> Welcome:
        return Welcome(
            node="engine-1",
            incarnation=1,
            cluster_id="c",
            history_id=self.history,
            term=1,
            positions=[[n, *s.position, s.tail] for n, s in self.spaces.items()],
            spaces=SPACES,
        )

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.answer()

    # --- the engine ---

    def handle(self, message: Message) -> list[Message]:
        match message:
            case AppendFrame():
                return self._append(message)
            case Read():
                return self._read(message)
            case TailRequest(request=request, space=space):
                there = self.spaces[space]
                return [Tail(request, space, there.position, there.tail)]
            case BookState(request=request, space=space, book=book):
                there = self.spaces[space]
                found = there.book(book)
                last = found.last.get(None, 0)
                state: list[object] = [there.trim_until(book, None), len(found.records), last, []]
                if book in there.deleted:
                    state = [there.tail, 0, 0, []]
                return [Answer(request, there.position, state)]
            case SeqnumAt(request=request, space=space, timestamp_ms=timestamp_ms):
                there = self.spaces[space]
                late = [
                    record.seqnum
                    for book in there.books.values()
                    for record in book.records
                    if record.timestamp_ms >= timestamp_ms
                ]
                return [Answer(request, there.position, [min(late, default=there.tail)])]
            case SetAux(request=request, space=space, book=book, seqnum=seqnum, aux=aux):
                self.spaces[space].book(book).set_aux(seqnum, aux)
                return [Answer(request, self.spaces[space].position, [])]
            case Propose():
                return [self._propose(message)]
            case _:
                raise AssertionError(f"an engine gets no {type(message).__name__}")

    def _append(self, frame: AppendFrame) -> list[Message]:
        Columns.decode(frame.columns.encode())  # an engine checks all of it (P34)
        expected = self._next.setdefault(frame.space, frame.number)
        if frame.number != expected or self.refusing is not None:
            error = to_wire(self.refusing or Overloaded(0.01))
            return [FrameRefused(frame.space, frame.number, error)]
        self._next[frame.space] = expected + 1
        if self.losing:
            return [FrameLost(frame.space, frame.number, "the shard has ended")]
        space, columns = self.spaces[frame.space], frame.columns
        first, outcomes = space.tail, []
        unless, keys = dict(columns.unless), {unit: key for unit, key, _, _ in columns.keys}
        joined, ends = b"".join(frame.payload), list(accumulate(columns.lengths, initial=0))
        datas = [joined[start:until] for start, until in pairwise(ends)]
        for index, (start, until) in enumerate(columns.unit_bounds()):
            tags = [
                () if t is None else (t,) if isinstance(t, str) else tuple(t)
                for t in columns.tags[start:until]
            ]
            unit = Unit(datas[start:until], tags, 0)
            conditions = tuple(unless.get(index, ()))
            outcome = self._decide(space, columns.book_of(index), unit, conditions, keys.get(index))
            decided = index in unless or index in keys or index in columns.system_units
            if decided or outcome[0] != VERDICT_VISIBLE:
                outcomes.append([index, *outcome])
        space.count += 1
        verdicts = FrameVerdicts(frame.space, frame.number, space.position, outcomes)
        ordered = FrameOrdered(frame.space, frame.number, first, space.position, self.now_ms)
        return [verdicts, ordered] if outcomes else [ordered]

    def _decide(
        self,
        space: Space,
        number: int,
        unit: Unit,
        conditions: tuple[tuple[str | None, int], ...],
        key: str | None,
    ) -> list[object]:
        start, count = space.tail, len(unit.datas)
        space.tail += count
        if number in space.deleted:
            return [VERDICT_BOOK_DELETED, None, None]
        book = space.books.setdefault(number, ReferenceBook(number))
        try:
            span = book.append(
                unit, conditions=conditions, key=key, now_ms=self.now_ms, seqnum=start
            )
        except ConditionFailed as error:
            return [VERDICT_CONDITION_FAILED, error.tag, error.winner]
        except KeyReused as error:
            return [VERDICT_KEY_REUSED, error.seqnum, error.key]
        except TagsEnded as error:
            return [VERDICT_TAGS_ENDED, error.prefix, None]
        if span.start != start:
            return [VERDICT_DUPLICATE, span.start, len(span)]
        return [VERDICT_VISIBLE, start, None]

    def _read(self, read: Read) -> list[Message]:
        space = self.spaces[read.space]
        try:
            found = self._page(space, read)
        except Trimmed as error:
            return [RequestFailed(read.request, to_wire(error), space.position)]
        if not found.records and read.wait_ms and space.tail < read.until:
            deadline_s = asyncio.get_running_loop().time() + read.wait_ms / 1_000
            self._waiting.append((read, deadline_s))
            asyncio.get_running_loop().call_at(deadline_s, self._schedule)
            return []
        return [self._reply(space, read, found)]

    def _page(self, space: Space, read: Read) -> Page:
        trim_until = space.trim_until(read.book, read.tag)
        if 0 < read.start < trim_until and not read.reverse:
            raise Trimmed(trim_until)
        if read.book in space.deleted:
            return Page([], read.start if read.reverse else space.tail, False)
        book = space.book(read.book)
        start = max(read.start, trim_until) if read.start else 0
        until = min(read.until, space.tail)
        if until < max(start, trim_until):
            return Page([], read.start, False)
        return book.read_range(
            tag=read.tag,
            min_seqnum=start,
            until=until,
            limit=read.limit,
            max_bytes=read.max_bytes,
            reverse=read.reverse,
        )

    def _reply(self, space: Space, read: Read, page: Page) -> ReadReply:
        records: list[Record] = page.records
        payload = [record.data for record in records]
        if read.bytes_start >= 0:
            payload = [data[read.bytes_start : read.bytes_until] for data in payload]
        auxes = [record.aux for record in records]
        return ReadReply(
            request=read.request,
            position=space.position,
            tail=space.tail,
            trim_until=space.trim_until(read.book, read.tag),
            next_seqnum=page.next_seqnum,
            more=page.more,
            seqnums=[record.seqnum for record in records],
            tags=[
                None if not r.tags else r.tags[0] if len(r.tags) == 1 else list(r.tags)
                for r in records
            ],
            timestamps_ms=[record.timestamp_ms for record in records],
            auxes=auxes if any(auxes) else None,
            payload=payload,
        )

    def _woken(self) -> list[Message]:
        """Reads that waited for a record, or whose wait is over."""
        replies: list[Message] = []
        waiting, self._waiting = self._waiting, []
        for read, deadline_s in waiting:
            left_ms = (deadline_s - asyncio.get_running_loop().time()) * 1_000
            still = read._replace(wait_ms=1 if left_ms > 0 else 0)
            space = self.spaces[read.space]
            try:
                found = self._page(space, read)
            except Trimmed as error:
                replies.append(RequestFailed(read.request, to_wire(error), space.position))
                continue
            if found.records or not still.wait_ms or space.tail >= read.until:
                replies.append(self._reply(space, read, found))
            else:
                self._waiting.append((read, deadline_s))
        return replies

    def _propose(self, message: Propose) -> Message:
        space, entry = self.spaces[message.space], message.entry
        space.count += 1
        values: list[object] = []
        try:
            match entry:
                case Trim(book=book, tag=tag, until=until):
                    if book in space.deleted:
                        values = [space.tail, None]
                    else:
                        done = space.book(book).trim(until, tag=tag, now_ms=self.now_ms)
                        values = [done.until, done.held_by]
                case Hold(book=book, name=name, seqnum=seqnum, ttl_ms=ttl_ms):
                    if book in space.deleted:
                        raise Trimmed(space.tail)
                    space.book(book).hold(name, seqnum, ttl_s=ttl_ms / 1_000, now_ms=self.now_ms)
                case Release(book=book, name=name):
                    space.book(book).release(name)
                case DeleteBook(book=book):
                    space.deleted.add(book)
                    space.books.pop(book, None)
                case _:
                    raise AssertionError(f"no client proposes {entry}")
        except Trimmed as error:
            return RequestFailed(message.request, to_wire(error), space.position)
        return Answer(message.request, space.position, values)
