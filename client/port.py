"""What the client needs of whatever carries its messages to an engine, and what it is told back.

Decides nothing. Two implementations exist: `connect.py` over a socket, and the embedded shape,
which hands messages over by reference in the same loop. Both keep these rules:

- `send` either takes the message whole and in order (True) or not at all (False). What was taken
  may still be lost if the engine goes down; the client is told by `on_down`.
- Ups and downs alternate, an up first. After a down nothing sent before it will be answered.
- A down may name frames that certainly never left this process; of all others nobody knows.
- `on_messages` may be called from inside `send`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bokilog.messages import Message, Welcome

if TYPE_CHECKING:
    from bokilog.shared_records import SharedReader  # a log in this process needs none

Frames: TypeAlias = Sequence[tuple[int, int]]
"""(log space, frame number) of each."""


class Port(Protocol):
    """The way to one engine at a time."""

    def send(self, message: Message) -> bool:
        """Hand over a message; False while there is no engine, and then nothing was kept."""
        ...

    def flush(self) -> None:
        """What was sent so far leaves now, and not only when this turn of the loop is over."""
        ...

    def leave(self) -> None:
        """End the connection to this engine and go to the next one; `on_down` follows."""
        ...

    def close(self) -> None:
        """Let go of the engine; no callback follows."""
        ...


class Events(Protocol):
    """What a port calls; the client's node is one."""

    def on_up(self, welcome: Welcome) -> None:
        """An engine answered; from now on `send` works."""
        ...

    def on_shared(self, shared: SharedReader | None) -> None:
        """Memory of this engine that records are read from without a message; None: no more."""
        ...

    def on_messages(self, messages: list[Message]) -> None:
        """Everything that arrived at once."""
        ...

    def on_down(self, reason: str, unsent: Frames = ()) -> None:
        """The engine is gone; `reason` ends a sentence for people.

        Args:
            unsent: append frames that were taken by `send` and never left, in that order.
        """
        ...
