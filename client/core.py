"""Everything one client decides: its lanes, its requests, and the LogBooks it knows; pure.

Decides what is sent now, what waits for a connection, for room or for a LogBook to be found, and
which session learns what. Composes `lane`, `room`, `requests`, `session`, `books` and `cache`.

Invariants: appends of a LogBook leave in the order they were issued, also those that had to wait
until it was found or created, or that met its deletion; a route that is not live is used by nothing
new; nothing is sent before a `Welcome`.

Does not know: event loops, clocks, sockets. Times come in as `now_s`; two callbacks go out: `wake`
asks for `flush` at the end of this tick, `find` asks to find or create a LogBook.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from bokilog.client import outcomes
from bokilog.client.batching import Batch
from bokilog.client.books import Route
from bokilog.client.cache import Cache
from bokilog.client.lane import Lane
from bokilog.client.port import Frames, Port
from bokilog.client.requests import Query, Request, Requests
from bokilog.client.room import Room
from bokilog.client.session import Session
from bokilog.client.units import NEVER, Unit
from bokilog.errors import (
    BokilogError,
    HistoryChanged,
    NodeUnreachable,
    NotReady,
    Overloaded,
    RemoteProtocolError,
    UnavailableError,
)
from bokilog.ids import SYSTEM_SPACE, Position, Term
from bokilog.messages import (
    Answer,
    CancelRead,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    Leaving,
    Message,
    ReadReply,
    RequestFailed,
    Status,
    Tail,
    Welcome,
)
from bokilog.named import NamedTuple

if TYPE_CHECKING:
    from bokilog.shared_records import SharedReader  # a log in this process needs none

OVERLOADED_RETRY_S = 0.1
BOOKS_MAX = 16_384
"""Names remembered though nothing uses them; beyond, the one used longest ago goes."""


class Book:
    """A LogBook by name, as this client knows it now.

    There is one of a name for as long as anything uses it: a handle, a unit that waits, a frame on
    its way (by its route). Two would find the next incarnation at two times, and what was appended
    later could get there first.
    """

    __slots__ = (
        "__weakref__",
        "_last_place",
        "barrier",
        "finding",
        "gone",
        "held",
        "name",
        "next_route",
        "route",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.route: Route | None = None
        """None: not known to exist."""
        self.next_route: Route | None = None
        """It exists, but units that waited for it have to go first."""
        self.held: list[tuple[tuple[float, int], Unit]] = []
        """Units that wait for it to be found or created, with their place in the order of issue."""
        self.finding = False
        self.gone = 0
        """Number of the last incarnation that is known to be deleted; 0: none."""
        self.barrier: tuple[Lane, int] | None = None
        """Frames of the lane up to this number may still bring back units that go first."""
        self._last_place = 0

    def next_place(self) -> tuple[float, int]:
        """In `held`, behind all that was ever put there: some may have left meanwhile."""
        self._last_place += 1
        return NEVER, self._last_place


class ClientStats(NamedTuple):
    """What one client has under way."""

    connected: bool
    records_in_flight: int
    bytes_in_flight: int
    units_held: int
    requests: int


class ClientCore:
    """Pure core of a client."""

    def __init__(
        self,
        *,
        timeout_s: float,
        wake: Callable[[], None],
        find: Callable[[Book], None],
        cache: Cache | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.welcome: Welcome | None = None
        """The newest one, also after the connection is gone."""
        self.up = False
        self.leaving = False
        """The engine is about to stop: it gets no more frames and is left after its last answer."""
        self.down_reason = "it was never reached"
        self.cache = cache or Cache()
        self.system = Session("")
        """What this client has seen as a whole: new sessions start here."""
        self.requests = Requests(self._send_request, self._observe)
        self.wake_s = NEVER
        """When `tick` is to be called, at the latest."""
        self.port: Port | None = None
        self.shared: SharedReader | None = None
        """Memory of the engine, if it is on this machine."""
        """Set by the shell before anything is sent."""
        self._wake = wake
        self._find = find
        self._lanes: dict[int, Lane] = {}
        self._turns: deque[Lane] = deque()
        """The lanes, the one whose turn it is first."""
        self._room = Room()
        self._books: WeakValueDictionary[str, Book] = WeakValueDictionary()
        """All that anything uses."""
        self._remembered: dict[str, Book] = {}
        """So that what was found needs not be found again; the one used last is the last."""
        self._restless: dict[Book, None] = {}
        """LogBooks with units that wait for them, in the order they began to."""
        self._pumping = False
        self._ended: Callable[[], BokilogError] | None = None
        """Why nothing is answered any more: calls of several steps may be between two of them."""

    # --- the connection ---------------------------------------------------------------------------

    def on_up(self, welcome: Welcome, now_s: float) -> None:
        """An engine is there: what waited is sent, what was sent with a key before all else.

        Raises:
            RemoteProtocolError: it is of another cluster than the one before.
        """
        known = self.welcome
        if known is not None and known.cluster_id != welcome.cluster_id:
            raise RemoteProtocolError(
                f"this is cluster {welcome.cluster_id!r}, not {known.cluster_id!r} as before"
            )
        if known is None or known.history_id != welcome.history_id:
            self.system = Session(welcome.history_id)
            self.cache.clear()
            self.forget_routes()
        self.welcome = welcome
        for space, term, count, _ in welcome.positions:
            self.system.observe(space, Position(Term(term), count))
            self.cache.engine_stands(space, term)
        self.up, self.leaving = True, False
        self.requests.up(now_s)
        self.flush(now_s)

    def on_down(self, reason: str, unsent: Frames = ()) -> None:
        """The engine is gone: what left without a key is unknown, all else waits."""
        self.down_reason = reason
        if not self.up:
            return
        self.up = False
        self._room = Room()
        self.requests.down()
        for lane in self._lanes.values():
            never_left = [number for space, number in unsent if space == lane.space]
            lane.down(f"the connection was lost ({reason})", never_left)
        self._settle_all()

    def on_messages(self, messages: list[Message], now_s: float) -> None:
        """What the engine says, in order.

        Raises:
            RemoteProtocolError: it says what is not for a client.
        """
        for message in messages:
            match message:
                case FrameOrdered():
                    self.system.observe(message.space, message.position)
                    self._left(self.lane(message.space).ordered(message))
                case ReadReply() | Answer() | Tail():
                    self.requests.answered(message, now_s)
                case FrameVerdicts():
                    self._verdicts(message, now_s)
                case RequestFailed():
                    self._wake_at(self.requests.failed(message, now_s))
                case FrameRefused():
                    lane = self.lane(message.space)
                    self._left(lane.refuse(message, now_s))
                    lane.resume(now_s)
                    self._wake_at(lane.resume_at_s)
                case FrameLost():
                    self._left(self.lane(message.space).lose(message))
                case Leaving():
                    self.leaving = True
                case Status():
                    pass  # asked for by the port, which has heard it
                case _:
                    raise RemoteProtocolError(f"{type(message).__name__} is nothing for a client")
        self._pump()
        if self.leaving and self.port is not None and not any(map(_awaits, self._lanes.values())):
            self.port.leave()

    def _verdicts(self, message: FrameVerdicts, now_s: float) -> None:
        lane = self.lane(message.space)
        self.system.observe(message.space, message.position)
        done, homeless = lane.verdicts(message)
        for place, (route, unit) in enumerate(homeless):
            self._move_out(route, unit, order=(message.number, place), now_s=now_s)
        self._left(done)

    def _left(self, batch: Batch | None) -> None:
        """A frame is not in flight any more."""
        if batch is None:
            return
        self._room.give_back(batch)
        if self._restless:
            self._settle_all()

    # --- appends ----------------------------------------------------------------------------------

    def lane(self, space: int) -> Lane:
        """The lane of a log space."""
        lane = self._lanes.get(space)
        if lane is None:
            lane = self._lanes[space] = Lane(space, self._wake)
            self._turns.append(lane)
        return lane

    def append(self, book: Book, unit: Unit, now_s: float) -> None:
        """Send a unit in its turn, or keep it until its LogBook is found or created."""
        route = book.route
        if route is not None and route.live:
            self.append_to(route, unit)
            return
        self._hold(book, unit, order=book.next_place(), now_s=now_s)
        self._look_for(book)

    def append_to(self, route: Route, unit: Unit) -> None:
        """Send a unit in its turn to a LogBook that is known to live."""
        if self._ended is not None:
            unit.waiter.set_exception(self._ended())
            return
        self._wake_at(unit.deadline_s)
        self.lane(route.space).add(unit, route)

    def flush(self, now_s: float) -> None:
        """The tick is over: send what it brought, as far as there is room."""
        deadline_s = now_s + self.timeout_s
        for lane in self._lanes.values():
            lane.seal(deadline_s)
        self._wake_at(deadline_s)
        self._pump()

    def _pump(self) -> None:
        """Lanes take turns, a frame each; a frame without room lets no other pass."""
        if self._pumping or not self.up or self.leaving or self.port is None:
            return
        turns, idle_count = self._turns, 0
        for lane in turns:
            if lane.backlog:
                break
        else:
            return
        self._pumping = True  # an answer from inside `send` comes back here
        try:
            while idle_count < len(turns):
                batch = turns[0].head()
                if batch is None:
                    idle_count += 1
                elif not self._room.fits(batch) or not self._send_head(turns[0], batch):
                    return
                else:
                    idle_count = 0
                turns.rotate(-1)
        finally:
            self._pumping = False

    def _send_head(self, lane: Lane, batch: Batch) -> bool:
        self._room.take(batch)
        frame = lane.take_head()
        if self.port is not None and self.port.send(frame):
            return True
        self._room.give_back(batch)
        lane.put_back(frame.number)
        return False  # the port is about to say that it is down

    # --- LogBooks ---------------------------------------------------------------------------------

    def book(self, name: str) -> Book:
        """The LogBook of that name, whether it is known to exist or not."""
        remembered = self._remembered
        book = remembered.pop(name, None) or self._books.get(name)
        if book is None:
            book = self._books[name] = Book(name)
        remembered[name] = book
        if len(remembered) > BOOKS_MAX:
            del remembered[next(iter(remembered))]
        return book

    def found(self, book: Book, route: Route) -> None:
        """The LogBook exists; units that waited for it go first."""
        book.finding = False
        current = book.route or book.next_route
        if current is not None and current.live and current.number == route.number:
            current.seen_at = max(current.seen_at, route.seen_at)
            route = current
        else:
            _forget_route(book)
        route.book = book
        book.route, book.next_route = None, route
        self._settle(book)

    def not_found(self, book: Book, error: Callable[[], BokilogError]) -> None:
        """It could be neither found nor created: nothing of what waited was sent."""
        book.finding = False
        self._restless.pop(book, None)
        held, book.held = book.held, []
        for _, unit in held:
            if not unit.waiter.done():
                unit.waiter.set_exception(error())

    def gone(self, book: Book, route: Route) -> None:
        """This incarnation was deleted; the name may have another one."""
        route.live, book.gone = False, max(book.gone, route.number)
        self.cache.drop(route.number)
        if book.route is route:
            book.route = None
        if book.next_route is route:
            book.next_route = None

    def deleted(self, name: str, number: int) -> None:
        """This client has deleted an incarnation."""
        book = self.book(name)
        for route in (book.route, book.next_route):
            if route is not None and route.number == number:
                self.gone(book, route)

    def forget_routes(self) -> None:
        """No LogBook is known any more; what uses one looks for it again."""
        for book in list(self._books.values()):
            _forget_route(book)

    def _hold(self, book: Book, unit: Unit, *, order: tuple[float, int], now_s: float) -> None:
        if unit.deadline_s == NEVER:
            unit.deadline_s = now_s + self.timeout_s
        self._wake_at(unit.deadline_s)
        book.held.append((order, unit))

    def _look_for(self, book: Book) -> None:
        self._restless[book] = None
        if not book.finding:
            book.finding = True
            self._find(book)

    def _move_out(
        self, route: Route, unit: Unit, *, order: tuple[float, int], now_s: float
    ) -> None:
        """A unit is void because its LogBook was deleted: it goes to the next one of that name.

        Units of the same LogBook that were not sent yet follow it, and go there only once no
        earlier frame can bring back another one: so all keep their order.
        """
        book, lane = self.book(route.name), self.lane(route.space)
        if route.live:
            self.gone(book, route)
            for unsent in lane.unsent_of(route):
                self._hold(book, unsent, order=book.next_place(), now_s=now_s)
            book.barrier = (lane, lane.next_number - 1)
        self._hold(book, unit, order=order, now_s=now_s)
        self._look_for(book)

    def _settle_all(self) -> None:
        for book in list(self._restless):
            self._settle(book)

    def _settle(self, book: Book) -> None:
        """Let the units go that waited for a LogBook, if it is there and they are all here."""
        route = book.next_route
        if route is None or not route.live:
            return
        if book.barrier is not None and book.barrier[0].unanswered_to(book.barrier[1]):
            return
        book.route, book.next_route, book.barrier = route, None, None
        self._restless.pop(book, None)
        held, book.held = book.held, []
        held.sort(key=_order)
        for _, unit in held:
            if not unit.waiter.done():
                self.append_to(route, unit)

    # --- sessions and requests --------------------------------------------------------------------

    def session(self, token: str | None) -> Session:
        """A session that has seen what `token` says; None: what this client has.

        Raises:
            InvalidToken: it is none.
            HistoryChanged: it is from before a restore.
        """
        session = Session(self.system.history_id, self.system.positions if token is None else None)
        if token is not None:
            session.merge(token)
        return session

    def check(self, session: Session) -> None:
        """Refuse a session from before a restore."""
        if session.history_id != self.system.history_id:
            raise HistoryChanged(session.history_id, self.system.history_id)

    def ask(self, request: Request, now_s: float) -> None:
        """Put a question to the engine."""
        if self._ended is not None:
            request.waiter.set_exception(self._ended())
            return
        self._wake_at(request.deadline_s)
        self.requests.ask(request, now_s)

    def _send_request(self, query: Query | CancelRead) -> bool:
        return self.up and self.port is not None and self.port.send(query)

    def _observe(self, space: int, position: Position) -> None:
        self.system.observe(space, position)

    # --- time and the end -------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Give up what is due, try again what it is time for; sets `wake_s` anew."""
        self.wake_s = NEVER
        self._wake_at(self.requests.tick(now_s))
        for lane in self._lanes.values():
            lane.resume(now_s)
            self._wake_at(lane.expire(now_s, partial(self._unsent_error, lane)))
        self._settle_all()
        for book in self._restless:
            kept = [(order, unit) for order, unit in book.held if unit.deadline_s > now_s]
            for _, unit in book.held:
                if unit.deadline_s <= now_s:
                    outcomes.expire_held(unit, self._unheld_error(book))
            book.held = kept
            self._wake_at(min((unit.deadline_s for _, unit in kept), default=NEVER))
        self._pump()

    def _wake_at(self, time_s: float) -> None:
        if time_s < self.wake_s:
            self.wake_s = time_s

    def _unsent_error(self, lane: Lane) -> UnavailableError:
        """Why a unit could not be sent in time; it certainly was not."""
        if not self.up:
            return NodeUnreachable("an engine", self.down_reason)
        if isinstance(lane.refusal, UnavailableError):
            return type(lane.refusal)(*lane.refusal.args)
        return Overloaded(OVERLOADED_RETRY_S)

    def _unheld_error(self, book: Book) -> UnavailableError:
        if not self.up:
            return NodeUnreachable("an engine", self.down_reason)
        lane = self._lanes.get(SYSTEM_SPACE)
        if lane is not None and lane.refusal is not None:  # its creation is a record there
            return self._unsent_error(lane)
        return NotReady(f"LogBook {book.name!r} was neither found nor created in time")

    @property
    def idle(self) -> bool:
        """Whether no append is under way."""
        return not self._restless and all(lane.idle for lane in self._lanes.values())

    def fail(self, error: Callable[[], BokilogError]) -> None:
        """The client is closing: everybody who waits is told, and whoever still asks."""
        self.up, self._ended = False, error
        for lane in self._lanes.values():
            lane.fail(error)
        for book in list(self._restless):
            self.not_found(book, error)
        self.requests.fail(error)

    def stats(self) -> ClientStats:
        """What is under way now."""
        return ClientStats(
            connected=self.up,
            records_in_flight=self._room.records,
            bytes_in_flight=self._room.bytes,
            units_held=sum(len(book.held) for book in self._restless),
            requests=len(self.requests),
        )


def _order(held: tuple[tuple[float, int], Unit]) -> tuple[float, int]:
    return held[0]


def _awaits(lane: Lane) -> bool:
    """Whether frames of it are under way."""
    return bool(lane.sent)


def _forget_route(book: Book) -> None:
    for route in (book.route, book.next_route):
        if route is not None:
            route.live = False
    book.route = book.next_route = None
