"""Units that wait for their LogBook to be found or created."""

from __future__ import annotations

import gc

import pytest

from bokilog.client.core import ClientCore
from bokilog.errors import NodeUnreachable, Overloaded, to_wire
from bokilog.ids import Position, Term
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    AppendFrame,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    Message,
    Outcomes,
    Welcome,
)
from tests.unit.client.units import SPACE, Author, route

WELCOME = Welcome(
    cluster_id="c",
    history_id="h",
    term=1,
    node="engine-1",
    incarnation=1,
    positions=[],
    spaces=[[SPACE, "sync"]],
)


class Port:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        return True

    def flush(self) -> None: ...

    def leave(self) -> None: ...

    def close(self) -> None: ...


def test_units_that_wait_for_their_logbook_keep_their_order_when_earlier_ones_gave_up() -> None:
    """Simulator, seed 744."""
    core, port, author = ClientCore(timeout_s=9, wake=_nothing, find=_nothing), Port(), Author()
    core.port = port
    book = core.book("orders")
    core.append(book, author.unit(b"gives up", deadline_s=1.0), 0.0)
    core.append(book, author.unit(b"gives up, too", deadline_s=1.0), 0.0)
    core.append(book, author.unit(b"first"), 0.0)
    core.tick(1.0)
    assert [type(told.what) for told in author.told] == [NodeUnreachable] * 2 + [type(None)]
    core.append(book, author.unit(b"second"), 1.0)
    core.append(book, author.unit(b"third"), 1.0)
    core.on_up(WELCOME, 2.0)
    core.found(book, route())
    core.flush(2.0)
    frames = [message for message in port.sent if isinstance(message, AppendFrame)]
    assert [data for frame in frames for data in frame.payload] == [b"first", b"second", b"third"]


def test_a_refused_unit_of_a_deleted_logbook_is_not_overtaken_when_the_connection_ends() -> None:
    """1. Of two frames the second one is refused for now, and a third unit waits. 2. The LogBook of
    the first was deleted, and another one of its name is found. 3. The connection ends: the second
    leaves again, for the LogBook that is gone, and has to come back before the third may leave.
    """
    core, port, author = ClientCore(timeout_s=9, wake=_nothing, find=_nothing), Port(), Author()
    core.port = port
    core.on_up(WELCOME, 0.0)
    book, following = core.book("orders"), route(number=9)
    core.found(book, author.route)
    for data in (b"first", b"second"):
        core.append(book, author.unit(data), 0.0)
        core.flush(0.0)
    core.on_messages([FrameRefused(SPACE, 2, to_wire(Overloaded(0.5)))], 0.1)
    core.append(book, author.unit(b"third"), 0.1)
    core.flush(0.1)
    core.on_messages(gone(1), 0.2)
    core.found(book, following)
    core.on_down("it was killed")
    port.sent.clear()
    core.on_up(WELCOME, 0.3)
    assert appended(port) == [(7, b"second")]
    (frame,) = port.sent
    assert isinstance(frame, AppendFrame)
    core.on_messages(gone(frame.number), 0.4)
    core.found(book, following)
    core.flush(0.5)
    core.append(book, author.unit(b"fourth"), 0.6)
    core.flush(0.6)
    assert appended(port)[1:] == [(9, b"first"), (9, b"second"), (9, b"third"), (9, b"fourth")]


def test_units_that_are_held_though_their_logbook_is_known_are_let_go_when_it_is_found() -> None:
    core, author = ClientCore(timeout_s=9, wake=_nothing, find=_nothing), Author()
    core.port = port = Port()
    core.on_up(WELCOME, 0.0)
    book = core.book("orders")
    core.found(book, author.route)
    core._hold(book, author.unit(b"held"), order=book.next_place(), now_s=0.0)
    core.found(book, route(number=author.route.number))
    core.flush(0.1)
    assert appended(port) == [(7, b"held")]
    assert book.held == [] and book.route is author.route


@pytest.mark.parametrize("held", [True, False])
def test_a_name_has_one_logbook_for_as_long_as_anything_uses_it(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of one name would find the next incarnation one after the other: what is appended later
    could go there before what its deletion brings back."""
    monkeypatch.setattr("bokilog.client.core.BOOKS_MAX", 3)
    core, port, author = ClientCore(timeout_s=9, wake=_nothing, find=_nothing), Port(), Author()
    core.port = port
    core.on_up(WELCOME, 0.0)
    core.found(core.book("orders"), author.route)
    handle = core.book("orders") if held else None
    core.append(core.book("orders"), author.unit(b"first"), 0.0)
    core.flush(0.0)
    for number in range(9):
        name = f"another {number}"
        core.found(core.book(name), route(name, number=100 + number))
    gc.collect()
    later = handle or core.book("orders")
    assert later.route is author.route, "neither a handle's nor one with a frame under way"
    core.on_messages(gone(1), 0.1)
    core.append(later, author.unit(b"second"), 0.1)
    port.sent.clear()
    core.found(later, route(number=9))
    core.flush(0.2)
    assert appended(port) == [(9, b"first"), (9, b"second")]


def test_so_many_names_are_remembered_and_those_used_last_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bokilog.client.core.BOOKS_MAX", 3)
    core = ClientCore(timeout_s=9, wake=_nothing, find=_nothing)
    for name in ("old", "used", "third"):
        core.found(core.book(name), route(name))
    core.book("used")
    core.book("new")
    gc.collect()
    assert core.book("used").route and core.book("third").route
    assert core.book("old").route is None
    gc.collect()
    assert len(core._books) == len(core._remembered) == 3, "and new has made room for it"


def gone(number: int) -> list[Message]:
    """The frame was ordered after its LogBook's deletion."""
    at = Position(Term(1), number)
    void: Outcomes = [[0, VERDICT_BOOK_DELETED, None, None]]
    return [FrameVerdicts(SPACE, number, at, void), FrameOrdered(SPACE, number, 10, at, 1_000)]


def appended(port: Port) -> list[tuple[object, bytes]]:
    """LogBook and data of all that was sent."""
    frames = [message for message in port.sent if isinstance(message, AppendFrame)]
    return [(frame.columns.books, bytes(data)) for frame in frames for data in frame.payload]


def _nothing(_: object = None) -> None: ...
