"""The producer of one log space: in which term and shard the frames of its clients leave, and what
of them the metalog orders.

Decides when a shard is asked for, open and done, which entries say something of it, and when some
are missing and asked for again. Whether a frame is taken is decided by `admission.py`; from then on
it is in `under_way.py`.

Invariants:
- After a view change nothing leaves, and nothing is numbered anew, before everything the old term
  ordered is known (P12, P13).
- Its own spans are contiguous: a span that does not start where the last one ended means missing
  entries, and nothing is concluded before they are here.
- No frame leaves before every deletion of a LogBook is known that the order will not tell of any
  more (`deletions.py`): its units would be acknowledged, and void (P5, P16).
- Whatever stood still is asked for again after a while: no message is relied on to arrive.

Does not know: frames one by one, clients, facts, reads. Source: Boki (SOSP'21) section 4.3.
"""

from __future__ import annotations

from enum import Enum

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.errors import ReadOnly
from bokilog.functions.engine.admission import Admission
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.deletions import Deletions
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon, SpaceOrder
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.under_way import UnderWay
from bokilog.ids import START, LogSpaceId, NodeId, Position, Term
from bokilog.messages import AppendFrame, FollowMetalog, OpenShardRequest
from bokilog.metalog import CloseShard, Cut, DeleteBook, Lost, OpenShard, Run
from bokilog.view import View


class Standing(Enum):
    """Where the shard of the installed term stands; a new term goes back to the start."""

    NO_VIEW = "no view"
    CATCHING_UP = "catching up"
    """Numbered frames of the old term are unordered, and its last entries are not here yet."""
    OPENING = "opening"
    LEARNING = "learning of deletions"
    """Open in the metalog; which LogBooks were deleted in entries that were let go, an index
    replica has still to tell (P16)."""
    OPEN = "open"
    CLOSED = "closed"
    """A newer start of this engine has taken over: nothing of this one will be ordered any more
    (P1, P2).
    """


