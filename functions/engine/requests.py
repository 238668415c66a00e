"""What an engine asks the primary for its clients: tails and proposals, asked again until they are
answered.

Decides when a tail is asked for (once per tick and log space, for all who arrived in it, P26) and
when a proposal is sent again: after any doubt about a link, because trims, holds, releases and
deletions may be repeated without harm.

Invariants: a waiter is only answered by a round begun after it arrived; a proposal is answered by
the fold, through the index stream, never by the primary's taking it.

Does not know: the metalog, facts. What a waiter for a tail does with it is the core's.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.errors import (
    NotPrimary,
    NotReady,
    RemoteProtocolError,
    Sealed,
    WrongTerm,
    from_wire,
    to_wire,
)
from bokilog.functions.engine.links import Links
from bokilog.ids import START, NodeId, Position
from bokilog.messages import (
    Answer,
    BookState,
    Message,
    Propose,
    Read,
    RequestFailed,
    Tail,
    TailRequest,
)
from bokilog.metalog import DeleteBook, EndTags, Hold, Proposer, Release, Retain, Trim
from bokilog.view import View

TIMER = "requests"

Waiter = tuple[Address, TailRequest | Read | BookState]
"""A client and what it asked: the tail itself, or something that needs one first."""


class Round:
    """One request for a tail, and who it is for."""

    __slots__ = ("space", "waiters")

    def __init__(self, space: int, waiters: list[Waiter]) -> None:
        self.space = space
        self.waiters = waiters


class Proposed:
    """A client's proposal under this engine's number."""

    __slots__ = ("client", "message", "request")

    def __init__(self, client: Address, request: int, message: Propose) -> None:
        self.client = client
        self.request = request
        """The client's."""
        self.message = message


