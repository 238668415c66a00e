"""Who follows the metalog of one log space, and what each of them is sent next.

Storage nodes get every entry, engines what touches their shard, and every deletion (P18). Decides
where a follower begins, how much it gets before others have their turn, and when an engine that a
run does not concern is told the position: a little later, for all runs meanwhile at once.

Invariants: a follower gets every entry that it needs once and in order on one connection; nothing
past what is published is sent (P11); a replica of a log space of which perhaps nothing is left is
sent nothing until that is decided (P20).

Does not know: how an entry gets published, backups (`replication.py` feeds those). Source: Boki
(SOSP'21) section 4.3, where every engine reads the whole metalog; differs: see `_touches`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.ids import Position
from bokilog.messages import FollowMetalog, Metalog, MetalogBegins, MetalogGone, MetalogPosition
from bokilog.metalog import CloseShard, Cut, DeleteBook, Lost, OpenShard, Run
from bokilog.sequencer.ordered import Ordered
from bokilog.sequencer.survival import Survival
from bokilog.view import LogSpace

RUNS_FED: Final = 64
"""Runs sent to a follower that is behind before others get their turn."""
RUNS_LOOKED_AT: Final = 1024
"""The same, counting also those that an engine does not need: about 10 ms of reading back."""
POSITIONS_S: Final = 0.02
"""An engine that nothing of a run concerns is told the position this much later, and so for all
runs meanwhile at once: nobody waits for it, and each message would wake a process."""


_new = tuple.__new__  # twice as fast as a named tuple's own


class Follower:
    """Who gets this metalog: a storage node (every entry) or an engine (what touches its shard)."""

    __slots__ = ("number", "sent", "told", "untold")

    def __init__(self, *, number: int, sent: int) -> None:
        self.number = number
        """The engine's shard number, or 0 for every entry (P18)."""
        self.sent = sent
        """Count of entries sent or skipped."""
        self.told = sent
        """The same without what it has not heard of: it may need what comes after that (P16)."""
        self.untold = False
        """The last of them were skipped, and it has not heard so."""