class SpaceProducer:
    """Appends of one log space."""

    def __init__(
        self,
        space: LogSpaceId,
        *,
        settings: EngineSettings,
        node: NodeId,
        number: int,
        links: Links,
        cache: RecordCache,
        horizon: Horizon,
    ) -> None:
        self.space = space
        self.node = node
        self.number = number
        self.standing = Standing.NO_VIEW
        self.order = SpaceOrder(space, number)
        self.deletions = Deletions()
        self.admission = Admission(space, node=node, settings=settings, horizon=horizon)
        self.under_way = UnderWay(
            space,
            number=number,
            links=links,
            cache=cache,
            admission=self.admission,
            deletions=self.deletions,
        )
        self.unexplained_count = 0
        """Spans that order more than this engine ever gave: somebody else uses its name."""
        self._settings = settings
        self._links = links
        self._horizon = horizon
        self._primary = NodeId("")
        self._write_quorum = 1
        self._base = START
        self._term = Term(0)
        self._follows_all = False
        """The primary was asked for every entry of the term, to find the opening."""
        self._timer_set = False
        self._ordered_at_timer = -1
        self._own_position = START
        """Of the last entry of its own: nothing before it can be missing."""
        self._gap_until = 0
        """First record that a span covered while the ones before it were not ordered yet; 0: no
        gap.
        """
        self._gap_asks = 0
        self._position_at_timer = START

    # --- clients ----------------------------------------------------------------------------------

    def take(self, client: Address, message: AppendFrame) -> list[Effect]:
        """A client's frame: it leaves at once if the shard is open."""
        taken = self.admission.take(client, message)
        if isinstance(taken, list):
            return taken
        effects: list[Effect] = [] if self._timer_set else [self._set_timer()]
        if self.standing is Standing.OPEN:
            self.under_way.issue(taken, effects)
        else:
            self.under_way.waiting.append(taken)
        return effects

    def forget_client(self, client: Address) -> None:
        """It is gone."""
        self.admission.forget_client(client)
        self.under_way.forget_client(client)

    def read_only_changed(self, reason: str) -> list[Effect]:
        """The journal of this process takes nothing for now, or it does again."""
        self.admission.read_only = reason
        return self.under_way.read_only(reason, ReadOnly(reason)) if reason else []

    def storage_refused(self, peer: Address, reason: str) -> list[Effect]:
        """A storage node takes no frames for now."""
        self.under_way.replicas.refused(peer, reason)
        return [*self._look_for_room(), *self._ensure_timer()]

    def _look_for_room(self) -> list[Effect]:
        """Once too few storage nodes take frames, no more are taken here: those are certainly not
        ordered. What is under way may be, once there is room, so it waits; its clients hear why."""
        admission, before = self.admission, self.admission.full
        admission.full = self.under_way.replicas.full(self._write_quorum)
        if before or not admission.full:
            return []
        return self.under_way.tell_clients(ReadOnly(admission.full))

    # --- links ------------------------------------------------------------------------------------

    def link_up(self, peer: Address) -> list[Effect]:
        """The primary is asked for everything since, a storage node what it holds."""
        if peer == self._primary:
            return self._ask_primary()
        return self.under_way.replicas.link_up(peer)

    def link_down(self, peer: Address) -> None:
        """A storage node gets nothing until it is back; the primary is asked then."""
        self.under_way.replicas.link_down(peer)
        if self.admission.full:
            self._look_for_room()

    # --- the metalog ------------------------------------------------------------------------------

    def metalog(self, run: Run) -> list[Effect]:
        """Published entries; some may be repeated, some left out because they concern others."""
        effects: list[Effect] = []
        self._take_anywhere(run, effects)
        under_way = self.under_way
        for position, entry in self.order.offer(run):
            if isinstance(entry, Cut):
                if position[0] == under_way.shard[1] and not self._cut(position, entry, effects):
                    effects += self._found_gap(position)
                    break
            elif isinstance(entry, CloseShard):
                self._closed(position, entry, effects)
            elif isinstance(entry, Lost) and entry.number == self.number:
                under_way.lost(entry, effects)
        if self.order.caught_up():
            effects += self._caught_up()
        return effects

    def published(self, position: Position) -> list[Effect]:
        """The primary has sent everything up to here that concerns this engine."""
        self.order.seen(position)
        return self._caught_up() if self.order.caught_up() else []

    def _take_anywhere(self, run: Run, effects: list[Effect]) -> None:
        """Entries that may come again and out of their turn: an opening that was missed is sent
        once more.
        """
        for place, entry in enumerate(run.entries, 1):
            if type(entry) is Cut:
                continue
            if isinstance(entry, DeleteBook):
                self.deletions.add(entry.book, run.first + place)
            elif (
                isinstance(entry, OpenShard)
                and entry.number == self.number
                and run.term == self._term
                and self.standing is Standing.OPENING
            ):
                effects += self._open(entry, Position(run.term, run.first + place))

    def _cut(self, position: Position, cut: Cut, effects: list[Effect]) -> bool:
        """Orders what the cut covers of the shard; False: entries before it are missing."""
        timestamp_ms, seqnum, spans = cut
        for number, start, until in spans:
            if number == self.number:
                under_way = self.under_way
                if until <= under_way.ordered_count:
                    return True
                if until > under_way.count:  # nobody could have reported that much
                    self.unexplained_count += 1
                    return True
                if start != under_way.ordered_count:
                    self._gap_until = start
                    return False
                self._own_position = position
                under_way.order(until, seqnum, position, timestamp_ms, effects)
            seqnum += until - start
        self._horizon.saw(position, seqnum)
        return True

    def _found_gap(self, position: Position) -> list[Effect]:
        """Something of this shard was left out: all since its last entry is asked for, without
        gaps.
        """
        if self.order.catching_up:
            self.order.rewind(Position(position.term, position.count - 1))
            return []
        self.order.catch_up(position.count, position=self._own_position)
        return self._ask_follow()

    # --- terms ------------------------------------------------------------------------------------

    def install(self, view: View) -> list[Effect]:
        """The next view: finish the old term first, then open this start's shard in the new one
        (P12, P13).
        """
        end = view.end(self.space)
        if self.standing is Standing.CLOSED:
            return []
        if self.standing is not Standing.NO_VIEW:
            self.order.end_term(Term(view.term - 1), end.position.count)
        self._primary = view.space(self.space).primary
        self._write_quorum = view.space(self.space).write_quorum
        self._term = view.term
        self._base = end.position
        if self._own_position.count > end.position.count:
            self._own_position = Position(self._own_position.term, end.position.count)
        self._gap_asks = self._gap_until = 0
        self.deletions.end_term(end.position.count)
        effects = self.under_way.end_term(view.term, end.position.count)
        if self.under_way.numbered and self._own_position.count < end.position.count:
            self.standing = Standing.CATCHING_UP
            self.order.catch_up(end.position.count, position=self._own_position)
            return [*effects, *self._ask_follow(), *self._ensure_timer()]
        return [*effects, *self._begin_term()]

    def _caught_up(self) -> list[Effect]:
        """No entry up to the target is missing any more."""
        self._gap_asks = self._gap_until = 0
        if self.standing is Standing.CATCHING_UP:
            return self._begin_term()
        return self._ask_follow()

    def _begin_term(self) -> list[Effect]:
        """Everything the old term ordered is known: the rest waits for this one's shard."""
        self.under_way.begin_term()
        self.admission.full = ""
        self.standing = Standing.OPENING
        return [*self._ask_primary(), *self._ensure_timer()]

    def _open(self, entry: OpenShard, position: Position) -> list[Effect]:
        """The metalog has opened the shard."""
        self.standing = Standing.LEARNING
        self._own_position = position
        self.under_way.opened(entry.replicas)
        effects = self._learned()
        if self._follows_all:
            self._follows_all = False
            effects += self._ask_follow()
        return effects

    def _learned(self) -> list[Effect]:
        """What waits leaves, if no deletion is missing."""
        if not self.deletions.all_known:
            return []
        self.standing = Standing.OPEN
        return self.under_way.issue_waiting()

    def books_deleted(self, books: list[int], position: Position) -> list[Effect]:
        """What an index replica says of deletions up to its position (P5)."""
        self.deletions.indexed(books, position[1])
        return self._learned() if self.standing is Standing.LEARNING else []

    def index_behind(self) -> bool:
        """Whether the followed index replica keeps appends waiting for what others may tell."""
        return self.standing is Standing.LEARNING and self.deletions.some_told

    def _closed(self, position: Position, entry: CloseShard, effects: list[Effect]) -> None:
        """A newer start of this engine has closed the shard."""
        if entry.number != self.number or position.term != self._term:
            return
        self.standing = Standing.CLOSED
        effects += self.under_way.close(entry.count, self.admission.close())

    # --- asking again -----------------------------------------------------------------------------

    def _ask_primary(self) -> list[Effect]:
        effects = self._ask_follow()
        if effects and self.standing is Standing.OPENING:
            request = OpenShardRequest(self.space, self._term, self.node, self.number)
            effects.append(Send(self._primary, request))
        return effects

    def _ask_follow(self) -> list[Effect]:
        if self._primary not in self._links.up:
            return []
        return [Send(self._primary, self.order.follow())]

    def timer(self) -> list[Effect]:
        """Whatever stood still since the last time is asked for again: nothing relies on each
        message arriving.
        """
        self._timer_set = False
        under_way = self.under_way
        stalled = bool(under_way.numbered) and self._ordered_at_timer == under_way.ordered_count
        self._ordered_at_timer = under_way.ordered_count
        effects: list[Effect] = []
        if self.standing is Standing.OPENING:
            effects += self._ask_opening()
        elif self.order.catching_up:
            effects += self._ask_gap()
        elif stalled:
            effects += self._ask_follow()
        full = bool(self.admission.full)
        under_way.replicas.forget_refusals()
        effects += [*self._look_for_room(), *under_way.replicas.ask(all_of_them=stalled or full)]
        return [*effects, *self._ensure_timer()]

    def _ask_opening(self) -> list[Effect]:
        """The opening may have been published while no link stood: everything of this term is asked
        for.
        """
        if self._primary not in self._links.up:
            return []
        number = self.number if self._base.count else 0  # from the very start, `number` means now
        self._follows_all = not number
        return [
            Send(self._primary, FollowMetalog(self.space, self._base, number)),
            Send(self._primary, OpenShardRequest(self.space, self._term, self.node, self.number)),
        ]

    def _ask_gap(self) -> list[Effect]:
        """Entries are missing; if the primary lacks them too, what they ordered is lost."""
        moved = self._position_at_timer != self.order.position
        self._position_at_timer = self.order.position
        asked = self._ask_follow()
        self._gap_asks = 0 if moved or not asked else self._gap_asks + 1
        return asked if self._gap_asks <= self._settings.gap_asks_max else self._give_up()

    def _give_up(self) -> list[Effect]:
        """The order goes on without what those entries said."""
        catching_up = self.standing is Standing.CATCHING_UP
        effects = self.under_way.give_up(self.under_way.count if catching_up else self._gap_until)
        self.order.catch_up(0)
        return [*effects, *(self._caught_up() if self.order.caught_up() else ())]

    @property
    def busy(self) -> bool:
        """Whether anything is waited for that may have to be asked for again."""
        return bool(
            self.under_way.any_left
            or self.order.catching_up
            or self.standing in (Standing.OPENING, Standing.LEARNING)
            or self.under_way.replicas.waiting
            or self.admission.full
        )

    def _ensure_timer(self) -> list[Effect]:
        return [self._set_timer()] if self.busy and not self._timer_set else []

    def _set_timer(self) -> Effect:
        self._timer_set = True
        return SetTimer(("producer", int(self.space)), self._settings.retry_s)

    # --- for people -------------------------------------------------------------------------------

    def summary(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "standing": self.standing.value,
            "position": list(self.order.position),
            "records_ordered": self.under_way.ordered_count,
            "unordered_frames": self.admission.frames,
            "unordered_bytes": self.admission.bytes,
            "awaited_verdicts": len(self.under_way.awaited),
            "read_only": self.admission.read_only or self.admission.full,
            "replicas": self.under_way.replicas.summary(),
        }

    def check(self) -> None:
        """Asserts the invariants."""
        self.order.check()
        self.under_way.check(closed=self.standing is Standing.CLOSED)
        assert not self.under_way.waiting or self.standing is not Standing.OPEN
