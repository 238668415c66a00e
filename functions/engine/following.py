"""From which storage node the index of each log space is followed, and since when.

Decides which connected replica is chosen (engines are spread over them; one that was given up for
its lag comes last), when another one takes its place, what it is told, and when a new term or view
means that what is known here may be lost: then it is forgotten (P11, P13, P20).

Invariants: the followed replica is one of the log space's replicas, or there is none. Another one,
or another link to the same, may not have told what the last one did: so whoever has a log space
chosen anew is told of it, and asks once more whatever waits for that replica.

Does not know: reads, clients, what the stream of one log space means (`index_follower.py`).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from xxhash import xxh3_64_intdigest

from bokilog.effects import Address, Effect, Send
from bokilog.facts import Facts
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.published import Published
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import NodeId, Position, Term
from bokilog.view import LogSpace, View


class Following:
    """The index of every log space, as this engine follows it.

    Args:
        settings: bounds the LogBooks that are followed.
        node: this engine.
        number: its shard number, by which replicas know who follows them.
        links: which storage nodes are connected.
        facts: what is known of the order; forgotten here if it may be lost.
        cache: the same of records.
        published: the same of what is shared with workers; None: nothing is.
    """

    __slots__ = (
        "_anew",
        "_cache",
        "_due",
        "_facts",
        "_links",
        "_node",
        "_number",
        "_published",
        "_settings",
        "spaces",
    )

    def __init__(
        self,
        *,
        settings: EngineSettings,
        node: NodeId,
        number: int,
        links: Links,
        facts: Facts,
        cache: RecordCache,
        published: Published | None,
    ) -> None:
        self.spaces: dict[int, IndexFollower] = {}
        self._settings = settings
        self._node = node
        self._number = number
        self._links = links
        self._facts = facts
        self._cache = cache
        self._published = published
        self._due: set[int] = set()
        """Log spaces with something to ask for at the end of the batch."""
        self._anew: set[int] = set()
        """Chosen anew since somebody asked."""

    # --- views and terms --------------------------------------------------------------------------

    def install(self, view: View, of: LogSpace, horizon: Horizon) -> list[IndexFollower]:
        """What the next view says of a log space: perhaps other replicas, perhaps that something
        was lost. Returns the log spaces that are followed anew.
        """
        space = self.spaces.get(of.id)
        if space is None:
            space = self.spaces[of.id] = IndexFollower(
                of.id,
                facts=self._facts,
                horizon=horizon,
                published=self._published,
                due=self._due,
            )
        space.replicas = of.replicas
        space.lossy = of.durability != "sync"
        space.volatile = of.durability == "memory"
        past = space.install(view.term, view.end(of.id))
        if self.meet(space, view.term):
            return [space]
        if past:
            return self._forget(space)
        if space.chosen not in of.replicas:
            return self._choose([space])
        return []

    def meet(self, space: IndexFollower, term: Term) -> bool:
        """Something tells of this term, perhaps before its view is here. Whether a log space of
        class `memory` begins with it: what is known of it may be lost since (P20), and it is
        followed anew.
        """
        if not space.begin_term(term):
            return False
        space.forget()
        self._cache.forget(space.id)
        self._choose([space])
        return True

    def settle(self, space: IndexFollower, position: Position) -> bool:
        """Whether the followed replica folds entries of the term: what it says from here on counts.
        It is followed anew, since what it has told so far was not taken.
        """
        if space.is_lost(position):
            return False
        space.settled = True
        self._choose([space])
        return True

    def _forget(self, lost: IndexFollower) -> list[IndexFollower]:
        """The view says that entries known here were lost, as the class may (P11): what they
        brought is not served any more (P13). Seldom enough to begin all facts anew."""
        self._facts.clear()
        self._cache.forget(lost.id)
        if self._published is not None:
            self._published.forget()
        return self._choose(list(self.spaces.values()))

    # --- links ------------------------------------------------------------------------------------

    def link_up(self, peer: Address) -> list[IndexFollower]:
        """A storage node is there: follow it if there was none, or if this is a new link to the
        same. Returns the log spaces that are followed anew.
        """
        for space in self.spaces.values():
            space.left.pop(NodeId(str(peer)), None)  # whatever held it up may be over
        return self._choose(
            [
                space
                for space in self.spaces.values()
                if peer in space.replicas and space.chosen in (None, peer)
            ]
        )

    def link_down(self, peer: Address) -> list[IndexFollower]:
        """Another storage node takes its place. Returns the log spaces that are followed anew."""
        return self._choose([space for space in self.spaces.values() if space.chosen == peer])

    def give_up(self, space: IndexFollower) -> list[Effect] | None:
        """The followed replica lags behind the others, or all do: the next one gets its turn. What
        the one before it is told; None: there is no other.
        """
        lagging = space.chosen
        if len(self._links.up_of(space.replicas)) < 2:
            return None
        told = space.leave(self._number)
        self._choose([space])
        return [] if told is None or lagging is None else [Send(lagging, told)]

    def _choose(self, spaces: list[IndexFollower]) -> list[IndexFollower]:
        """One of the connected replicas each, engines spread over them."""
        for space in spaces:
            up = self._links.up_of(space.replicas)
            space.choose(min(up, key=lambda node: self._preference(space, node), default=None))
            self._anew.add(space.id)
        return spaces

    def _preference(self, space: IndexFollower, node: NodeId) -> tuple[int, int]:
        rank = xxh3_64_intdigest(f"{self._node}/{node}/{space.id}".encode())
        return space.left.get(node, 0), rank

    def chosen_anew(self) -> set[int]:
        """Log spaces that follow another replica, or another link to it, since the last call."""
        anew, self._anew = self._anew, set()
        return anew

    # --- what replicas are told -------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether `end_batch` has anything to ask for; at the end of most batches it has not."""
        return bool(self._due)

    @property
    def verdicts_due(self) -> bool:
        """Whether some replica will be asked for verdicts at the end of the batch."""
        return any(space.verdicts_due for space in self.spaces.values())

    def end_batch(
        self, verdicts: dict[int, list[list[int]]], waited: AbstractSet[int]
    ) -> list[Effect]:
        """Tells replicas what is wanted now.

        Args:
            verdicts: rows per log space, of frames without their verdict.
            waited: LogBooks that somebody waits on; they are followed on.
        """
        effects: list[Effect] = []
        for number, space in self.spaces.items():
            if not (space.follow_due or space.verdicts_due) or space.chosen is None:
                continue
            request = space.request(
                self._number,
                verdicts.get(number, []),
                books_max=self._settings.followed_books_max,
                waited=waited,
            )
            effects.append(Send(space.chosen, request))
        return effects

    def check(self) -> None:
        """Asserts the invariants."""
        for space in self.spaces.values():
            space.check()
        assert self._due <= self.spaces.keys()
        assert self._anew <= self.spaces.keys()
