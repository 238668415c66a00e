"""Reads of an engine: from facts and cached bytes where they say enough, else from a storage node.

Decides, per `Read`: answer here (`local_answers.py`), wait here for the stream (`parked.py`), fetch
missing bytes (`fetches.py`), or pass it on as it is (`passed.py`). One index replica per log space
is followed (`following.py`): its stream says how far the order is known and what was appended to
the LogBooks read here, so that "none" and "newest" can be answered too (P27). What comes from
storage nodes finds its way back here: to clients, into what is known, and to reads that waited.

Invariants:
- Every question is in one place until it is answered: parked, fetched for, or passed on. What could
  not be answered in one of them goes on to the next, in that order.
- Only what the followed replica says counts as known, and only once it folds the term (P20).
- A question passed on is never lost with a link, nor with a storage node that says nothing
  (`silence.py`): whoever is followed next is asked again.
- With `facts_bytes` 0 nothing is followed or kept, and a read costs two small tuples and a
  dictionary entry.

Does not know: frames on their way, the metalog. Linearizable reads arrive here with the tail's
position (P26).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set as AbstractSet
from typing import cast

from bokilog.effects import Address, CancelTimer, Effect, Send
from bokilog.errors import NotReady, Trimmed, from_wire, to_wire
from bokilog.facts import Facts
from bokilog.functions.engine.fetches import Fetch, Fetches
from bokilog.functions.engine.following import Following
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.local_answers import LocalAnswers, Missing, NothingYet
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.parked import TIMER as READ_TIMER, ParkedReads
from bokilog.functions.engine.passed import NOT_THERE, PassedQuestions, Question
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.silence import Silence
from bokilog.ids import START
from bokilog.messages import (
    Answer,
    IndexStream,
    Read,
    ReadReply,
    RequestFailed,
    SetAux,
)
from bokilog.view import View


class Reader:
    """All reads of an engine.

    Args:
        settings: bounds what waits, and says whether facts are kept.
        links: which storage nodes are connected.
        ids: numbers of this engine's requests.
        facts: what is known of the order; lines that somebody waits on are watched in it.
        local: what can be answered here.
        following: whose index is followed.
    """

    def __init__(
        self,
        *,
        settings: EngineSettings,
        links: Links,
        ids: Iterator[int],
        facts: Facts,
        local: LocalAnswers,
        following: Following,
    ) -> None:
        self.local_count = 0
        self.unexpected_count = 0
        """Replies to nobody: the asker is gone, or was answered from elsewhere."""
        self._settings = settings
        self._keeps = settings.keeps_facts
        self._links = links
        self._ids = ids
        self._local = local
        self._following = following
        self._spaces = following.spaces
        self._parked = ParkedReads(facts)
        self.fetches = Fetches(links=links, ids=ids)
        self.passed = PassedQuestions(
            settings=settings, links=links, ids=ids, spaces=self._spaces, parked=self._parked
        )
        self._silence = Silence(links=links, after_s=settings.retry_s)

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
            return [_not_ready(source, message)]
        behind = linearizable and message.position > space.position
        if (
            self._keeps
            and type(message) is Read
            and not behind
            and space.may_answer(message.position)
        ):
            found = self._local.answer(space, message)
            if type(found) is ReadReply:  # the usual one
                self.local_count += 1
                return [Send(source, found)]
            if found is not None:
                effects = self._go_on(space, source, message, found, now_s)
                if effects is not None:
                    self.local_count += 1
                    return effects
        return self.passed.pass_on(space, source, message, now_s)

    def _go_on(
        self,
        space: IndexFollower,
        source: Address,
        read: Read,
        found: ReadReply | RequestFailed | Missing | NothingYet,
        now_s: float,
    ) -> list[Effect] | None:
        """With what is known here: told to the client, or waited for; None: neither is possible."""
        if isinstance(found, Missing):
            return self.fetches.fetch(space, source, read, found, now_s)
        if isinstance(found, NothingYet):
            return self._park(space, source, read, now_s)
        return [Send(source, found)]

    def cancel(self, source: Address, request: int) -> list[Effect]:
        """A client does not wait for a record any more."""
        number = self._parked.find(source, request)
        if number is None:
            return self.passed.cancel(source, request)
        self._parked.take(number)
        return [CancelTimer((READ_TIMER, number))]

    def set_aux(self, source: Address, message: SetAux) -> list[Effect]:
        """Aux data goes to every storage node that is connected; nobody waits for it."""
        space = self._spaces.get(message.space)
        if space is None:
            return [_not_ready(source, message)]
        self._local.set_aux(message)
        effects: list[Effect] = [Send(node, message) for node in self._links.up_of(space.replicas)]
        return [*effects, Send(source, Answer(message.request, space.position, []))]

    # --- answers from storage nodes ---------------------------------------------------------------

    def replied(self, source: Address, reply: ReadReply, now_s: float) -> list[Effect]:
        """A storage node's answer goes on to its client, also if another one was asked meanwhile;
        what the followed one says is kept.
        """
        passed = self.passed.take(reply.request)
        if passed is None:
            fetch = self.fetches.by_request.get(reply.request)
            if fetch is not None:
                return self._fetched(fetch, reply, now_s)
            self.unexpected_count += 1
            return []
        read = cast(Read, passed.message)
        effects: list[Effect] = [Send(passed.source, ReadReply._make((read.request, *reply[1:])))]
        space = self._spaces[read.space]
        chosen = source == space.chosen
        if self._following.meet(space, reply.position.term):
            effects += self._followed_anew([space], now_s)
        if self._keeps and chosen and space.settled and not space.is_lost(reply.position):
            self._local.learn(space, read, reply)
            if reply.seqnums and len(self._parked):
                # The stream will find these known already, and wake nobody for them.
                effects += self._wake(self._parked.on([(read.book, read.tag)]), now_s)
        return effects

    def answered(self, answer: Answer) -> list[Effect]:
        """The same for questions whose answer nobody keeps."""
        passed = self.passed.take(answer.request)
        if passed is None:
            self.unexpected_count += 1
            return []
        return [Send(passed.source, answer._replace(request=passed.message.request))]

    def failed(self, source: Address, message: RequestFailed, now_s: float) -> list[Effect] | None:
        """A storage node's error; None: it is not about a question asked here."""
        fetch = self.fetches.by_request.get(message.request)
        if fetch is not None:
            return self._not_fetched(fetch, now_s, message)
        passed = self.passed.by_request.get(message.request)
        if passed is None:
            return None
        if source != passed.node:
            return []  # another one was asked meanwhile, and will answer
        self.passed.take(message.request)
        read = passed.message
        error = from_wire(message.error)
        if isinstance(error, NOT_THERE):
            return self.passed.ask_another(message, passed, error, now_s)
        if self._keeps and isinstance(read, Read) and isinstance(error, Trimmed):
            self._local.trim(read.book, read.tag, error.trim_until)
        return [Send(passed.source, message._replace(request=read.request))]

    def still_reading(self, source: Address, request: int, now_s: float) -> None:
        """A storage node waits for the cold store: it owes the answer anew."""
        asked = self.fetches.by_request.get(request) or self.passed.by_request.get(request)
        if asked is not None and asked.node == source:
            asked.asked_s = now_s

    def _fetched(self, fetch: Fetch, reply: ReadReply, now_s: float) -> list[Effect]:
        """The bytes of what is known: whoever waits is answered, and they are kept."""
        space = self._spaces[fetch.read.space]
        effects: list[Effect] = []
        if self._following.meet(space, reply.position.term):
            effects += self._followed_anew([space], now_s)
        if not space.settled or space.is_lost(reply.position):
            return [*effects, *self._not_fetched(fetch, now_s)]
        self.fetches.drop(fetch)
        extra = self._local.keep(fetch.read, reply)
        for source, read in fetch.waiters:
            answered = None
            if space.may_answer(read.position):
                found = self._local.answer(space, read, extra)
                if found is not None:
                    answered = self._go_on(space, source, read, found, now_s)
            if answered is None:
                answered = self.passed.pass_on(space, source, read, now_s)
            effects += answered
        return effects

    def _not_fetched(
        self, fetch: Fetch, now_s: float, said: RequestFailed | None = None
    ) -> list[Effect]:
        """The replica could not: whoever waits gets an answer, or error, from the index replica.

        If the fetched one `said` of itself that it lacks the bytes, it is asked first: it may have
        a part of the answer, and knows at once. Asked last, after others that waited for the cold
        store as well, it would wait for that a second time.
        """
        self.fetches.drop(fetch)
        space = self._spaces[fetch.read.space]
        lacks = said is not None and isinstance(from_wire(said.error), NOT_THERE)
        first = fetch.node if lacks else None
        effects: list[Effect] = []
        for source, read in fetch.waiters:
            effects += self.passed.pass_on(space, source, read, now_s, first=first)
        return effects

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

    @property
    def waited_books(self) -> AbstractSet[int]:
        """LogBooks that somebody waits on here; they have to be followed."""
        return self._parked.books

    # --- the stream -------------------------------------------------------------------------------

    def stream(self, source: Address, message: IndexStream, now_s: float) -> list[Effect] | None:
        """What the followed replica has folded; None: it is of another one, and of no use."""
        space = self._spaces.get(message.space)
        if space is None or source != space.chosen:
            return None
        if not self._keeps:
            space.advance(message)
            return []
        effects: list[Effect] = []
        if self._following.meet(space, message.position.term):
            effects += self._followed_anew([space], now_s)
        if not space.settled:
            space.advance(message)
            if self._following.settle(space, message.position):
                effects += self._followed_anew([space], now_s)
            return effects
        if space.is_lost(message.position):  # another replica, which is not there yet
            space.settled = False
            return []
        news = space.apply(message)
        if not len(self._parked):
            return []
        woken = self._wake(self._parked.on(news.grown), now_s)
        return [*woken, *self._wake(self._parked.on_books(news.changed), now_s)]

    def trimmed(self, book: int, tag: str | None, until: int) -> None:
        """A trim that a client of this engine asked for has been decided."""
        self._local.trim(book, tag, until)

    # --- replicas ---------------------------------------------------------------------------------

    def install(self, view: View, horizons: dict[int, Horizon], now_s: float) -> list[Effect]:
        """The next view: perhaps other replicas."""
        effects: list[Effect] = []
        for each in view.spaces:
            anew = self._following.install(view, each, horizons[each.id])
            effects += self._followed_anew(anew, now_s)
        return effects

    def link_up(self, peer: Address, now_s: float) -> list[Effect]:
        """A storage node is there, and perhaps followed from now on."""
        return self._followed_anew(self._following.link_up(peer), now_s)

    def link_down(self, peer: Address, now_s: float) -> list[Effect]:
        """Another storage node takes its place; what was asked of it is asked again."""
        effects: list[Effect] = []
        for fetch in self.fetches.of(peer):
            effects += self._not_fetched(fetch, now_s)
        effects += self._followed_anew(self._following.link_down(peer), now_s)
        return [*effects, *self.passed.move_on(peer, now_s)]

    def end_batch(self) -> list[Effect]:
        """For as long as somebody waits, somebody looks whether an answer still comes."""
        if self._silence.looking:
            return []
        waiting = self.passed.by_request or self.fetches.by_request or len(self._parked)
        return [self._silence.look_later()] if waiting else []

    def look_for_silence(self, now_s: float) -> list[Effect]:
        """Somebody has waited for a while: whatever silent storage nodes owe is asked of others."""
        effects: list[Effect] = []
        silent = self._silence.found(
            passed=self.passed, fetches=self.fetches, spaces=self._spaces, now_s=now_s
        )
        for node in silent:
            for fetch in self.fetches.of(node):
                effects += self._not_fetched(fetch, now_s)
            for number, space in self._spaces.items():
                if space.chosen == node:
                    effects += self.follow_another(number, now_s)
            effects += self.passed.move_on(node, now_s)
        return effects

    def follow_another(self, number: int, now_s: float) -> list[Effect]:
        """The followed replica of this log space lags, and keeps others waiting."""
        space = self._spaces[number]
        told = self._following.give_up(space)
        return [] if told is None else [*told, *self._followed_anew([space], now_s)]

    def _followed_anew(self, spaces: Iterable[IndexFollower], now_s: float) -> list[Effect]:
        """Questions go to the replica that is followed now, and who waited for the stream looks
        again.
        """
        effects: list[Effect] = []
        for space in spaces:
            effects += self.passed.ask_anew(space, now_s)
            effects += self._wake(self._parked.on_books(space.books), now_s)
        return effects

    def forget_client(self, client: Address) -> list[Effect]:
        """It is gone: nobody waits for its answers."""
        gone = self._parked.of(client)
        for number in gone:
            self._parked.take(number)
        self.passed.forget_client(client)
        self.fetches.forget_client(client)
        return [CancelTimer((READ_TIMER, number)) for number in gone]

    # --- for people -------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Reads that are not answered yet."""
        return len(self.passed.by_request) + len(self._parked) + self.fetches.waiting

    def check(self) -> None:
        """Asserts the invariants."""
        self._parked.check()
        self.fetches.check()
        assert self._keeps or not (len(self._parked) or self.fetches.by_request)


def _not_ready(source: Address, message: Question | SetAux) -> Effect:
    error = NotReady(f"log space {message.space} is in no view known here")
    return Send(source, RequestFailed(message.request, to_wire(error), START))
