"""The real core of a client in the world: what users' appends become, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass, field

from bokilog.client.books import Route
from bokilog.client.core import ClientCore
from bokilog.client.requests import Reply, Request
from bokilog.client.session import Session
from bokilog.client.units import NEVER, Unit, unit_digest
from bokilog.columns import Tags
from bokilog.ids import NodeId
from bokilog.messages import Message, Read, ReadReply, Welcome
from bokilog.record import Conditions
from tests.sim.clients import BOOK
from tests.sim.world import SPACE, World


@dataclass
class Outcome:
    """What an append's caller was told."""

    data: bytes
    seqnum: int | None = None
    error: BaseException | None = None

    def done(self) -> bool:
        return self.seqnum is not None or self.error is not None

    def set_result(self, result: int, /) -> None:
        self.seqnum = result

    def set_exception(self, exception: BaseException, /) -> None:
        self.error = exception


@dataclass
class Answer:
    """What a reader was told."""

    reply: ReadReply | None = None
    error: BaseException | None = None

    def done(self) -> bool:
        return self.reply is not None or self.error is not None

    def set_result(self, result: Reply, /) -> None:
        assert isinstance(result, ReadReply)
        self.reply = result

    def set_exception(self, exception: BaseException, /) -> None:
        self.error = exception


@dataclass
class CoreClient:
    """One client, connected to one engine at a time; it is its own port."""

    number: int
    world: World
    timeout_s: float = 1000.0
    outcomes: list[Outcome] = field(default_factory=list)
    engine: NodeId | None = None

    def __post_init__(self) -> None:
        self.core = ClientCore(timeout_s=self.timeout_s, wake=self._wake, find=lambda _: None)
        self.core.port = self
        self.route = Route(name="book", number=BOOK, space=SPACE, durability="sync")
        self._timer_s = NEVER

    def connect(self, engine: NodeId) -> None:
        self.engine = engine
        self.world.attach(self.number, engine, self._receive)
        welcome = Welcome(engine, 1, "world", "world", 1, [], [[SPACE, "sync"]])
        self.core.on_up(welcome, self.world.now_s)
        self._set_timer()

    def lost(self) -> None:
        """The connection is gone."""
        self.engine = None
        self.core.on_down("its engine died")

    def append(self, *tags: Tags, key: str | None = None, conditions: Conditions = ()) -> Outcome:
        """One unit with a record for each of `tags`; its data says which append it is."""
        datas = [f"{self.number}:{len(self.outcomes)}:{n}".encode() for n in range(len(tags))]
        outcome = Outcome(datas[0])
        self.outcomes.append(outcome)
        unit = Unit(
            datas=datas,
            tags=list(tags),
            conditions=conditions,
            key=None if key is None else (key, unit_digest(datas, list(tags))),
            session=self.core.session(None),
            waiter=outcome,
        )
        self.core.append_to(self.route, unit)
        return outcome

    def read(
        self, *, tag: str | None = None, start: int = 0, session: Session, wait_ms: int = 0
    ) -> Answer:
        """A page of at most 20 records, at the session's position."""
        answer, core = Answer(), self.core
        query = Read(
            *(core.requests.new_number(), SPACE, BOOK, tag, start, 2**53, 20, 1 << 20, False),
            *(session.position(SPACE), wait_ms, False, -1, -1),
        )
        request = Request(
            query,
            answer,
            session,
            deadline_s=self.world.now_s + self.timeout_s,
            timeout_s=self.timeout_s,
            wait_until_s=self.world.now_s + wait_ms / 1000 if wait_ms else 0.0,
        )
        core.ask(request, self.world.now_s)
        self._set_timer()
        return answer

    @property
    def waiting(self) -> bool:
        return not all(outcome.done() for outcome in self.outcomes)

    # --- the port ---------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        return self.engine is not None and self.world.send(self.number, self.engine, message)

    def flush(self) -> None:
        raise AssertionError("this shell has no turns to be over")

    def leave(self) -> None:
        raise AssertionError("engines of this simulation do not leave")

    def close(self) -> None:
        self.engine = None

    # --- the shell --------------------------------------------------------------------------------

    def _receive(self, message: Message) -> None:
        self.core.on_messages([message], self.world.now_s)
        self._set_timer()

    def _wake(self) -> None:
        self.world.later(0.0, self._flush)

    def _flush(self) -> None:
        self.core.flush(self.world.now_s)
        self._set_timer()

    def _set_timer(self) -> None:
        if self.core.wake_s < self._timer_s:
            self._timer_s = self.core.wake_s
            self.world.later(max(0.001, self._timer_s - self.world.now_s), self._tick)

    def _tick(self) -> None:
        self._timer_s = NEVER
        self.core.tick(self.world.now_s)
        self._set_timer()
