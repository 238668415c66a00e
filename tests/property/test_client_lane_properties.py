"""The client's core against a model engine, through refusals, losses and cut connections.

Whatever happens in whatever order: every caller is told once; what was acknowledged is ordered, in
the order in which it was issued; what failed definitely is never ordered; nothing is ordered twice,
with a key or without (P4, P23).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from bokilog.client import batching, room
from bokilog.client.books import Route
from bokilog.client.core import Book, ClientCore
from bokilog.client.port import Frames
from bokilog.client.session import Session
from bokilog.client.units import NEVER, Unit, unit_digest
from bokilog.columns import Tags
from bokilog.errors import BokilogError, ConditionFailed, Overloaded
from bokilog.messages import Message, Welcome
from bokilog.shared_records import SharedReader
from tests.unit.client.fake_engine import FakeEngine

BOOK = 5
TIMEOUT_S = 5.0


@dataclass(eq=False)
class Append:
    """An append and what its caller was told."""

    datas: list[bytes]
    key: str | None
    conditional: bool
    result: int | None = None
    error: BaseException | None = None

    def done(self) -> bool:
        return self.result is not None or self.error is not None

    def set_result(self, result: int, /) -> None:
        assert not self.done(), "told twice"
        self.result = result

    def set_exception(self, exception: BaseException, /) -> None:
        assert not self.done(), "told twice"
        self.error = exception


@dataclass
class World:
    """A core, an engine, and the clock between them."""

    engine: FakeEngine = field(default_factory=lambda: FakeEngine(answering=False))
    now_s: float = 0.0
    appends: list[Append] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = ClientCore(timeout_s=TIMEOUT_S, wake=lambda: None, find=lambda book: None)
        self.core.port = self.engine.attach(self)
        self.session = Session("h")
        self.book = Book("orders")
        route = Route(name="orders", number=BOOK, space=0, durability="sync")
        self.core.found(self.book, route)

    def on_up(self, welcome: Welcome) -> None:
        self.core.on_up(welcome, self.now_s)

    def on_shared(self, shared: SharedReader | None) -> None:
        raise AssertionError("its port is no connection")

    def on_down(self, reason: str, unsent: Frames = ()) -> None:
        self.core.on_down(reason, unsent)

    def on_messages(self, messages: list[Message]) -> None:
        self.core.on_messages(messages, self.now_s)

    def append(self, count: int, size: int, *, key: bool, conditional: bool, short: bool) -> None:
        number = len(self.appends)
        datas = [b"%d.%d" % (number, index) + bytes(size) for index in range(count)]
        append = Append(datas, f"k{number}" if key else None, conditional)
        self.appends.append(append)
        tags: list[Tags] = ["t"] * count
        plain = count == 1 and not key and not conditional and not short
        if plain and self.book.route is not None:
            lane = self.core.lane(0)
            lane.append(self.book.route, self.session, datas[0], "t", append)
            return
        unit = Unit(
            datas=datas,
            tags=tags,
            conditions=(("t", 0),) if conditional else (),
            key=(append.key, unit_digest(datas, tags)) if append.key else None,
            session=self.session,
            waiter=append,
            deadline_s=self.now_s + 1 if short else NEVER,
        )
        self.core.append(self.book, unit, self.now_s)

    def step(self, action: str, amount: int) -> None:
        engine = self.engine
        match action:
            case "flush":
                self.core.flush(self.now_s)
            case "answer":
                engine.answer(amount)
            case "refuse":
                engine.refusing = Overloaded(0.01) if amount % 2 else None
            case "lose":
                engine.losing = bool(amount % 2)
            case "cut" if engine.up:
                if amount % 2 and engine.inbox:  # it was taken, and the answer is lost
                    engine.handle(engine.inbox.popleft())
                engine.disconnect()
            case "connect" if not engine.up:
                engine.connect()
            case "wait":
                self.now_s += amount / 4
                self.core.tick(self.now_s)
            case _:
                pass  # it is up already, or down

    def settle(self) -> None:
        """Everything heals; then everybody has been told."""
        self.engine.refusing, self.engine.losing = None, False
        if not self.engine.up:
            self.engine.connect()
        for _ in range(50):
            self.core.flush(self.now_s)
            self.engine.answer()
            self.now_s += 0.05
            self.core.tick(self.now_s)

    def ordered(self) -> list[bytes]:
        return [record.data for record in self.engine.spaces[0].book(BOOK).records]


APPENDS = st.tuples(
    st.just("append"),
    st.tuples(st.integers(1, 3), st.sampled_from([0, 0, 40, 400]), *[st.booleans()] * 3),
)
STEPS = st.tuples(
    st.sampled_from(
        ["flush", "flush", "flush", "answer", "answer", "refuse", "lose", "cut", "connect", "wait"]
    ),
    st.integers(1, 4),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(APPENDS | STEPS, min_size=5, max_size=40))
def test_every_caller_is_told_the_truth_once(steps: list[tuple[str, object]]) -> None:
    with (
        patch.object(batching, "FRAME_BYTES_MAX", 600),
        patch.object(room, "INFLIGHT_RECORDS_MAX", 8),
    ):
        world = run(steps)
    ordered = world.ordered()
    assert len(set(ordered)) == len(ordered), "ordered twice"
    acknowledged = [append for append in world.appends if append.result is not None]
    for append in world.appends:
        assert append.done(), "never told"
        found = [data in ordered for data in append.datas]
        assert len(set(found)) == 1, "a unit is whole or absent"
        if append.result is not None:
            place = ordered.index(append.datas[0])
            assert ordered[place : place + len(append.datas)] == append.datas
        elif isinstance(append.error, BokilogError) and append.error.definite:
            assert not found[0], f"{append.error!r} was definite"
            assert append.conditional or not isinstance(append.error, ConditionFailed)
    keyless = [append.result for append in acknowledged if append.key is None]
    assert keyless == sorted(keyless, key=lambda seqnum: seqnum or 0)
    stats = world.core.stats()
    assert (stats.records_in_flight, stats.bytes_in_flight, stats.units_held) == (0, 0, 0)
    assert world.core.idle


def run(steps: list[tuple[str, object]]) -> World:
    world = World()
    for action, argument in steps:
        if isinstance(argument, tuple):
            count, size, key, conditional, short = argument
            world.append(count, size, key=key, conditional=conditional, short=short)
        elif isinstance(argument, int):
            world.step(action, argument)
    world.settle()
    return world
