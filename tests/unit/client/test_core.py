"""Units that wait for their LogBook to be found or created."""

from __future__ import annotations

from bokilog.client.core import ClientCore
from bokilog.errors import NodeUnreachable
from bokilog.messages import AppendFrame, Message, Welcome
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


def _nothing(_: object = None) -> None: ...
