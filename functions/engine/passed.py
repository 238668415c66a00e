"""Questions that storage nodes are asked for clients, and who is asked next if one has no answer.

Decides whom a question goes to: the index replica that is followed, whose reply agrees with its
stream; another replica if that one says that it lacks the bytes, each once (P24, P33); the one that
is followed from now on once that changes. A question without a connected replica waits for one.

Invariants: a question goes out under a number of this engine, since those of two clients may be
equal, and is kept by it until it is answered or its client is gone; what it has waited already
counts when it is asked again; it fails only once nobody is left who may have the answer.

Does not know: facts, bytes, what an answer says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized

from bokilog.effects import Address, Effect, Send
from bokilog.errors import (
    BokilogError,
    CorruptJournal,
    CorruptRecord,
    DataLost,
    NotReady,
    Overloaded,
    to_wire,
)
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import START, NodeId
from bokilog.messages import BookState, CancelRead, Read, RequestFailed, SeqnumAt

Question = Read | SeqnumAt | BookState
NOT_THERE = (NotReady, DataLost, CorruptRecord, CorruptJournal)
"""What a replica says of itself only: another one may have the bytes (P24, P33)."""


class Passed:
    """A question that a storage node is to answer."""

    __slots__ = ("asked_s", "message", "node", "not_yet", "since_s", "source", "tried")

    def __init__(
        self, source: Address, message: Question, node: NodeId | None, since_s: float
    ) -> None:
        self.source = source
        self.message = message
        self.node = node
        """None: it waits for one to be connected."""
        self.since_s = since_s
        self.asked_s = since_s
        """When `node` was asked."""
        self.tried: set[NodeId] = set()
        """Those that cannot answer it: a node that is rebuilt lacks bytes for a while (P33)."""
        self.not_yet: RequestFailed | None = None
        """What one of them said that may have it later: then nobody is told that it is lost."""

    @property
    def owed_since_s(self) -> float:
        """An answer is owed from then on: a read that waits for a record may wait first."""
        message = self.message
        if not isinstance(message, Read) or not message.wait_ms:
            return self.asked_s
        return max(self.asked_s, self.since_s + message.wait_ms / 1000)


class PassedQuestions:
    """All of an engine.

    Args:
        settings: bounds what waits for an answer.
        links: which storage nodes are connected.
        ids: numbers of this engine's requests.
        spaces: who is followed in each log space.
        parked: reads that wait here for the stream; they count as waiting too.
    """

    __slots__ = (
        "_ids",
        "_links",
        "_parked",
        "_settings",
        "_spaces",
        "_waiting",
        "by_request",
        "count",
    )

    def __init__(
        self,
        *,
        settings: EngineSettings,
        links: Links,
        ids: Iterator[int],
        spaces: Mapping[int, IndexFollower],
        parked: Sized,
    ) -> None:
        self.by_request: dict[int, Passed] = {}
        """By the number that the storage node answers to; whoever gets the answer takes it out."""
        self._waiting: dict[tuple[Address, int], int] = {}
        """Of reads that may wait for a record: by client and its number, the one here."""
        self.count = 0
        """Passed on so far."""
        self._settings = settings
        self._links = links
        self._ids = ids
        self._spaces = spaces
        self._parked = parked

    def pass_on(
        self,
        space: IndexFollower,
        source: Address,
        message: Question,
        now_s: float,
        *,
        first: NodeId | None = None,
    ) -> list[Effect]:
        """To the index replica, whose reply agrees with its stream, or to another one `first`; kept
        until there is one."""
        if len(self.by_request) + len(self._parked) >= self._settings.reads_max:
            error = to_wire(Overloaded(self._settings.overloaded_retry_s, "the read"))
            return [Send(source, RequestFailed(message.request, error, START))]
        request = next(self._ids)
        node = space.chosen if first is None else first
        self._keep(request, Passed(source, message, node, now_s))
        self.count += 1
        return [] if node is None else [Send(node, _numbered(message, request))]

    def _keep(self, request: int, passed: Passed) -> None:
        self.by_request[request] = passed
        message = passed.message
        if type(message) is Read and message.wait_ms:
            self._waiting[passed.source, message.request] = request

    def take(self, request: int) -> Passed | None:
        """It is answered, or will be asked of another replica; None: nobody waits for it."""
        passed = self.by_request.pop(request, None)
        if passed is not None and type(passed.message) is Read and passed.message.wait_ms:
            self._waiting.pop((passed.source, passed.message.request), None)
        return passed

    def cancel(self, source: Address, request: int) -> list[Effect]:
        """A client does not wait any more; the storage node hears of it."""
        number = self._waiting.get((source, request))
        passed = self.take(number) if number is not None else None
        if passed is None or number is None or passed.node is None:
            return []
        return [Send(passed.node, CancelRead(passed.message.space, number))]

    def ask_another(
        self, message: RequestFailed, passed: Passed, error: BokilogError, now_s: float
    ) -> list[Effect]:
        """A replica lacks what it was asked for: one that was not asked yet may have it; if none is
        left, the client hears of it.
        """
        if isinstance(error, NotReady):
            passed.not_yet = message
        if passed.node is not None:
            passed.tried.add(passed.node)
        space = self._spaces[passed.message.space]
        for node in self._ranked(space):
            if node not in passed.tried:
                passed.node, passed.asked_s = node, now_s
                self._keep(message.request, passed)
                return [Send(node, _numbered(_rest(passed, now_s), message.request))]
        failed = passed.not_yet or message
        return [Send(passed.source, failed._replace(request=passed.message.request))]

    def _ranked(self, space: IndexFollower) -> list[NodeId]:
        """Those that can be asked: silent ones last, of the others the followed one first."""
        up = self._links.up_of(space.replicas)
        return sorted(up, key=lambda node: (self._links.is_silent(node), node != space.chosen))

    def ask_anew(self, space: IndexFollower, now_s: float) -> list[Effect]:
        """Another replica of the log space is followed, or another link to it: it is asked now."""
        effects: list[Effect] = []
        for request, passed in self.by_request.items():
            if passed.message.space == space.id:
                passed.node, passed.asked_s = space.chosen, now_s
                if space.chosen is not None:
                    message = _numbered(_rest(passed, now_s), request)
                    effects.append(Send(space.chosen, message))
        return effects

    def move_on(self, peer: Address, now_s: float) -> list[Effect]:
        """This storage node is gone, or silent: what was asked of it because the followed one could
        not answer is asked of that one again.
        """
        effects: list[Effect] = []
        for request, passed in self.by_request.items():
            chosen = self._spaces[passed.message.space].chosen
            if passed.node == peer and chosen != peer:
                passed.node, passed.asked_s = chosen, now_s
                if passed.node is not None:
                    message = _numbered(_rest(passed, now_s), request)
                    effects.append(Send(passed.node, message))
        return effects

    def owed(self) -> Iterator[tuple[NodeId, float]]:
        """Who owes an answer, and since when."""
        return (
            (passed.node, passed.owed_since_s)
            for passed in self.by_request.values()
            if passed.node is not None
        )

    def forget_client(self, client: Address) -> None:
        """It is gone: nobody waits for its answers."""
        self.by_request = {
            request: passed
            for request, passed in self.by_request.items()
            if passed.source != client
        }
        self._waiting = {who: number for who, number in self._waiting.items() if who[0] != client}


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