class PrimaryRequests:
    """Everything that waits for primaries."""

    def __init__(self, *, number: int, links: Links, ids: Iterator[int], retry_s: float) -> None:
        self.repeated_count = 0
        self._number = number
        self._links = links
        self._ids = ids
        self._retry_s = retry_s
        self._primaries: dict[int, NodeId] = {}
        self._arrived: dict[int, list[Waiter]] = {}
        self._rounds: dict[int, Round] = {}
        self._proposals: dict[int, Proposed] = {}
        self._timer_set = False

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        rounds = sum(len(each.waiters) for each in self._rounds.values())
        return rounds + sum(map(len, self._arrived.values())) + len(self._proposals)

    # --- tails ------------------------------------------------------------------------------------

    @property
    def arrived(self) -> bool:
        """Whether `end_batch` has anything to ask for."""
        return bool(self._arrived)

    def want_tail(self, source: Address, message: TailRequest | Read | BookState) -> list[Effect]:
        """At the end of the tick a round begins for all who have arrived."""
        if message.space not in self._primaries:
            return [_refused(source, message.request, message.space)]
        self._arrived.setdefault(message.space, []).append((source, message))
        return []

    def cancel(self, client: Address, request: int) -> None:
        """A client does not wait for the tail any more, nor for what it would read at it."""
        for waiters in (*self._arrived.values(), *(each.waiters for each in self._rounds.values())):
            waiters[:] = [
                waiter for waiter in waiters if waiter[0] != client or waiter[1].request != request
            ]

    def end_batch(self) -> list[Effect]:
        """Begins the rounds of this tick."""
        if not self._arrived:
            return []
        effects: list[Effect] = []
        for space, waiters in self._arrived.items():
            request = next(self._ids)
            self._rounds[request] = Round(space, waiters)
            effects += self._to_primary(space, TailRequest(request, space))
        self._arrived = {}
        return [*effects, *self._ensure_timer()]

    def tail_arrived(self, message: Tail) -> list[Waiter]:
        """Who waited for it."""
        found = self._rounds.pop(message.request, None)
        return found.waiters if found is not None else []

    # --- proposals --------------------------------------------------------------------------------

    def propose(self, client: Address, message: Propose) -> list[Effect]:
        """To the primary under a number of this engine, so that the fold's answer finds its way
        back.
        """
        entry = message.entry
        if not isinstance(entry, Trim | Hold | Release | DeleteBook | EndTags | Retain):
            problem = f"a client cannot propose {type(entry).__name__}"
            error = to_wire(RemoteProtocolError(problem))
            return [Send(client, RequestFailed(message.request, error, START))]
        if message.space not in self._primaries:
            return [_refused(client, message.request, message.space)]
        request = next(self._ids)
        proposer = Proposer(self._number, request)
        own = Propose(request, message.space, entry._replace(proposer=proposer))
        self._proposals[request] = Proposed(client, message.request, own)
        return [*self._to_primary(message.space, own), *self._ensure_timer()]

    def decided(self, row: list[object], position: Position) -> tuple[list[Effect], Trim | None]:
        """The fold's answer to a proposal, for its client; with a trim, the entry as it was
        decided.
        """
        request, values, error = row
        proposed = self._proposals.pop(request, None) if isinstance(request, int) else None
        if proposed is None:
            return [], None
        if isinstance(error, list):
            failed = RequestFailed(proposed.request, error, position)
            return [Send(proposed.client, failed)], None
        values = values if isinstance(values, list) else []
        entry, trim = proposed.message.entry, None
        if isinstance(entry, Trim) and values and isinstance(values[0], int):
            trim = entry._replace(until=values[0])
        return [Send(proposed.client, Answer(proposed.request, position, values))], trim

    def failed(self, message: RequestFailed) -> list[Effect] | None:
        """A primary's refusal; None: it is not about a request of these."""
        request = message.request
        if request not in self._rounds and request not in self._proposals:
            return None
        if isinstance(from_wire(message.error), NotPrimary | Sealed | WrongTerm):
            return []  # the next view is on its way: it will be asked again
        proposed = self._proposals.pop(request, None)
        if proposed is not None:
            return [Send(proposed.client, message._replace(request=proposed.request))]
        return [
            Send(source, message._replace(request=waiting.request))
            for source, waiting in self._rounds.pop(request).waiters
        ]

    # --- asking again -----------------------------------------------------------------------------

    def install(self, view: View) -> list[Effect]:
        """Perhaps other primaries: whatever is unanswered goes to them."""
        self._primaries = {space.id: space.primary for space in view.spaces}
        return self._ask_again(set(self._primaries))

    def link_up(self, peer: Address) -> list[Effect]:
        """A primary, or an index replica whose answers may have been missed, is connected."""
        return self._ask_again(
            {space for space, primary in self._primaries.items() if primary == peer}
        )

    def propose_again(self, space: int) -> list[Effect]:
        """Another index replica is followed: answers of the last one may have been missed."""
        effects: list[Effect] = []
        for proposed in self._proposals.values():
            if proposed.message.space == space:
                self.repeated_count += 1
                effects += self._to_primary(space, proposed.message)
        return effects

    def _ask_again(self, spaces: set[int]) -> list[Effect]:
        effects: list[Effect] = []
        for request, each in self._rounds.items():
            if each.space in spaces:
                self.repeated_count += 1
                effects += self._to_primary(each.space, TailRequest(request, each.space))
        for space in sorted(spaces):
            effects += self.propose_again(space)
        return effects

    def timer(self) -> list[Effect]:
        """Nothing may wait for a message that was lost."""
        self._timer_set = False
        return [*self._ask_again(set(self._primaries)), *self._ensure_timer()]

    def forget_client(self, client: Address) -> None:
        """It is gone: its proposals were sent and may stand, its tails are of no use."""
        self._proposals = {
            request: each for request, each in self._proposals.items() if each.client != client
        }
        for waiters in (*self._arrived.values(), *(each.waiters for each in self._rounds.values())):
            waiters[:] = [waiter for waiter in waiters if waiter[0] != client]
        self._rounds = {request: each for request, each in self._rounds.items() if each.waiters}

    def _to_primary(self, space: int, message: Message) -> list[Effect]:
        primary = self._primaries[space]
        return [Send(primary, message)] if primary in self._links.up else []

    def _ensure_timer(self) -> list[Effect]:
        if self._timer_set or not (self._rounds or self._proposals):
            return []
        self._timer_set = True
        return [SetTimer(TIMER, self._retry_s)]


def _refused(client: Address, request: int, space: int) -> Effect:
    error = NotReady(f"log space {space} is in no view known here")
    return Send(client, RequestFailed(request, to_wire(error), START))
