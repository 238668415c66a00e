"""Reads of an engine: from facts and cached bytes where they say enough, else from a storage node.

Decides, per `Read`: answer here, wait here for the stream, fetch missing bytes, or pass it on as it
is. One index replica per log space is followed: its stream says how far the order is known and what
was appended to the LogBooks read here, so that "none" and "newest" can be answered too (P27).

Invariants:
- A record inside a fact is answered at any known position; "none", "newest" and "nothing more yet"
  only at a position
  that the read allows. A reply's (position, tail) belong together.
- Nothing below a trim seen here is answered.
- An empty answer that waited is never a fact (P28): facts come from replies and the stream alone.
- With `facts_bytes` 0 nothing is followed or kept, and a read costs two small tuples and a
  dictionary entry.

Does not know: frames on their way, the metalog. Linearizable reads arrive here with the tail's
position (P26).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from xxhash import xxh3_64_intdigest

from bokilog.effects import Address, CancelTimer, Effect, Send
from bokilog.errors import (
    BokilogError,
    CorruptJournal,
    CorruptRecord,
    DataLost,
    NotReady,
    Overloaded,
    Trimmed,
    from_wire,
    to_wire,
)
from bokilog.facts import UNKNOWN, Facts, Known
from bokilog.frame import Buffer
from bokilog.functions.engine.cache import CachedRecord, RecordCache, cached_records
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.parked import TIMER as READ_TIMER, ParkedReads
from bokilog.functions.engine.published import Published
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import START, NodeId, Position, Term
from bokilog.messages import (
    Answer,
    BookState,
    IndexStream,
    Read,
    ReadReply,
    RequestFailed,
    SeqnumAt,
    SetAux,
)
from bokilog.shared_records import SharedWriter
from bokilog.view import View

SPREAD_SEQNUMS = 4096
"""Bytes of so many neighbouring seqnums are fetched from one replica, the next ones from the next.
"""

Question = Read | SeqnumAt | BookState
NOT_THERE = (NotReady, DataLost, CorruptRecord, CorruptJournal)
"""What a replica says of itself only: another one may have the bytes (P24, P33)."""


class Passed:
    """A question that a storage node is to answer."""

    __slots__ = ("message", "node", "not_yet", "since_s", "source", "tried")

    def __init__(
        self, source: Address, message: Question, node: NodeId | None, since_s: float
    ) -> None:
        self.source = source
        self.message = message
        self.node = node
        """None: it waits for one to be connected."""
        self.since_s = since_s
        self.tried: set[NodeId] = set()
        """Those that cannot answer it: a node that is rebuilt lacks bytes for a while (P33)."""
        self.not_yet: RequestFailed | None = None
        """What one of them said that may have it later: then nobody is told that it is lost."""


class Fetch:
    """Bytes of records whose seqnums are known, on their way from any replica."""

    __slots__ = ("key", "node", "read", "waiters")

    def __init__(self, key: tuple[object, ...], read: Read, node: NodeId) -> None:
        self.key = key
        self.read = read
        self.node = node
        self.waiters: list[tuple[Address, Read]] = []


class Reader:
    """All reads of an engine."""

    def __init__(
        self,
        *,
        settings: EngineSettings,
        node: NodeId,
        number: int,
        links: Links,
        cache: RecordCache,
        ids: Iterator[int],
        shared: SharedWriter | None = None,
    ) -> None:
        self.facts = Facts(settings.facts_bytes)
        self.local_count = 0
        self.passed_count = 0
        self.fetched_count = 0
        self.unexpected_count = 0
        """Replies to nobody: the asker is gone, or was answered from elsewhere."""
        self._settings = settings
        self._keeps = settings.keeps_facts
        self._node = node
        self._number = number
        self._links = links
        self._cache = cache
        self._published = Published(shared, cache, self.facts) if shared is not None else None
        self._ids = ids
        self._spaces: dict[int, IndexFollower] = {}
        self._due: set[int] = set()
        """Log spaces with something to ask for at the end of the batch."""
        self._anew: set[int] = set()
        self._passed: dict[int, Passed] = {}
        self._fetches: dict[int, Fetch] = {}
        self._fetching: dict[tuple[object, ...], Fetch] = {}
        self._parked = ParkedReads(self.facts)

    # --- questions --------------------------------------------------------------------------------

    def ask(
        self, source: Address, message: Question, now_s: float, *, linearizable: bool = False
    ) -> list[Effect]:
        """A client's question: answered from here if that is possible, else passed on.

        A linearizable one is answered from here only once the stream has come to its position: a
        fact is true for ever but for trims, and one may be in what the stream has not told (P26).
        """
        space = self._spaces.get(message.space)
        if space is None:
            return [self._failed(source, message.request, _not_ready(message.space))]
        behind = linearizable and message.position > space.position
        if (
            self._keeps
            and type(message) is Read
            and not behind
            and space.may_answer(message.position)
        ):
            effects = self._answer(space, source, message, now_s)
            if effects is not None:
                self.local_count += 1
                return effects
        return self._pass_on(space, source, message, now_s)

    def _pass_on(
        self, space: IndexFollower, source: Address, message: Question, now_s: float
    ) -> list[Effect]:
        """To the index replica, whose reply agrees with its stream; kept until there is one."""
        if len(self._passed) + len(self._parked) >= self._settings.reads_max:
            error = Overloaded(self._settings.overloaded_retry_s, "the read")
            return [self._failed(source, message.request, error)]
        request = next(self._ids)
        node = space.chosen
        self._passed[request] = Passed(source, message, node, now_s)
        self.passed_count += 1
        return [] if node is None else [Send(node, _numbered(message, request))]

    def set_aux(self, source: Address, message: SetAux) -> list[Effect]:
        """Aux data goes to every storage node that is connected; nobody waits for it."""
        space = self._spaces.get(message.space)
        if space is None:
            return [self._failed(source, message.request, _not_ready(message.space))]
        self._cache.set_aux(message.space, message.book, message.seqnum, message.aux)
        if self._published is not None:
            self._published.has_aux(message.book, message.seqnum)
        effects: list[Effect] = [Send(node, message) for node in self._links.up_of(space.replicas)]
        return [*effects, Send(source, Answer(message.request, space.position, []))]

    def _trim(self, book: int, tag: str | None, until: int) -> None:
        self.facts.trim(book, tag, until)
        if self._published is not None:
            self._published.trimmed(book, until)

    # --- answering here ---------------------------------------------------------------------------

    def _answer(
        self,
        space: IndexFollower,
        source: Address,
        read: Read,
        now_s: float,
        extra: dict[int, CachedRecord] | None = None,
    ) -> list[Effect] | None:
        """The answer, or what is needed for it; None: facts do not say.

        Args:
            extra: bytes that were fetched for this read: what is missing still is not fetched
            again.
        """
        space.want(read.book)
        facts, book, tag = self.facts, read.book, read.tag
        trim_until = facts.trim_until(book, tag)
        if 0 < read.start < trim_until or 1 < read.until < trim_until:  # 0 and 1: not explicit
            known_at = space.position if facts.knows_trims(book, tag) else START
            if read.position > known_at:
                return None  # the session may have seen a later trim: then that one is named
            return [self._failed(source, read.request, Trimmed(trim_until))]
        if tag is None and read.until == read.start + 1:
            found = self._known_record(space, read)
            if found is not None:
                return [Send(source, found)]
        known = facts.range(
            book,
            tag,
            start=read.start,
            until=read.until,
            limit=read.limit,
            reverse=read.reverse,
        )
        if known is UNKNOWN or (known.at_tail and read.position > space.position):
            return None
        if not known.seqnums:
            if read.wait_ms and known.at_tail:
                return self._park(space, source, read, now_s)
            return [Send(source, self._reply(space, read, known, [], []))]
        return self._collect(space, source, read, known, extra)

    def _known_record(self, space: IndexFollower, read: Read) -> ReadReply | None:
        """`read(seqnum)` of a record that is known to be visible without facts."""
        if read.book not in space.following:
            return None  # its trims are not told
        record = self._cache.find_visible(read.space, read.book, read.start)
        if record is None:
            return None
        if record.tags is not None and read.start < self.facts.tags_trimmed_until(read.book):
            return None  # perhaps all its tags are trimmed: then it is gone
        known = Known([read.start], read.start if read.reverse else read.until, False, False)
        return self._reply(space, read, known, [read.start], [record])

    def _collect(
        self,
        space: IndexFollower,
        source: Address,
        read: Read,
        known: Known,
        extra: dict[int, CachedRecord] | None,
    ) -> list[Effect] | None:
        """The records of known seqnums, as many as the limit of bytes allows."""
        seqnums: list[int] = []
        records: list[CachedRecord] = []
        budget = read.max_bytes
        for place, seqnum in enumerate(known.seqnums):
            record = extra.get(seqnum) if extra is not None else None
            if record is None:
                record = self._cache.find(space.id, seqnum)
            if record is None and extra is None:
                return self._fetch(space, source, read, known.seqnums[place:], budget)
            if record is None and not records:
                return None
            if record is not None:
                budget -= len(_byte_range(record.data, read))
            if record is None or (budget < 0 and records):
                last = seqnums[-1]
                following = last if read.reverse else last + 1
                known = known._replace(next_seqnum=following, more=True)
                break
            seqnums.append(seqnum)
            records.append(record)
        return [Send(source, self._reply(space, read, known, seqnums, records))]

    def _reply(
        self,
        space: IndexFollower,
        read: Read,
        known: Known,
        seqnums: list[int],
        records: list[CachedRecord],
    ) -> ReadReply:
        """What is known at the tail holds at the stream's position; the rest at the furthest one
        seen.
        """
        position, tail = space.position, space.tail.seqnum
        if not known.at_tail and space.horizon.position > position:
            position, tail = space.horizon.position, space.horizon.tail
        payload: list[Buffer] = [record.data for record in records]
        if (
            self._published is not None
            and records
            and read.until == read.start + 1  # pages are read by whoever reads on by message
            and read.book in space.following
        ):
            self._published.answered(read.space, read.book, seqnums, records)
        if read.bytes_start >= 0:
            payload = [_byte_range(data, read) for data in payload]
        return ReadReply(
            read.request,
            position,
            tail,
            self.facts.trim_until(read.book, read.tag),
            known.next_seqnum,
            known.more,
            seqnums,
            [record.tags for record in records],
            [record.timestamp_ms for record in records],
            self._cache.auxes(read.space, read.book, seqnums),
            payload,
        )

    # --- bytes from a replica ---------------------------------------------------------------------

    def _fetch(
        self,
        space: IndexFollower,
        source: Address,
        read: Read,
        seqnums: Sequence[int],
        budget: int,
    ) -> list[Effect] | None:
        """One read for what is missing, from a replica that is picked by seqnum; the same one for
        all who ask.
        """
        up = self._links.up_of(space.replicas)
        if not up or read.bytes_start >= 0:
            return None  # a part of a record is not worth keeping
        first, last = min(seqnums[0], seqnums[-1]), max(seqnums[0], seqnums[-1])
        key = (read.space, read.book, read.tag, first, last, len(seqnums), read.reverse)
        fetch = self._fetching.get(key)
        if fetch is not None and fetch.read.max_bytes == budget:
            fetch.waiters.append((source, read))
            return []
        request = next(self._ids)
        asked = read._replace(
            request=request,
            start=first,
            until=last + 1,
            limit=len(seqnums),
            max_bytes=max(budget, 1),
            position=space.horizon.position,
            wait_ms=0,
        )
        node = up[first // SPREAD_SEQNUMS % len(up)]
        fetch = self._fetches[request] = self._fetching[key] = Fetch(key, asked, node)
        fetch.waiters.append((source, read))
        self.fetched_count += 1
        return [Send(node, asked)]

    def _fetched(self, fetch: Fetch, reply: ReadReply, now_s: float) -> list[Effect]:
        space = self._spaces[fetch.read.space]
        effects = self._met(space, reply.position.term, now_s)
        if effects or not space.settled or space.is_lost(reply.position):
            return [*effects, *self._not_fetched(fetch, now_s)]
        self._drop_fetch(fetch)
        extra = self._keep_records(fetch.read, reply)
        for source, read in fetch.waiters:
            answered = None
            if space.may_answer(read.position):
                answered = self._answer(space, source, read, now_s, extra)
            if answered is None:
                answered = self._pass_on(space, source, read, now_s)
            effects += answered
        return effects

    def _drop_fetch(self, fetch: Fetch) -> None:
        del self._fetches[fetch.read.request]
        if self._fetching.get(fetch.key) is fetch:
            del self._fetching[fetch.key]

    def _not_fetched(self, fetch: Fetch, now_s: float) -> list[Effect]:
        """The replica could not: whoever waits gets an answer, or error, from the index replica."""
        self._drop_fetch(fetch)
        space = self._spaces[fetch.read.space]
        effects: list[Effect] = []
        for source, read in fetch.waiters:
            effects += self._pass_on(space, source, read, now_s)
        return effects

    # --- answers from replicas --------------------------------------------------------------------

    def replied(self, reply: ReadReply, now_s: float) -> list[Effect]:
        """A storage node's answer goes on to its client; what it says is kept."""
        passed = self._passed.pop(reply.request, None)
        if passed is None:
            fetch = self._fetches.get(reply.request)
            if fetch is not None:
                return self._fetched(fetch, reply, now_s)
            self.unexpected_count += 1
            return []
        read = cast(Read, passed.message)
        effects: list[Effect] = [Send(passed.source, ReadReply._make((read.request, *reply[1:])))]
        space = self._spaces[read.space]
        chosen = passed.node == space.chosen
        effects += self._met(space, reply.position.term, now_s)
        if self._keeps and chosen and space.settled and not space.is_lost(reply.position):
            self._learn(read, reply)
            if reply.seqnums and len(self._parked):
                # The stream will find these known already, and wake nobody for them.
                effects += self._wake(self._parked.on([(read.book, read.tag)]), now_s)
        return effects

    def answered(self, answer: Answer) -> list[Effect]:
        """The same for questions whose answer nobody keeps."""
        passed = self._passed.pop(answer.request, None)
        if passed is None:
            self.unexpected_count += 1
            return []
        return [Send(passed.source, answer._replace(request=passed.message.request))]

    def failed(self, message: RequestFailed, now_s: float) -> list[Effect] | None:
        """A storage node's error; None: it is not about a question asked here."""
        fetch = self._fetches.get(message.request)
        if fetch is not None:
            return self._not_fetched(fetch, now_s)
        passed = self._passed.pop(message.request, None)
        if passed is None:
            return None
        read = passed.message
        error = from_wire(message.error)
        if isinstance(error, NOT_THERE):
            if isinstance(error, NotReady):
                passed.not_yet = message
            asked = self._ask_another(message.request, passed, now_s)
            if asked:
                return asked
            message = passed.not_yet or message
        if self._keeps and isinstance(read, Read) and isinstance(error, Trimmed):
            self._trim(read.book, read.tag, error.trim_until)
        return [Send(passed.source, message._replace(request=read.request))]

    def _ask_another(self, request: int, passed: Passed, now_s: float) -> list[Effect]:
        """A replica that was not asked yet may have it; []: none is left."""
        space = self._spaces[passed.message.space]
        if passed.node is not None:
            passed.tried.add(passed.node)
        for node in self._links.up_of(space.replicas):
            if node not in passed.tried:
                passed.node = node
                self._passed[request] = passed
                return [Send(node, _numbered(_rest(passed, now_s), request))]
        return []

    def _learn(self, read: Read, reply: ReadReply) -> None:
        """A reply is a fact about its range, for ever but for trims."""
        space = self._spaces[read.space]
        space.horizon.saw(reply.position, reply.tail)
        if space.volatile:
            space.want(read.book)  # what is known is forgotten by its LogBooks
        if reply.trim_until:
            self._trim(read.book, read.tag, reply.trim_until)
        end = min(read.until, reply.tail)
        lo, hi, seqnums = read.start, reply.next_seqnum, reply.seqnums
        above = below = None
        if read.reverse:
            lo, hi, seqnums = reply.next_seqnum, end, seqnums[::-1]
            below = read.start if reply.more else None
        elif reply.more:
            above = end
        else:
            hi = max(hi, end)
        self.facts.learn(
            read.book, read.tag, lo, min(hi, reply.tail), seqnums, above=above, below=below
        )
        if reply.trim_until:  # of a tag it is kept with the line, which may be new
            self._trim(read.book, read.tag, reply.trim_until)
        self._keep_records(read, reply)

    def _keep_records(self, read: Read, reply: ReadReply) -> dict[int, CachedRecord]:
        """Caches whole records and aux data; returns the records by seqnum."""
        if read.bytes_start >= 0:
            return {}
        records = cached_records(read.book, reply.payload, reply.tags, reply.timestamps_ms)
        self._cache.add_records(read.space, reply.seqnums, records)
        for seqnum, aux in zip(reply.seqnums, reply.auxes or (), strict=False):
            if aux is not None:
                self._cache.set_aux(read.space, read.book, seqnum, aux)
        return dict(zip(reply.seqnums, records, strict=True))

    # --- waiting for a record ---------------------------------------------------------------------

    def _park(
        self, space: IndexFollower, source: Address, read: Read, now_s: float
    ) -> list[Effect] | None:
        """There is nothing yet: it waits here for the stream, until its time is over."""
        if read.book not in space.following or len(self._parked) >= self._settings.reads_max:
            return None
        return [self._parked.add(next(self._ids), source, read, now_s)]

    def timer(self, number: int, now_s: float) -> list[Effect]:
        """The wait is over: whatever there is now."""
        parked = self._parked.take(number)
        if parked is None:
            return []
        return self.ask(parked.source, parked.read._replace(wait_ms=0), now_s)

    def _wake(self, numbers: Iterable[int], now_s: float) -> list[Effect]:
        """There may be something now, here or elsewhere: these look again."""
        effects: list[Effect] = []
        for number in numbers:
            parked = self._parked.take(number)
            if parked is not None:
                effects.append(CancelTimer((READ_TIMER, number)))
                effects += self.ask(parked.source, parked.rest(now_s), now_s)
        return effects

    # --- the stream -------------------------------------------------------------------------------

    def stream(self, source: Address, message: IndexStream, now_s: float) -> list[Effect] | None:
        """What the followed replica has folded; None: it is of another one, and of no use."""
        space = self._spaces.get(message.space)
        if space is None or source != space.chosen:
            return None
        if not self._keeps:
            space.advance(message)
            return []
        met = self._met(space, message.position.term, now_s)
        if met or not space.settled:
            space.advance(message)
            return [*met, *self._settle(space, message, now_s)]
        if space.is_lost(message.position):  # another replica, which is not there yet
            space.settled = False
            return []
        news = space.apply(message)
        if not len(self._parked):
            return []
        woken = self._wake(self._parked.on(news.grown), now_s)
        return [*woken, *self._wake(self._parked.on_books(news.changed), now_s)]

    def _settle(self, space: IndexFollower, message: IndexStream, now_s: float) -> list[Effect]:
        """The followed replica folds entries of the term: what it says from here on counts. It is
        asked anew, since what it has told so far was not taken."""
        if space.is_lost(message.position):
            return []
        space.settled = True
        return self._choose(space, now_s)

    def trimmed(self, book: int, tag: str | None, until: int) -> None:
        """A trim that a client of this engine asked for has been decided."""
        self._trim(book, tag, until)

    def end_batch(self, verdicts: dict[int, list[list[int]]]) -> list[Effect]:
        """Tells replicas what is wanted now. `verdicts`: rows per log space, of frames without
        their verdict.
        """
        effects: list[Effect] = []
        for number, space in self._spaces.items():
            if not (space.follow_due or space.verdicts_due) or space.chosen is None:
                continue
            request = space.request(
                self._number,
                verdicts.get(number, []),
                books_max=self._settings.followed_books_max,
                waited=self._parked.books,
            )
            effects.append(Send(space.chosen, request))
        return effects

    @property
    def due(self) -> bool:
        """Whether `end_batch` has anything to ask for; at the end of most batches it has not."""
        return bool(self._due)

    @property
    def verdicts_due(self) -> bool:
        """Whether some replica will be asked for verdicts at the end of the batch."""
        return any(space.verdicts_due for space in self._spaces.values())

    def want_verdicts(self, space: int) -> None:
        """Some are overdue."""
        self._spaces[space].want_verdicts()

    def position(self, space: int) -> Position:
        """How far the stream of a log space has come."""
        return self._spaces[space].position

    # --- replicas ---------------------------------------------------------------------------------

    def install(self, view: View, horizons: dict[int, Horizon], now_s: float) -> list[Effect]:
        """The next view: perhaps other replicas."""
        effects: list[Effect] = []
        for each in view.spaces:
            space = self._spaces.get(each.id)
            if space is None:
                space = IndexFollower(
                    each.id,
                    facts=self.facts,
                    horizon=horizons[each.id],
                    published=self._published,
                    due=self._due,
                )
                self._spaces[each.id] = space
            space.replicas = each.replicas
            space.volatile = each.durability == "memory"
            if space.begin_term(view.term):
                effects += self._begin(space, now_s)
            elif space.is_past(view.term, view.end(each.id)):
                effects += self._forget(space, now_s)
            elif space.chosen not in each.replicas:
                effects += self._choose(space, now_s)
        return effects

    def _met(self, space: IndexFollower, term: Term, now_s: float) -> list[Effect]:
        """A storage node tells of this term, perhaps before its view is here."""
        return self._begin(space, now_s) if space.begin_term(term) else []

    def _begin(self, space: IndexFollower, now_s: float) -> list[Effect]:
        """A term of a `memory` log space: what is known of it may be lost since (P20)."""
        space.forget()
        self._cache.forget(space.id)
        return self._choose(space, now_s)

    def _forget(self, lost: IndexFollower, now_s: float) -> list[Effect]:
        """The view says that entries known here were lost, as the class may (P11): what they
        brought is not served any more (P13). Seldom enough to begin all facts anew."""
        self.facts.clear()
        self._cache.forget(lost.id)
        if self._published is not None:
            self._published.forget()
        return [effect for space in self._spaces.values() for effect in self._choose(space, now_s)]

    def link_up(self, peer: Address, now_s: float) -> list[Effect]:
        """A storage node is there: follow it if there was none, or if this is a new link to the
        same.
        """
        effects: list[Effect] = []
        for space in self._spaces.values():
            space.left.pop(NodeId(str(peer)), None)  # whatever held it up may be over
            if peer in space.replicas and space.chosen in (None, peer):
                effects += self._choose(space, now_s)
        return effects

    def link_down(self, peer: Address, now_s: float) -> list[Effect]:
        """Another storage node takes its place; what was asked of it is asked again."""
        effects: list[Effect] = []
        for fetch in [fetch for fetch in self._fetches.values() if fetch.node == peer]:
            effects += self._not_fetched(fetch, now_s)
        for space in self._spaces.values():
            if space.chosen == peer:
                effects += self._choose(space, now_s)
        for request, passed in self._passed.items():
            if passed.node == peer:  # it was asked because the chosen one could not answer
                passed.node = self._spaces[passed.message.space].chosen
                if passed.node is not None:
                    message = _numbered(_rest(passed, now_s), request)
                    effects.append(Send(passed.node, message))
        return effects

    def follow_another(self, number: int, now_s: float) -> list[Effect]:
        """The followed replica lags behind the others, or all do: the next one gets its turn."""
        space = self._spaces[number]
        lagging = space.chosen
        if len(self._links.up_of(space.replicas)) < 2:
            return []
        told = space.leave(self._number)
        left: list[Effect] = [] if told is None or lagging is None else [Send(lagging, told)]
        return [*left, *self._choose(space, now_s)]

    def _choose(self, space: IndexFollower, now_s: float) -> list[Effect]:
        """One of the connected replicas, engines spread over them; questions go to it once more."""
        up = self._links.up_of(space.replicas)
        left = space.left
        space.choose(
            min(up, key=lambda node: (left.get(node, 0), self._rank(node, space.id)), default=None)
        )
        self._anew.add(space.id)
        effects = self._ask_anew(space, now_s)
        return [*effects, *self._wake(self._parked.on_books(space.books), now_s)]

    def chosen_anew(self) -> set[int]:
        """Log spaces that follow another replica, or another link to it, since the last call."""
        anew, self._anew = self._anew, set()
        return anew

    def _rank(self, node: NodeId, space: int) -> int:
        return xxh3_64_intdigest(f"{self._node}/{node}/{space}".encode())

    def _ask_anew(self, space: IndexFollower, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for request, passed in self._passed.items():
            message = passed.message
            if message.space != space.id:
                continue
            passed.node = space.chosen
            if space.chosen is not None:
                rest = _rest(passed, now_s)
                effects.append(Send(space.chosen, _numbered(rest, request)))
        return effects

    def forget_client(self, client: Address) -> list[Effect]:
        """It is gone: nobody waits for its answers."""
        gone = self._parked.of(client)
        for number in gone:
            self._parked.take(number)
        self._passed = {
            request: passed for request, passed in self._passed.items() if passed.source != client
        }
        for fetch in self._fetches.values():
            fetch.waiters = [waiter for waiter in fetch.waiters if waiter[0] != client]
        return [CancelTimer((READ_TIMER, number)) for number in gone]

    def _failed(self, source: Address, request: int, error: BokilogError) -> Effect:
        return Send(source, RequestFailed(request, to_wire(error), START))

    # --- for people -------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Reads that are not answered yet."""
        return (
            len(self._passed)
            + len(self._parked)
            + sum(len(fetch.waiters) for fetch in self._fetches.values())
        )

    def summary(self, space: int) -> dict[str, object]:
        """For `bokilog status`."""
        return self._spaces[space].summary()

    def check(self) -> None:
        """Asserts the invariants."""
        self.facts.check()
        self._parked.check()
        for space in self._spaces.values():
            space.check()
        assert self._keeps or not (len(self._parked) or self._fetches)


def _rest(passed: Passed, now_s: float) -> Question:
    """A question as it is asked again: what it has waited already counts."""
    message = passed.message
    if not isinstance(message, Read) or not message.wait_ms:
        return message
    waited_ms = int((now_s - passed.since_s) * 1000)
    return message._replace(wait_ms=max(0, message.wait_ms - waited_ms))


def _numbered(message: Question, request: int) -> Question:
    """The message under this engine's own number: those of two clients may be equal."""
    if type(message) is Read:  # the usual one; `_replace` takes three times as long
        return Read._make((request, *message[1:]))
    return message._replace(request=request)


def _byte_range(data: Buffer, read: Read) -> Buffer:
    """What a read wants of a record's bytes."""
    if read.bytes_start < 0:
        return data
    until = len(data) if read.bytes_until < 0 else min(read.bytes_until, len(data))
    return memoryview(data)[min(read.bytes_start, until) : until]


def _not_ready(space: int) -> NotReady:
    return NotReady(f"log space {space} is in no view known here")