class Followers:
    """Everybody who follows one metalog, by connection.

    Args:
        space: its configuration in this term.
        ordered: the metalog.
        survival: whether anything of a `memory` log space is left.
    """

    __slots__ = ("_followers", "_ordered", "_positions_due", "_space", "_survival")

    def __init__(self, space: LogSpace, *, ordered: Ordered, survival: Survival) -> None:
        self._space = space
        self._ordered = ordered
        self._survival = survival
        self._followers: dict[Address, Follower] = {}
        self._positions_due = False
        """The timer is set after which engines hear of what was skipped."""

    def __len__(self) -> int:
        return len(self._followers)

    # --- coming and going -------------------------------------------------------------------------

    def follow(self, source: Address, message: FollowMetalog) -> list[Effect]:
        """Send everything from a position on, now and as it is published.

        An engine that knows nothing yet starts at the present, with every deletion there ever was
        (P18); of those that may not be known here any more an index replica tells it (P16). A
        position past what this primary knows is of entries that were lost with a term's
        end (P11): the follower is sent what came in their place, and learns from its view where
        the term ended (P13).
        """
        ordered, space = self._ordered, self._space
        sent = min(message.position.count, ordered.known(message.position.term))
        effects: list[Effect] = []
        if message.shard and not message.position.count:
            sent = ordered.published_count
            if ordered.deletions_since:
                effects.append(Send(source, MetalogBegins(space.id, ordered.deletions_since)))
            effects += [Send(source, Metalog(run)) for run in ordered.deletions]
        if source in space.replicas:
            sent = max(sent, ordered.starts_at)  # nothing before a start over is left (P20)
            losses = [run for run in ordered.deletions if isinstance(run.entries[0], Lost)]
            effects += [Send(source, Metalog(run)) for run in losses if run.until > sent]
        if sent < ordered.begins_at and not message.shard and not self._survival.undecided:
            return [Send(source, MetalogGone(space.id, ordered.begins_at))]
        follower = self._add(source, Follower(number=message.shard, sent=sent))
        if message.shard and sent == ordered.published_count:
            return [*effects, self._tell_position(source)]
        return [*effects, *self._feed(source, follower, at_leisure=False)]

    def _add(self, source: Address, follower: Follower) -> Follower:
        if follower.number:  # engines are told first: callers wait for them
            self._followers.pop(source, None)
            self._followers = {source: follower, **self._followers}
        else:
            self._followers[source] = follower
        return follower

    def link_down(self, source: Address) -> None:
        """It follows no more."""
        self._followers.pop(source, None)

    def start_over(self, count: int) -> None:
        """Replicas need no entry before that one: their folds begin there, empty (P20)."""
        for source, follower in self._followers.items():
            if source in self._space.replicas:
                follower.sent = max(follower.sent, count)

    # --- feeding ----------------------------------------------------------------------------------

    def feed_all(self, *, at_leisure: bool) -> list[Effect]:
        """The next published runs for each of them; `at_leisure`: who needs none of them may hear
        so later."""
        effects: list[Effect] = []
        for source, follower in list(self._followers.items()):
            effects += self._feed(source, follower, at_leisure=at_leisure)
        return effects

    def feed(self, source: Address) -> list[Effect] | None:
        """The next published runs for one; more are sent when its timer fires. None: it does not
        follow."""
        follower = self._followers.get(source)
        return self._feed(source, follower, at_leisure=False) if follower is not None else None

    def _feed(self, source: Address, follower: Follower, *, at_leisure: bool) -> list[Effect]:
        ordered = self._ordered
        if follower.sent >= ordered.published_count:
            return []
        if self._survival.undecided and source in self._space.replicas:
            return []
        if follower.sent < ordered.begins_at:  # a replica loads a fold, an engine begins anew (P16)
            del self._followers[source]
            return [Send(source, MetalogGone(self._space.id, ordered.begins_at))]
        effects: list[Effect] = []
        number, follower.untold = follower.number, False
        position_told = not number
        for looked_at, run in enumerate(ordered.runs_from(follower.sent)):
            if looked_at and (len(effects) >= RUNS_FED or looked_at >= RUNS_LOOKED_AT):
                effects.append(SetTimer(("feed", self._space.id, source), 0.0))
                return effects
            follower.sent = run.until
            if not number:
                effects.append(_new(Send, (source, _new(Metalog, (run,)))))
            elif _touches(run, number):
                effects.append(_new(Send, (source, _new(Metalog, (run,)))))
                position_told = run.tail is not None
            else:
                position_told = False
        follower.untold = not position_told and at_leisure and not effects
        if follower.untold:
            return self._tell_positions_later()
        follower.told = follower.sent
        if not position_told:
            effects.append(self._tell_position(source))
        return effects

    # --- positions --------------------------------------------------------------------------------

    def _tell_positions_later(self) -> list[Effect]:
        if self._positions_due:
            return []
        self._positions_due = True
        return [SetTimer(("positions", self._space.id), POSITIONS_S)]

    def tell_positions(self) -> list[Effect]:
        """To the engines that the last runs did not concern."""
        self._positions_due = False
        effects: list[Effect] = []
        for source, follower in self._followers.items():
            if follower.untold:
                follower.untold, follower.told = False, follower.sent
                effects.append(self._tell_position(source))
        return effects

    def _tell_position(self, source: Address) -> Effect:
        ordered = self._ordered
        position = MetalogPosition(self._space.id, ordered.published, ordered.published_tail)
        return Send(source, position)

    # --- for others -------------------------------------------------------------------------------

    def told(self) -> Iterator[int]:
        """Count of entries that each of them was sent, or knows that it does not need (P16)."""
        return (follower.told for follower in self._followers.values())

    def asked(self) -> list[tuple[Address, FollowMetalog]]:
        """What each of them would ask the next primary for."""
        space, term = self._space.id, self._ordered.term
        return [
            (source, FollowMetalog(space, Position(term, each.sent), each.number))
            for source, each in self._followers.items()
        ]

    def check(self) -> None:
        """Asserts the invariants."""
        published_count = self._ordered.published_count
        assert all(each.sent <= published_count for each in self._followers.values())


def _touches(run: Run, number: int) -> bool:
    """Whether an engine needs the run: its shard's entries, and every deletion (P18)."""
    for entry in run.entries:
        if isinstance(entry, Cut):
            for span in entry.spans:
                if span.number == number:
                    return True
        elif isinstance(entry, DeleteBook) or (
            isinstance(entry, (OpenShard, CloseShard, Lost)) and entry.number == number
        ):
            return True
    return False
